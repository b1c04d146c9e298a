"""Records as text: JSON, JSON lines, CSV, and tables aligned by spaces."""

import csv
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from resnet_infer.errors import UsageError, escaped
from resnet_infer.files import json_text, utf8

Format = Literal["table", "json", "jsonl", "csv"]


def check_format(name: str) -> Format:
    """The format of this name; raises UsageError."""
    if name not in get_args(Format):
        raise UsageError(f"format '{name}' is not one of {', '.join(get_args(Format))}")
    return name  # type: ignore[return-value]


def as_json(value: Any) -> str:
    """Indented JSON."""
    return json_text(value, indent=2)


def as_json_lines(records: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "\n".join(map(json_text, records))


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """A header and one line a record; every column that any record has; lists as JSON.

    Names stay as they are, also those that a spreadsheet takes for a formula: import such columns as text.
    """
    columns = list(dict.fromkeys(key for record in records for key in record))
    lines = _Lines()
    writer = csv.DictWriter(lines, columns, restval="", lineterminator="\r\n")  # so that \r and \n are quoted
    writer.writeheader()
    for record in records:
        writer.writerow({key: _cell(value) for key, value in record.items()})
    return "\n".join(lines)


class _Lines(list[str]):
    """Lines without their ends."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n"))


def _cell(value: Any) -> Any:
    return (
        utf8(value) if isinstance(value, str) else json_text(value) if isinstance(value, (list, tuple, dict)) else value
    )


def as_table(header: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns aligned by spaces, those numbered in `right` to the right; readable when piped, too.

    A cell is one line, with its control characters escaped.
    """
    header, lines = list(map(escaped, header)), [list(map(escaped, line)) for line in lines]
    widths = [max(len(row[i]) for row in (header, *lines)) for i in range(len(header))]
    rows = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in (header, *lines)
    ]
    return "\n".join(row.rstrip() for row in rows)
