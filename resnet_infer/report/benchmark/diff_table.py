"""Runs of a benchmark against the first: in a terminal of 80 columns, and as records."""

from collections.abc import Sequence
from typing import Any

from resnet_infer.bench.rows import BenchRow, BenchRun
from resnet_infer.report import quantities as q
from resnet_infer.report.benchmark import selection
from resnet_infer.report.benchmark.diff import RULE, Change, RunComparison, differences
from resnet_infer.report.benchmark.table import Column, grouped_lines, shared_line, where, wrapped


def comparison_table(name: str, first: BenchRun, comparisons: Sequence[RunComparison]) -> str:
    """The runs one after another, each against `first`, which is called `name`."""
    parts = [wrapped(f"{name}: {selection.hardware(first)}, {first.started}")]
    for comparison in comparisons:
        parts += ["", *_one(name, first, comparison)]
    return "\n".join([*parts, "", wrapped(RULE)])


def verdicts(comparison: RunComparison) -> str:
    """How many rows have which verdict, and the mean ratio: `3 faster, 40 within noise; 1.04× on average`."""
    counts = [
        f"{number} {verdict}"
        for verdict in ("faster", "slower", "within noise", "too few repeats")
        if (number := comparison.count(verdict))
    ]
    if not counts:
        return "no row was measured in both"
    return f"{', '.join(counts)}; {q.multiple(comparison.mean_ratio)} as fast on average (geometric mean)"


def only(row: BenchRow, other: BenchRun) -> str:
    """A row that one run alone measured, and why the other did not where it says so."""
    error = next((each.error for each in other.rows if each.key() == row.key() and each.error), "")
    return where(row) + (f" (failed in the other: {error})" if error else "")


def records(comparisons: Sequence[RunComparison]) -> list[dict[str, Any]]:
    """A record for every row of every run: the two rates and the verdict, or the one rate that there is."""
    found = []
    for comparison in comparisons:
        found += [_record(comparison, change.first, change) for change in comparison.changes]
        found += [_record(comparison, row, None, first=row) for row in comparison.only_first]
        found += [_record(comparison, row, None, other=row) for row in comparison.only_other]
    return found


def _record(
    comparison: RunComparison,
    row: BenchRow,
    change: Change | None,
    *,
    first: BenchRow | None = None,
    other: BenchRow | None = None,
) -> dict[str, Any]:
    first, other = (change.first, change.other) if change else (first, other)
    return {
        "run": comparison.name,
        "model": row.model,
        "backend": row.backend,
        "precision": row.precision,
        "options": row.options,
        "protocol": row.protocol,
        "measurement": row.measurement,
        "batch_size_asked": selection.asked(row),
        "first_images_per_s": first.images_per_s if first else None,
        "images_per_s": other.images_per_s if other else None,
        "ratio": change.ratio if change else None,
        "p_value": change.p_value if change else None,
        "verdict": change.verdict if change else "only in the first" if first else "only in this",
    }


def _one(name: str, first: BenchRun, comparison: RunComparison) -> list[str]:
    run = comparison.run
    parts = [wrapped(f"{comparison.name}: {selection.hardware(run)}, {run.started}")]
    parts += [wrapped(f"  {what}: {a or 'none'} -> {b or 'none'}") for what, a, b in differences(first, run)]
    parts.append(wrapped(verdicts(comparison)))
    if rows := [change.first for change in comparison.changes]:
        by_row = {id(change.first): change for change in comparison.changes}
        figures: tuple[Column, ...] = (
            ("batch", lambda row: str(selection.asked(row)), True),
            ("first", lambda row: q.rate(row.images_per_s), True),
            ("this", lambda row: q.rate(by_row[id(row)].other.images_per_s), True),
            ("ratio", lambda row: f"{by_row[id(row)].ratio:.3f}", True),
            ("", lambda row: by_row[id(row)].verdict, False),
        )
        parts += ["", *shared_line(rows), "", grouped_lines(rows, figures)]
    parts += [wrapped(f"only in {name}: {only(row, run)}") for row in comparison.only_first]
    parts += [wrapped(f"only in {comparison.name}: {only(row, first)}") for row in comparison.only_other]
    return parts
