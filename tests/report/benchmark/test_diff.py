"""Two runs compared: the test of noise against counting every division, and rows matched by their keys."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from resnet_infer.bench.rows import BenchRow, BenchRun
from resnet_infer.report.benchmark.diff import compare_runs, differences, rank_sum_p
from resnet_infer.report.benchmark.diff_table import comparison_table, records

WAY = ("net", "torch", "fp32", "")


def brute_force(a: Sequence[float], b: Sequence[float]) -> float:
    """The share of all divisions of the pooled values whose rank sum is at least as far from its mean."""
    pooled = [*a, *b]
    ranks = [(sum(v < x for v in pooled) + sum(v <= x for v in pooled) + 1) / 2 for x in pooled]
    mean = len(a) * (len(pooled) + 1) / 2
    seen = abs(sum(ranks[: len(a)]) - mean)
    sums = [sum(ranks[i] for i in chosen) for chosen in combinations(range(len(pooled)), len(a))]
    return sum(abs(total - mean) >= seen for total in sums) / len(sums)


values = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=6)


@given(values, values)
def test_the_p_value_counts_every_division_ties_included(a: list[float], b: list[float]) -> None:
    assert rank_sum_p(a, b) == pytest.approx(brute_force(a, b), abs=1e-12)
    assert rank_sum_p(b, a) == pytest.approx(rank_sum_p(a, b), abs=1e-12)


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=24, unique=True), st.data())
def test_the_p_value_is_scipys_where_there_are_no_ties(pooled: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(pooled) - 1))
    expected = stats.mannwhitneyu(pooled[:cut], pooled[cut:], method="exact").pvalue
    assert rank_sum_p(pooled[:cut], pooled[cut:]) == pytest.approx(expected, rel=1e-9)


def test_a_side_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        rank_sum_p([], [1.0])


def of_rates(row: Callable[..., BenchRow], rates: Sequence[float], batch: int = 8, **changed: object) -> BenchRow:
    made = row(WAY, "single-crop", "network", batch, 100.0)
    median = sorted(rates)[len(rates) // 2]
    return replace(made, images=100, seconds=[100 / r for r in rates], images_per_s=median, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "other", "verdict"),
    [
        ((100, 101, 102, 103, 104), (105, 106, 107, 108, 109), "faster"),
        ((100, 101, 102, 103, 104), (95, 96, 97, 98, 99), "slower"),
        ((100, 101, 102, 103, 104), (103.5, 106, 107, 108, 109), "within noise"),  # one repeat is within the other's
        ((100, 101, 102), (200, 201, 202), "too few repeats"),
        ((100,), (200,), "too few repeats"),
    ],
)
def test_five_repeats_differ_only_where_they_do_not_overlap(
    row: Callable[..., BenchRow],
    run_with: Callable[..., BenchRun],
    first: Sequence[float],
    other: Sequence[float],
    verdict: str,
) -> None:
    (change,) = compare_runs(run_with([of_rates(row, first)]), "b", run_with([of_rates(row, other)])).changes
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(sorted(other)[len(other) // 2] / sorted(first)[len(first) // 2])


def test_of_252_equally_likely_orders_of_ten_repeats_two_count_as_a_difference(
    row: Callable[..., BenchRow], run_with: Callable[..., BenchRun]
) -> None:
    found = 0
    for chosen in combinations(range(10), 5):
        a, b = ([100.0 + i for i in range(10) if (i in chosen) is side] for side in (True, False))
        (change,) = compare_runs(run_with([of_rates(row, a)]), "b", run_with([of_rates(row, b)])).changes
        found += change.verdict in ("faster", "slower")
    assert found == 2


def test_rows_are_matched_by_key_and_the_last_of_a_key_counts(
    row: Callable[..., BenchRow], run_with: Callable[..., BenchRun]
) -> None:
    rates = (100.0, 101.0, 102.0, 103.0, 104.0)
    doubled, halved = [2 * r for r in rates], [r / 2 for r in rates]
    first = run_with(
        [of_rates(row, rates, 1), of_rates(row, rates, 8), of_rates(row, halved, 8), of_rates(row, rates, 16)]
    )
    failed = of_rates(row, rates, 16, error="no memory")
    shrunk = of_rates(row, doubled, 4, batch_size_asked=8)  # asked for 8, as the first's
    other = run_with([shrunk, failed, of_rates(row, rates, 32)])
    found = compare_runs(first, "b", other)
    (change,) = found.changes
    assert (change.first.images_per_s, change.other.images_per_s, change.ratio) == (51, 204, 4)
    assert [r.batch_size for r in found.only_first] == [1, 16]
    assert [r.batch_size for r in found.only_other] == [32]
    text = comparison_table("a", first, [found])
    assert "only in a: net, torch fp32, single-crop, network, batch 16 (failed in" in text
    assert "only in b: net, torch fp32, single-crop, network, batch 32" in text
    lines = records([found])
    assert [(line["batch_size_asked"], line["ratio"], line["verdict"]) for line in lines] == [
        (8, 4, "faster"), (1, None, "only in the first"), (16, None, "only in the first"), (32, None, "only in this"),
    ]  # fmt: skip


def test_the_mean_ratio_is_geometric(row: Callable[..., BenchRow], run_with: Callable[..., BenchRun]) -> None:
    rates = (100.0, 101.0, 102.0, 103.0, 104.0)
    first = run_with([of_rates(row, rates, batch) for batch in (1, 2, 4)])
    factors = {1: 2.0, 2: 0.5, 4: 1.25}
    other = run_with([of_rates(row, [f * r for r in rates], batch) for batch, f in factors.items()])
    found = compare_runs(first, "b", other)
    assert found.mean_ratio == pytest.approx(math.prod(factors.values()) ** (1 / 3))
    assert (found.count("faster"), found.count("slower"), found.count("within noise")) == (2, 1, 0)
    assert "2 faster, 1 slower; 1.08× as fast" in comparison_table("a", first, [found])


def test_the_comparison_of_a_large_run_fits_80_columns(large: BenchRun) -> None:
    long_name = max((row.model for row in large.rows), key=len)
    text = comparison_table("a.json", large, [compare_runs(large, "b.json", large)])
    assert [line for line in text.split("\n") if len(line) > 80 and long_name not in line] == []
    assert f"{len([row for row in large.rows if not row.error])} within noise; 1.00×" in text


def test_what_differs_between_the_machines_is_said(large: BenchRun, single: BenchRun) -> None:
    assert differences(large, large) == []
    changed = dict(large.environment) | {"python": "3.14.0", "packages": {"torch": "2.15.0"}}
    other = replace(large, environment=changed)
    assert differences(large, other) == [
        ("python", "3.12.4", "3.14.0"), ("resnet-infer", "0.1.0", ""), ("tensorrt", "10.13.2", ""),
    ]  # fmt: skip
    assert ("gpu name", "NVIDIA H200", "") in differences(large, single)
