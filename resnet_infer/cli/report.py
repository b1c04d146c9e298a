"""`resnet-infer report`: a benchmark's result as a table, a page or records, or several against the first."""

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli import options
from resnet_infer.errors import UsageError
from resnet_infer.report import text


def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT", help="Files or folders of `resnet-infer benchmark`; several are compared."),
    ],
    page: Annotated[
        Path | None,
        typer.Option("--page", "-o", help="Also write one HTML page that needs no other file.", metavar="HTML"),
    ] = None,
    format_name: options.FormatName = "table",
    verbose: options.Verbose = False,
) -> None:
    """Show what a benchmark measured; several results are compared with the first, row by row."""
    from resnet_infer.bench.rows import load_run
    from resnet_infer.console import emit, say, visible
    from resnet_infer.report.html import check_page, write_page

    form = format_name
    if page:
        check_page(page)
    files = [_file(path) for path in results]
    if len(set(files)) < len(files):
        raise UsageError(f"the same result is given twice: {', '.join(map(str, results))}")
    runs = [load_run(path) for path in files]
    names = _names(files)
    if len(runs) == 1:
        from resnet_infer.report.benchmark.files import printed
        from resnet_infer.report.benchmark.page import benchmark_page

        try:
            emit(printed(runs[0], form))
        finally:  # neither result depends on the other's being written
            if page:
                write_page(page, benchmark_page(runs[0]))
        return

    from resnet_infer.report.benchmark import diff_table
    from resnet_infer.report.benchmark.diff import compare_runs
    from resnet_infer.report.benchmark.diff_page import comparison_page

    first, *others = runs
    comparisons = [compare_runs(first, name, run) for name, run in zip(names[1:], others, strict=True)]
    records = diff_table.records(comparisons)
    try:
        if form == "table":
            say(diff_table.comparison_table(*visible((names[0], first, comparisons))))
        elif form == "json":
            emit(text.as_json({"first": names[0], "rows": records}))
        else:
            emit(text.as_json_lines(records) if form == "jsonl" else text.as_csv(records))
    finally:
        if page:
            write_page(page, comparison_page(names[0], first, comparisons))


def _file(path: Path) -> Path:
    return path / "benchmark.json" if path.is_dir() else path


def _names(files: list[Path]) -> list[str]:
    """File names where they differ, else paths."""
    return [path.name if len({each.name for each in files}) == len(files) else str(path) for path in files]
