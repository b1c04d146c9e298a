"""The sentences that stand first in every report: the best rate of each protocol, and on what it was measured."""

from collections.abc import Sequence

from resnet_infer.report import quantities as q
from resnet_infer.report import selection
from resnet_infer.report.measurements import BenchRun
from resnet_infer.report.selection import Best


def headlines(run: BenchRun) -> list[str]:
    """One sentence for every architecture, the first with the hardware."""
    bests = selection.bests(run.rows)
    where = selection.hardware(run)
    if not bests:
        what = f"all {q.counted(len(run.rows), 'row')} failed" if run.rows else "the run has no rows"
        return [f"Nothing was measured on {where}: {what}."]
    architectures = list(dict.fromkeys(best.architecture for best in bests))
    return [
        _sentence(f"{name} on {where}" if at == 0 else name, [best for best in bests if best.architecture == name])
        for at, name in enumerate(architectures)
    ]


def _sentence(what: str, bests: Sequence[Best]) -> str:
    parts = []
    if network := [f"{best.protocol} {q.rate(best.network.images_per_s)}" for best in bests if best.network]:
        parts.append(f"{', '.join(network)} images/s through the network alone")
    for measurement in selection.MEASUREMENTS[1:]:
        paths = [
            f"{best.protocol} {q.rate(best.path.images_per_s)}"
            for best in bests
            if best.path and best.path.measurement == measurement
        ]
        if paths:
            parts.append(f"{', '.join(paths)} images/s {selection.INSIDE[measurement]}")
    return f"{what}: {'; '.join(parts)}."


def troubles(run: BenchRun) -> str:
    """How many rows failed or warn, or nothing."""
    failed = len(selection.failed(run.rows))
    warned = sum(bool(row.warnings) for row in run.rows)
    parts = [f"{q.counted(failed, 'row')} failed"] * bool(failed)
    parts += [f"{q.counted(warned, 'row')} with warnings"] * bool(warned)
    return ", ".join(parts)
