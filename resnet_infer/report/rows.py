"""Typed results, with units in the names of their fields, and their form as JSON, JSON lines, CSV and a table."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from resnet_infer.errors import UsageError

Format = Literal["table", "json", "jsonl", "csv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """One model under one protocol on one data set. Errors are percentages in 0..100."""

    model: str
    architecture: str
    data: str
    protocol: str
    views: str
    """The protocol in plain words."""
    head: str
    backend: str
    device: str
    precision: str
    images: int
    """Images counted in the errors."""
    top1_errors: int
    top5_errors: int
    top1_err: float
    top5_err: float
    top1_err_ci95: tuple[float, float]
    """Wilson's 95 % interval of top1_err."""
    images_per_s: float
    """Files to scores, all protocols of the call together."""
    seconds: float
    unreadable: Sequence[Mapping[str, str]]
    """{"path", "error"} of every image that could not be read."""
    on_error: str
    resumed: int = 0
    """Images of the count that an earlier, interrupted evaluation had scored."""
    members: Sequence[Mapping[str, Any]] = ()
    """{"model", "weight"} of an ensemble's members."""
    metrics: Mapping[str, Any] | None = None
    """What `metrics.Metrics.to_dict` says, where it was asked for: calibration, classes, confusions."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; no members of a single model, and no metrics where none were counted."""
        values = asdict(self)
        for name in ("members", "metrics"):
            if not values[name]:
                del values[name]
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One image's best classes, or why there are none."""

    path: str
    model: str = ""
    protocol: str = ""
    backend: str = ""
    predictions: Sequence[Mapping[str, Any]] = ()
    """{"index", "label", "prob"}, best first; the label is None where the model does not know its class names."""
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The record of the result, or of the failure."""
        if self.error:
            return {"path": self.path, "error": self.error}
        values = asdict(self)
        del values["error"]
        return values


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
