"""The performance section of a README, from the results of benchmarks and from nothing else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from resnet_infer.bench.rows import BenchRow, BenchRun, Measurement
from resnet_infer.errors import DataError
from resnet_infer.report import quantities as q
from resnet_infer.report.benchmark import selection
from resnet_infer.report.benchmark.selection import Series, fastest, protocol_rank, series_of

BEGIN, END = "<!-- benchmark table: begin -->", "<!-- benchmark table: end -->"
NOTHING = "No result of `resnet-infer benchmark` is committed yet."


def benchmark_markdown(runs: Mapping[str, BenchRun]) -> str:
    """A table for every run; names are the links to the files, relative to the document."""
    return "\n\n".join(_run(link, run) for link, run in runs.items()) if runs else NOTHING


def with_section(document: str, section: str) -> str:
    """The document with `section` between the two markers. Raises DataError if they are not there once, in order."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise DataError(f"the document needs one line {BEGIN} and after it one line {END}")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{section}\n{END}{rest.split(END)[1]}"


def _run(link: str, run: BenchRun) -> str:
    rows = selection.measured(run.rows)
    opening = [
        f"On {_text(selection.hardware(run))}, {_text(run.started[:10])},",
        f"[{_text(PurePath(link).name)}]({_address(link)}), by",
        f"{_code(run.command)}:",
    ]
    if not rows:
        return "\n".join([*opening, "", f"nothing was measured: all {q.counted(len(run.rows), 'row')} failed."])
    tables = [_table(rows, measurement) for measurement in _shown(rows)]
    failed = len(selection.failed(run.rows))
    note = "Images per second, medians of the repeats, each at its best batch size"
    note += (
        ", which is in brackets with the share of the roof:\n"
        "what the machine allows this way of running, which is more for fewer kernels."
        if any(row.roof_fraction for row in rows)
        else ", which is in brackets."
    )
    ending = [note + (f" {q.counted(failed, 'row')} of the run failed." if failed else "")]
    return "\n".join([*opening, "", *_between(tables), "", *ending])


def _between(tables: Sequence[Sequence[str]]) -> Iterable[str]:
    for at, lines in enumerate(tables):
        yield from ([""] if at else [])
        yield from lines


def _shown(rows: Sequence[BenchRow]) -> list[Measurement]:
    """The network alone, and the longest path that was measured."""
    present = [name for name in selection.MEASUREMENTS if selection.of(rows, name)]
    return [present[0], *([present[-1]] if present[1:] else [])]


def _table(rows: Sequence[BenchRow], measurement: Measurement) -> list[str]:
    own = selection.of(rows, measurement)
    protocols = sorted({row.protocol for row in own}, key=protocol_rank)
    cells: dict[Series, list[str]] = {}
    for series, rows_of in selection.grouped(own, series_of).items():
        best = [fastest(row for row in rows_of if row.protocol == protocol) for protocol in protocols]
        cells[series] = [_cell(row) if row else "" for row in best]
    return [
        f"| {selection.INSIDE[measurement]} | runs on | {' | '.join(map(_text, protocols))} |",
        "|---|---|" + "--:|" * len(protocols),
        *(f"| {_model(series)} | {_text(series.way)} | {' | '.join(row)} |" for series, row in cells.items()),
    ]


def _model(series: Series) -> str:
    """The file's name in a table, where a bar would end the cell even within a code span."""
    return _code(PurePath(series.model).name).replace("|", "\\|")


def _cell(row: BenchRow) -> str:
    share = f", {q.percent(row.roof_fraction)}" if row.roof_fraction else ""
    return f"{q.rate(row.images_per_s)} ({row.batch_size}{share})"


def _code(text: str) -> str:
    """A code span, whatever backticks the text has."""
    if not (text := " ".join(text.split())):
        return ""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _text(text: str) -> str:
    """Plain text: what Markdown or HTML would read as markup is escaped."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", " ".join(text.split()))


def _address(link: str) -> str:
    return f"<{link}>" if re.search(r"[\s()]", link) else link
