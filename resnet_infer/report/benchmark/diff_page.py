"""Runs of a benchmark against the first as one HTML page: verdicts, what differs between the machines, every row."""

import math
from collections.abc import Sequence

from resnet_infer.bench.rows import BenchRow, BenchRun
from resnet_infer.report import quantities as q
from resnet_infer.report import svg
from resnet_infer.report.benchmark import selection
from resnet_infer.report.benchmark.charts import STYLE as CHART_STYLE
from resnet_infer.report.benchmark.diff import RULE, Change, RunComparison, differences
from resnet_infer.report.benchmark.diff_table import only, verdicts
from resnet_infer.report.benchmark.headline import headlines
from resnet_infer.report.benchmark.page import STYLE, ceilings_table, contents
from resnet_infer.report.benchmark.table import failures
from resnet_infer.report.html import Html, element, join, page, section, table

WIDEST = 2.0
"""At least this ratio at the ends of the bars."""

RATIO_STYLE = """
.ratios table { font-size: 13px }
.ratios td:first-child { min-width: 10rem }
.ratios .faster { color: var(--blue); font-weight: 600 }
.ratios .slower { color: var(--red); font-weight: 600 }
"""


def comparison_page(name: str, first: BenchRun, comparisons: Sequence[RunComparison]) -> str:
    """The page of these comparisons with `first`, which is called `name`."""
    sections = [(f"run{at}", each.name, _parts(name, first, each)) for at, each in enumerate(comparisons, 1)]
    sections.append(("runs", "The runs", _runs([(name, first), *((each.name, each.run) for each in comparisons)])))
    return page(
        f"Benchmarks against {name}",
        *(element("p", f"{each.name}: {verdicts(each)}.", kind="lead") for each in comparisons),
        element("p", RULE, kind="soft"),
        contents([(at, heading) for at, heading, _ in sections]),
        *(svg.shape("section", section(heading, *parts), id=at) for at, heading, parts in sections),
        style=svg.STYLE + CHART_STYLE + STYLE + RATIO_STYLE,
    )


def _parts(name: str, first: BenchRun, comparison: RunComparison) -> list[object]:
    parts: list[object] = []
    if lines := differences(first, comparison.run):
        changed = table(["", name, comparison.name], [[what, a or "none", b or "none"] for what, a, b in lines])
        parts.append(section("What differs between the machines", changed, level=3))
    if comparison.changes:
        widest = max([WIDEST, *(max(c.ratio, 1 / c.ratio) for c in comparison.changes)])
        rows = [change.first for change in comparison.changes]
        names = selection.labels([*rows, *(change.other for change in comparison.changes)])
        several = len({selection.architecture_of(row) for row in rows}) > 1
        bar = f"1/{widest:.3g} to {widest:.3g}"
        header = ["", "ratio", bar, "", "first, images/s", "this, images/s"]
        lines_of = [
            _line(change, names[selection.series_of(change.first)], several, widest) for change in comparison.changes
        ]
        ratios = element("div", table(header, lines_of, numbers=(1, 4, 5)), kind="ratios")
        parts.append(section("Rows of both", ratios, level=3))
    for heading, alone, other in (
        (f"Only in {name}", comparison.only_first, comparison.run),
        (f"Only in {comparison.name}", comparison.only_other, first),
    ):
        if alone:
            parts.append(section(heading, _list([only(row, other) for row in alone]), level=3))
    return parts


def _line(change: Change, label: str, several: bool, widest: float) -> list[object]:
    row = change.first
    what = f"{selection.architecture_of(row)} {row.protocol}" if several else row.protocol
    colour = {"faster": "blue", "slower": "red"}.get(change.verdict, "s7")
    end = 0.5 + 0.5 * math.log(change.ratio) / math.log(widest)
    kind = change.verdict if change.verdict in ("faster", "slower") else "soft"
    return [
        f"{what}, {row.measurement}, batch {selection.asked(row)}: {label}",
        f"{change.ratio:.3f}",
        svg.bar(end, colour, start=0.5),
        element("span", change.verdict, kind=kind),
        _rate(row),
        _rate(change.other),
    ]


def _rate(row: BenchRow) -> str:
    return f"{q.rate(row.images_per_s)} ± {row.cv_pct:.1f} %"


def _list(lines: Sequence[str]) -> Html:
    return element("ul", *(element("li", line) for line in lines), kind="list")


def _runs(runs: Sequence[tuple[str, BenchRun]]) -> list[object]:
    return [section(name, *_run(run), level=3) for name, run in runs]


def _run(run: BenchRun) -> list[object]:
    lines = [("started", run.started), ("hardware", selection.hardware(run))]
    lines += [*selection.facts({"data": run.data}), *selection.facts(run.environment)]
    failed = failures(run.rows)
    return [
        join([element("p", sentence) for sentence in headlines(run)]),
        element("pre", run.command),
        table(["", ""], [[name, value] for name, value in lines]),
        ceilings_table(run.ceilings) if run.ceilings else "",
        _list(failed) if failed else "",
    ]
