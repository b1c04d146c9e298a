"""Typed results with units in the names of their fields, and what was counted as rows: one a member and protocol."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from resnet_infer.errors import DataError

if TYPE_CHECKING:  # results are read where torch is not
    from resnet_infer.data.source import Source
    from resnet_infer.evaluation.ensemble import Ensemble
    from resnet_infer.evaluation.tally import Tally
    from resnet_infer.pipeline.score import Member
    from resnet_infer.spec.protocols import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """One model under one protocol on one data set. Errors are percentages in 0..100."""

    model: str
    architecture: str
    data: str
    protocol: str
    views: str
    """The protocol in plain words."""
    head: str
    backend: str
    device: str
    precision: str
    images: int
    """Images counted in the errors."""
    top1_errors: int
    top5_errors: int
    top1_err: float
    top5_err: float
    top1_err_ci95: tuple[float, float]
    """Wilson's 95 % interval of top1_err."""
    images_per_s: float
    """Files to scores, all protocols of the call together."""
    seconds: float
    unreadable: Sequence[Mapping[str, str]]
    """{"path", "error"} of every image that could not be read."""
    on_error: str
    decode_warnings: int | None = 0
    """Images that were scored though their decoder found them damaged; None where a GPU decoded, which does not say."""
    resumed: int = 0
    """Images of the count that an earlier, interrupted evaluation had scored."""
    members: Sequence[Mapping[str, Any]] = ()
    """{"model", "weight"} of an ensemble's members."""
    metrics: Mapping[str, Any] | None = None
    """What `metrics.Metrics.to_dict` says, where it was asked for: calibration, classes, confusions."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; no members of a single model, and no metrics where none were counted."""
        values = asdict(self)
        for name in ("members", "metrics"):
            if not values[name]:
                del values[name]
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassProbability:
    """One class of an image."""

    index: int
    label: str | None
    """None where the model does not know its class names."""
    prob: float
    """0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One image's best classes, or why there are none."""

    path: str
    model: str = ""
    protocol: str = ""
    backend: str = ""
    predictions: Sequence[ClassProbability] = ()
    """Best first."""
    warning: str = ""
    """What the decoder found wrong with an image that it decoded all the same."""
    error: str = ""

    @property
    def best(self) -> ClassProbability:
        """The most probable class; raises DataError for an image that could not be read."""
        if self.error:
            raise DataError(f"{self.path}: {self.error}")
        return self.predictions[0]

    def to_dict(self) -> dict[str, Any]:
        """The record of the result, or of the failure."""
        if self.error:
            return {"path": self.path, "error": self.error}
        values = asdict(self)
        del values["error"]
        if not self.warning:
            del values["warning"]
        return values


def rows_of(
    ensemble: "Ensemble",
    source: "Source",
    tallies: "Sequence[Tally]",
    name_of: Callable[[int], str | None],
    *,
    there: int,
    seconds: float,
    on_error: str,
    warns: bool,
) -> list[EvalRow]:
    """The rows in the order of the tallies; `there` images were counted from records, the others took `seconds`.

    `warns` says that images were decoded by what tells damage.
    """
    rows = []
    for what, tally in zip(_described(ensemble), tallies, strict=True):
        wrong = len(tally.unreadable) if on_error == "count-wrong" else 0
        images, top1, top5 = tally.images + wrong, tally.top1_errors + wrong, tally.top5_errors + wrong
        low, high = wilson_interval(top1, images)
        rows.append(
            EvalRow(
                **what,
                data=source.name,
                images=images,
                top1_errors=top1,
                top5_errors=top5,
                top1_err=round(100 * top1 / images, 4),
                top5_err=round(100 * top5 / images, 4),
                top1_err_ci95=(round(low, 4), round(high, 4)),
                images_per_s=round((images - there) / seconds, 2),
                seconds=round(seconds, 3),
                unreadable=[
                    {"path": source.samples[index].name, "error": error}
                    for index, error in sorted(tally.unreadable.items())
                ],
                on_error=on_error,
                decode_warnings=len(tally.warnings) if warns else None,
                resumed=there,
                metrics=tally.metrics.to_dict(name_of) if tally.metrics else None,
            )
        )
    return rows


def _described(ensemble: "Ensemble") -> Iterator[dict[str, Any]]:
    for member in ensemble.members:
        for protocol in member.protocols:
            yield _member(member, protocol)
    if not ensemble.averages:
        return
    for number in range(len(ensemble.members[0].protocols)):
        of = [_member(member, member.protocols[number]) for member in ensemble.members]
        joined = {key: _joined([what[key] for what in of]) for key in of[0] if key != "protocol"}
        weights = [round(weight, 6) for weight in ensemble.weights]
        yield joined | {
            "model": f"ensemble of {len(of)}",
            "protocol": of[0]["protocol"],
            "views": f"softmax of the {len(of)} models averaged, weights {', '.join(f'{w:g}' for w in weights)}",
            "members": [{"model": what["model"], "weight": weight} for what, weight in zip(of, weights, strict=True)],
        }


def _member(member: "Member", protocol: "Protocol") -> dict[str, Any]:
    info = member.model.backend.info
    return {
        "model": member.model.name,
        "architecture": member.model.manifest.spec.name,
        "protocol": protocol.name,
        "views": protocol.describe(),
        "head": protocol.head,
        "backend": info.name,
        "device": info.device,
        "precision": info.precision,
    }


def _joined(values: Sequence[str]) -> str:
    """`resnet20+resnet56`; one name where all are alike."""
    return "+".join(values) if len(set(values)) > 1 else values[0]


def wilson_interval(errors: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an error rate, in percent (Wilson 1927); honest near 0 and 100 and for few images."""
    z = 1.959963984540054
    rate = errors / images
    center = (rate + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(rate * (1 - rate) / images + z * z / (4 * images * images))
    return 100 * max(0.0, center - half), 100 * min(1.0, center + half)
