"""Runs of a benchmark against the first of them: rows of the same key, the ratio, and whether it is more than noise.

Noise is judged by the exact rank-sum test of the repeats (Wilcoxon 1945, Mann and Whitney 1947): if both runs were
equally fast, every order of their repeats would be equally likely. At five repeats each a difference counts only if
every repeat of one run is faster than every repeat of the other, which happens by chance in 2 of 252 orders. Repeats of
one run share its conditions, so what changes from run to run, as the clock or a neighbour, can pass for a difference.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from resnet_infer.bench.rows import BenchRow, BenchRun
from resnet_infer.report.benchmark import selection

SIGNIFICANCE = 0.01
"""A table of 60 rows has 0.6 false alarms."""

Verdict = Literal["faster", "slower", "within noise", "too few repeats"]

RULE = (
    f"Faster or slower: the repeats of the two runs differ in the exact rank-sum test at {100 * SIGNIFICANCE:.0f} %; "
    "with five repeats each, that is every repeat of one run beyond every repeat of the other. What differs from run "
    "to run, as the clock or a neighbour on the machine, is not in the repeats."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row that two runs measured."""

    first: BenchRow
    other: BenchRow
    ratio: float
    """The other's images/s over the first's."""
    p_value: float
    """How likely so large a difference is where there is none; 1 without repeats."""
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """One run against the first."""

    name: str
    run: BenchRun
    changes: Sequence[Change]
    only_first: Sequence[BenchRow]
    """Measured in the first run; not in the other, or it failed there."""
    only_other: Sequence[BenchRow]

    @property
    def mean_ratio(self) -> float:
        """Geometric mean of the ratios; 0 without any."""
        return math.exp(sum(math.log(c.ratio) for c in self.changes) / len(self.changes)) if self.changes else 0.0

    def count(self, verdict: Verdict) -> int:
        """How many rows have it."""
        return sum(change.verdict == verdict for change in self.changes)


def compare_runs(first: BenchRun, name: str, other: BenchRun) -> RunComparison:
    """The rows of both; of rows with the same key in one run the last counts, as after `--resume`."""
    before, after = _by_key(first), _by_key(other)
    return RunComparison(
        name=name,
        run=other,
        changes=[_change(row, after[key]) for key, row in before.items() if key in after],
        only_first=[row for key, row in before.items() if key not in after],
        only_other=[row for key, row in after.items() if key not in before],
    )


def differences(first: BenchRun, other: BenchRun) -> list[tuple[str, str, str]]:
    """Where the environments and the data differ: what, in the first, in the other."""
    before, after = (dict(_conditions(run)) for run in (first, other))
    return [
        (name, before.get(name, ""), after.get(name, ""))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def rank_sum_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p value of the exact rank-sum test: the share of all divisions at least as uneven; ties share ranks.

    Raises ValueError if a side is empty.
    """
    if not a or not b:
        raise ValueError("both sides need values")
    pooled = sorted([*a, *b])
    doubled = tuple(pooled.index(v) + len(pooled) - 1 - pooled[::-1].index(v) + 2 for v in pooled)
    rank = dict(zip(pooled, doubled, strict=True))
    expected = len(a) * (len(pooled) + 1)
    uneven = abs(sum(rank[value] for value in a) - expected)
    ways = _rank_sums(doubled, len(a))
    extreme = sum(count for total, count in ways.items() if abs(total - expected) >= uneven)
    return extreme / math.comb(len(pooled), len(a))


@lru_cache(maxsize=64)
def _rank_sums(ranks: tuple[int, ...], size: int) -> dict[int, int]:
    """How many subsets of `size` of these ranks have each sum."""
    ways: list[dict[int, int]] = [{0: 1}] + [{} for _ in range(size)]
    for rank in ranks:
        for taken in range(size, 0, -1):
            for total, count in ways[taken - 1].items():
                ways[taken][total + rank] = ways[taken].get(total + rank, 0) + count
    return ways[size]


def _change(first: BenchRow, other: BenchRow) -> Change:
    ratio = other.images_per_s / first.images_per_s
    a, b = _rates(first), _rates(other)
    p_value = rank_sum_p(a, b) if a and b else 1.0
    verdict: Verdict
    if 2 / math.comb(len(a) + len(b), len(a)) > SIGNIFICANCE:
        verdict = "too few repeats"
    elif p_value > SIGNIFICANCE:
        verdict = "within noise"
    else:
        verdict = "faster" if ratio > 1 else "slower"
    return Change(first=first, other=other, ratio=ratio, p_value=p_value, verdict=verdict)


def _rates(row: BenchRow) -> list[float]:
    return [row.images / seconds for seconds in row.seconds if seconds > 0] if row.images else []


def _by_key(run: BenchRun) -> dict[tuple[str, ...], BenchRow]:
    return {row.key(): row for row in selection.measured(run.rows)}


def _conditions(run: BenchRun) -> Iterable[tuple[str, str]]:
    yield "hardware", selection.hardware(run)
    yield from (line for line in selection.facts(run.environment) if line[0] not in ("cpu", "cores"))
    yield from selection.facts({"data": run.data})
