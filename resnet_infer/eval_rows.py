"""What was counted as the rows of an evaluation: one for every member and protocol, and for their ensemble."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from resnet_infer.data.sources import Source
from resnet_infer.ensemble import Ensemble
from resnet_infer.protocols import Protocol
from resnet_infer.report.rows import EvalRow
from resnet_infer.score import Member
from resnet_infer.tally import Tally, wilson_interval


def rows_of(
    ensemble: Ensemble,
    source: Source,
    tallies: Sequence[Tally],
    name_of: Callable[[int], str | None],
    *,
    there: int,
    seconds: float,
    on_error: str,
) -> list[EvalRow]:
    """The rows in the order of the tallies; `there` images were counted from records, the others took `seconds`."""
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
                resumed=there,
                metrics=tally.metrics.to_dict(name_of) if tally.metrics else None,
            )
        )
    return rows


def _described(ensemble: Ensemble) -> Iterator[dict[str, Any]]:
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


def _member(member: Member, protocol: Protocol) -> dict[str, Any]:
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
