"""Records as text: JSON, JSON lines, CSV, and tables aligned by spaces."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from resnet_infer.errors import UsageError

Format = Literal["table", "json", "jsonl", "csv"]


def check_format(name: str) -> Format:
    """The format of this name; raises UsageError."""
    if name not in get_args(Format):
        raise UsageError(f"format '{name}' is not one of {', '.join(get_args(Format))}")
    return name  # type: ignore[return-value]


def as_json(value: Any) -> str:
    """Indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def as_json_lines(records: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records)


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """A header and one line a record; every column that any record has; lists as JSON."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: json.dumps(v) if isinstance(v, (list, tuple, dict)) else v for k, v in record.items()})
    return text.getvalue().rstrip("\n")


def as_table(header: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns aligned by spaces, those numbered in `right` to the right; readable when piped, too."""
    widths = [max(len(row[i]) for row in (header, *lines)) for i in range(len(header))]
    rows = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in (header, *lines)
    ]
    return "\n".join(row.rstrip() for row in rows)
