"""The sentences that stand first in every report: the best rate of each protocol, and on what it was measured."""

from collections.abc import Sequence

from resnet_infer.bench.rows import BenchRun
from resnet_infer.report import quantities as q
from resnet_infer.report.benchmark import selection
from resnet_infer.report.benchmark.selection import Best

MOST_SENTENCES = 2


def headlines(run: BenchRun) -> list[str]:
    """A sentence for every architecture, the first with the hardware; of more than two, one with the ranges."""
    bests = selection.bests(run.rows)
    where = selection.hardware(run)
    if not bests:
        what = f"all {q.counted(len(run.rows), 'row')} failed" if run.rows else "the run has no rows"
        return [f"Nothing was measured on {where}: {what}."]
    architectures = list(dict.fromkeys(best.architecture for best in bests))
    if len(architectures) > MOST_SENTENCES:
        return [_sentence(f"{len(architectures)} architectures on {where}", bests)]
    return [
        _sentence(f"{name} on {where}" if at == 0 else name, [best for best in bests if best.architecture == name])
        for at, name in enumerate(architectures)
    ]


def _sentence(what: str, bests: Sequence[Best]) -> str:
    parts = []
    for measurement in selection.MEASUREMENTS:
        rates: dict[str, list[tuple[float, str]]] = {}
        for best in bests:
            row = best.network if measurement == "network" else best.path
            if row and row.measurement == measurement:
                rates.setdefault(best.protocol, []).append((row.images_per_s, best.architecture))
        inside = "through the network alone" if measurement == "network" else selection.INSIDE[measurement]
        if rates:
            parts.append(f"{', '.join(f'{name} {_range(found)}' for name, found in rates.items())} images/s {inside}")
    return f"{what}: {'; '.join(parts)}."


def _range(rates: Sequence[tuple[float, str]]) -> str:
    """`2,203`, or `120.0 (resnet152) to 480.0 (resnet18)` of several architectures."""
    if len(rates) == 1:
        return q.rate(rates[0][0])
    return " to ".join(f"{q.rate(rate)} ({architecture})" for rate, architecture in (min(rates), max(rates)))


def troubles(run: BenchRun) -> str:
    """How many rows failed or warn, or nothing."""
    failed = len(selection.failed(run.rows))
    warned = sum(bool(row.warnings) for row in run.rows)
    parts = [f"{q.counted(failed, 'row')} failed"] * bool(failed)
    parts += [f"{q.counted(warned, 'row')} with warnings"] * bool(warned)
    return ", ".join(parts)
