"""A benchmark as CSV: one line a row of plain numbers, the raw repeats and shapes as JSON."""

from dataclasses import asdict, fields
from typing import Any

from resnet_infer.bench.rows import BenchRow, BenchRun
from resnet_infer.report import text
from resnet_infer.report.benchmark.selection import hardware

PERCENTILES = ("p50", "p90", "p95", "p99")


def benchmark_csv(run: BenchRun) -> str:
    """A header and a line for every row; without rows, the header alone."""
    lines = text.as_csv(records(run) or [record(_NOTHING, run)])
    return lines if run.rows else lines.splitlines()[0]


def records(run: BenchRun) -> list[dict[str, Any]]:
    """Flat records of the rows; where and when the run was made is in each, so that files can be put together."""
    return [record(row, run) for row in run.rows]


def record(row: BenchRow, run: BenchRun) -> dict[str, Any]:
    """One row: lists stay lists, what has several named values is a column for each."""
    flat: dict[str, Any] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name == "latency_ms":
            flat |= {f"latency_ms_{name}": value.get(name, "") for name in PERCENTILES}
        elif field.name == "top1_err_ci95":
            flat["top1_err_ci95_low"], flat["top1_err_ci95_high"] = value or ("", "")
        elif field.name == "shapes":
            flat["shapes"] = [asdict(shape) for shape in value]
        else:
            flat[field.name] = list(value) if isinstance(value, (list, tuple)) else "" if value is None else value
    return flat | {"hardware": hardware(run), "started": run.started}


_NOTHING = BenchRow(model="", backend="", precision="", protocol="", measurement="network", batch_size=0)
