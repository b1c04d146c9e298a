"""A benchmark's result for a user: what is printed of it, and the files beside benchmark.json."""

from pathlib import Path

from resnet_infer.bench.rows import BenchRun
from resnet_infer.console import visible
from resnet_infer.report import text
from resnet_infer.report.benchmark import csv_file
from resnet_infer.report.benchmark.page import benchmark_page
from resnet_infer.report.benchmark.table import benchmark_table
from resnet_infer.report.html import write_page
from resnet_infer.report.text import Format


def printed(run: BenchRun, form: Format) -> str:
    """The run in this format; its JSON is the file's."""
    if form == "table":
        return benchmark_table(visible(run))
    if form == "json":
        return run.to_json()
    return csv_file.benchmark_csv(run) if form == "csv" else text.as_json_lines(csv_file.records(run))


def write_files(run: BenchRun, folder: Path, name: str = "benchmark") -> list[Path]:
    """Write NAME.json, NAME.csv and NAME.html into this folder, each whole or not at all; gives their paths."""
    json, csv, html = (folder / f"{name}.{suffix}" for suffix in ("json", "csv", "html"))
    run.save(json)
    write_page(csv, csv_file.benchmark_csv(run) + "\n")
    write_page(html, benchmark_page(run))
    return [json, csv, html]
