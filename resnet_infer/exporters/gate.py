"""The accuracy gate: an export is promoted only if it classifies as its reference does, on images the user chose."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_infer.backends.load import Model
from resnet_infer.data.source import Source
from resnet_infer.errors import GateError, UsageError
from resnet_infer.evaluation.agreement import Agreement, measure_agreement
from resnet_infer.files import replacing
from resnet_infer.spec.protocols import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What an export has to hold."""

    data: Source
    protocol: Protocol
    max_top1_drop: float = 0.5
    """Points of top-1 error it may make more than the reference; not checked where the images have no classes."""
    min_agreement: float = 0.99
    """Share of images whose best class must be the reference's, 0..1."""
    target: Path | None = None
    """What the user asked for, if the gated file is on its way into something else; a failing report goes beside it."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_agreement <= 1:
            raise UsageError(f"--min-agreement is a share of images, 0..1; got {self.min_agreement:g}")
        if not 0 <= self.max_top1_drop <= 100:
            raise UsageError(f"--max-top1-drop is in points of error, 0..100; got {self.max_top1_drop:g}")

    def failures(self, measured: Agreement) -> list[str]:
        """What the candidate does not hold, in words."""
        found = []
        if measured.top1_agreement < self.min_agreement:
            found.append(
                f"best class agrees on {100 * measured.top1_agreement:.2f} % of images, "
                f"{100 * self.min_agreement:.2f} % are needed"
            )
        if measured.top1_drop is not None and measured.top1_drop > self.max_top1_drop:
            found.append(
                f"top-1 error is {measured.top1_drop:.2f} points higher ({measured.candidate_errors} errors, "
                f"{measured.reference_errors} of the reference), {self.max_top1_drop:.2f} are allowed"
            )
        return found


def run_gate(
    gate: Gate,
    reference: Model,
    candidate: Model,
    path: Path,
    *,
    advance: Callable[[float], None] = lambda images: None,
) -> dict[str, Any]:
    """Compare the two and return the report for the manifest.

    Raises GateError if the candidate fails; the report is then in `PATH.gate.json`, beside the file that was not
    promoted. A report of an earlier failure is removed by a pass.
    """
    measured = measure_agreement(reference, candidate, gate.protocol, gate.data, advance=advance)
    failures = gate.failures(measured)
    report = {
        "passed": not failures,
        "failures": failures,
        "data": gate.data.name,
        "protocol": gate.protocol.name,
        "views": gate.protocol.describe(),
        "reference": _ran(reference),
        "candidate": _ran(candidate),
        "max_top1_drop": gate.max_top1_drop,
        "min_agreement": gate.min_agreement,
    } | measured.to_dict()
    target = gate.target or path
    beside = target.with_name(f"{target.name}.gate.json")
    if not failures:
        beside.unlink(missing_ok=True)
        return report
    with replacing(beside) as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    raise GateError(f"{target}: not written: {'; '.join(failures)}. The report is in {beside}")


def _ran(model: Model) -> str:
    info = model.backend.info
    return f"{model.name} ({info.precision}, {info.name}, {info.device})"
