"""A benchmark in a terminal of 80 columns, or in a pipe: what all rows share once, then a line a row."""

import re
import textwrap
from collections.abc import Callable, Sequence

from resnet_infer.bench.rows import BenchRow, BenchRun
from resnet_infer.report import quantities as q
from resnet_infer.report.benchmark import selection
from resnet_infer.report.benchmark.headline import troubles
from resnet_infer.report.text import as_table

COLUMNS = 80
NUMBER = re.compile(r"\d+(?:\.\d+)?")
GROUPINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("model",),
    ("model", "device"),
    ("model", "device", "options"),
    ("model", "device", "options", "backend", "precision"),
)
"""What is taken out of the lines and put over groups of them, until the lines fit."""
NAMES = ("model", "device", "backend", "precision", "options")

Column = tuple[str, Callable[[BenchRow], str], bool]
"""Its header, a row's cell, and whether it is set to the right."""

FIGURES: tuple[Column, ...] = (
    ("batch", selection.batch_text, True),
    ("images/s", lambda row: q.rate(row.images_per_s), True),
    ("± CV", lambda row: f"{row.cv_pct:.1f} %", True),
    ("p50/p99 ms", lambda row: _latency(row), True),
    ("of roof", lambda row: q.percent(row.roof_fraction) if row.roof_fraction else "", True),
)


def benchmark_table(run: BenchRun) -> str:
    """The measured rows, then failures and warnings."""
    rows = selection.measured(run.rows)
    parts = [wrapped(f"{selection.hardware(run)}; {_data(run)}")]
    if rows:
        parts += [*shared_line(rows), "", grouped_lines(rows, FIGURES)]
        parts += ["", *notes(rows)] if notes(rows) else []
    else:
        parts += shared_line(run.rows)
    unsaid = _shared(run.rows)
    listed = [*failures(run.rows, unsaid), *warnings(run.rows, unsaid)]
    if listed:
        parts += ["", f"{troubles(run)}:", *listed]
    return "\n".join(parts)


def shared_line(rows: Sequence[BenchRow]) -> list[str]:
    """What all of these rows share: `resnet50, torch bf16 on cuda`; no line if it is nothing."""
    return [wrapped(said)] if rows and (said := _named(rows[0], _shared(rows))) else []


def grouped_lines(rows: Sequence[BenchRow], figures: Sequence[Column]) -> str:
    """A table of the rows in groups, each under a line with what its rows alone share."""
    varying = [name for name in NAMES if name not in _shared(rows)]
    for grouping in GROUPINGS:
        over = [name for name in varying if name in grouping]
        columns: list[Column] = [
            ("protocol", lambda row: row.protocol, False),
            ("measurement", lambda row: row.measurement, False),
            *((name, _value(name), False) for name in varying if name not in over),
            *figures,
        ]
        columns = [column for column in columns if any(column[1](row) for row in rows)]
        groups = selection.grouped(rows, lambda row, over=over: tuple(getattr(row, name) for name in over))  # type: ignore[misc]
        ordered = [row for own in groups.values() for row in own]
        cells = [[text(row) for _, text, _ in columns] for row in ordered]
        right = [at for at, column in enumerate(columns) if column[2]]
        header, *lines = as_table([column[0] for column in columns], cells, right).split("\n")
        if max(map(len, (header, *lines))) <= COLUMNS:
            break
    if not over:
        return "\n".join([header, *lines])
    parts = [header]
    for own in groups.values():
        parts += ["", wrapped(_named(own[0], over))]
        parts += [lines.pop(0) for _ in own]
    return "\n".join(parts)


def failures(rows: Sequence[BenchRow], unsaid: Sequence[str] = ()) -> list[str]:
    """A line for every row that failed; without the fields `unsaid`, which are plain from elsewhere."""
    return [wrapped(f"failed: {where(row, unsaid)}: {row.error or 'no rate'}") for row in selection.failed(rows)]


def warnings(rows: Sequence[BenchRow], unsaid: Sequence[str] = ()) -> list[str]:
    """A line for every warning; those that differ in their numbers only are one, with the range of each number."""
    found: dict[str, list[tuple[BenchRow, list[str]]]] = {}
    for row in rows:
        for warning in row.warnings:
            found.setdefault(NUMBER.sub("\0", warning), []).append((row, NUMBER.findall(warning)))
    lines = []
    for template, own in found.items():
        ranges = iter([_range(values) for values in zip(*(numbers for _, numbers in own), strict=True)])
        text = re.sub("\0", lambda _, ranges=ranges: next(ranges), template)  # type: ignore[misc]
        count = f"{q.counted(len(own), 'row')}, first " if own[1:] else ""
        lines.append(wrapped(f"warning: {count}{where(own[0][0], unsaid)}: {text}"))
    return lines


def _range(values: Sequence[str]) -> str:
    low, high = min(values, key=float), max(values, key=float)
    return low if low == high else f"{low} to {high}"


def where(row: BenchRow, unsaid: Sequence[str] = ()) -> str:
    """A row in words, without the values of the fields `unsaid`."""
    named = _named(row, [name for name in NAMES if name not in unsaid and name != "device"])
    return ", ".join(filter(None, (named, row.protocol, row.measurement, f"batch {selection.batch_text(row)}")))


def notes(rows: Sequence[BenchRow]) -> list[str]:
    """What the columns mean, where it is not plain."""
    parts = ["± CV: coefficient of variation of the repeats"]
    if any(row.roof_fraction for row in rows):
        parts.append("of roof: of what the ceilings measured in the same run allow")
    if any(selection.asked(row) != row.batch_size for row in rows):
        parts.append("batch in brackets: asked for, halved until it fitted the memory")
    return [wrapped(part) for part in parts]


def wrapped(text: str) -> str:
    """Lines of at most 80 columns, continued ones set in; a name that is longer stays whole."""
    return textwrap.fill(
        " ".join(text.split()), COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _data(run: BenchRun) -> str:
    if not run.data.get("name"):
        return "random pixels"
    count = f", {q.counted(int(run.data['images']), 'image')}" if run.data.get("images") else ""
    return f"{run.data['name']}{count}"


def _shared(rows: Sequence[BenchRow]) -> list[str]:
    return [name for name in NAMES if len({getattr(row, name) for row in rows}) == 1] if rows else []


def _named(row: BenchRow, names: Sequence[str]) -> str:
    way = " ".join(str(getattr(row, name)) for name in ("backend", "precision", "options") if name in names).strip()
    device = f"on {row.device}" if "device" in names and row.device else ""
    how = " ".join(part for part in (way, device) if part)
    return ", ".join(part for part in (row.model if "model" in names else "", how) if part)


def _value(name: str) -> Callable[[BenchRow], str]:
    return lambda row: str(getattr(row, name))


def _latency(row: BenchRow) -> str:
    if not {"p50", "p99"} <= set(row.latency_ms):
        return ""
    return f"{q.milliseconds(row.latency_ms['p50'])}/{q.milliseconds(row.latency_ms['p99'])}"
