"""CSV, table and README section against figures worked out anew from the raw repeats; names that try to be markup."""

import csv
import io
import json
import os
import re
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from benchmarks.docs import ROOT, updated
from benchmarks.speed_section import BEGIN, END, NOTHING, benchmark_markdown, with_section
from resnet_infer.bench.rows import BenchRow, BenchRun, load_run
from resnet_infer.errors import DataError
from resnet_infer.report.benchmark.csv_file import benchmark_csv
from resnet_infer.report.benchmark.diff import compare_runs
from resnet_infer.report.benchmark.diff_page import comparison_page
from resnet_infer.report.benchmark.diff_table import comparison_table
from resnet_infer.report.benchmark.files import write_files
from resnet_infer.report.benchmark.page import benchmark_page
from resnet_infer.report.benchmark.table import benchmark_table


def rate(row: BenchRow) -> float:
    return statistics.median(row.images / seconds for seconds in row.seconds)


def near(text: str, value: float) -> bool:
    """Whether the text is the value to the digits that it shows."""
    digits = len(text.split(".")[1]) if "." in text else 0
    return abs(float(text.replace(",", "")) - value) <= 0.5001 * 10**-digits


def test_a_run_reads_back_as_it_was(tmp_path: Path, large: BenchRun, single: BenchRun, all_failed: BenchRun) -> None:
    for run in (large, single, all_failed):
        run.save(tmp_path / "run.json")
        read = load_run(tmp_path / "run.json")
        assert json.loads(read.to_json()) == json.loads(run.to_json())
        assert [row.key() for row in read.rows] == [row.key() for row in run.rows]
        assert [row.top1_err_ci95 for row in read.rows] == [row.top1_err_ci95 for row in run.rows]
        read.save(tmp_path / "again.json")
        assert load_run(tmp_path / "again.json") == read


def test_a_name_that_is_no_unicode_is_readable(tmp_path: Path, single: BenchRun) -> None:
    name = os.fsdecode(b"caf\xe9.onnx")
    named = replace(single, rows=[replace(row, model=name) for row in single.rows])
    write_files(named, tmp_path)
    assert load_run(tmp_path / "benchmark.json").rows[0].model == "caf\\udce9.onnx"  # as every tool can read it
    assert "caf\\udce9.onnx" in (tmp_path / "benchmark.html").read_text("utf-8")


def test_csv_holds_every_repeat(large: BenchRun) -> None:
    lines = list(csv.DictReader(io.StringIO(benchmark_csv(large) + "\n", newline="")))
    assert len(lines) == len(large.rows)
    for line, row in zip(lines, large.rows, strict=True):
        assert (line["model"], line["error"], line["batch_size"]) == (row.model, row.error, str(row.batch_size))
        assert line["hardware"] == "NVIDIA H200 with AMD EPYC 9654 96-Core Processor, 16 cores"
        repeats = json.loads(line["seconds"])
        assert repeats == list(row.seconds)
        assert json.loads(line["warnings"]) == list(row.warnings)
        assert json.loads(line["shapes"]) == [asdict(shape) for shape in row.shapes]
        if repeats:
            rates = [int(line["images"]) / each for each in repeats]
            assert float(line["images_per_s"]) == pytest.approx(statistics.median(rates))
        for name in ("p50", "p90", "p95", "p99"):
            assert line[f"latency_ms_{name}"] == str(row.latency_ms.get(name, ""))
        low, high = row.top1_err_ci95 or ("", "")
        assert (line["top1_err_ci95_low"], line["top1_err_ci95_high"]) == (str(low), str(high))


def test_the_files_are_written_whole_and_hold_the_run(tmp_path: Path, large: BenchRun) -> None:
    written = write_files(large, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert [path.name for path in written] == ["benchmark.json", "benchmark.csv", "benchmark.html"]
    assert json.loads(load_run(written[0]).to_json()) == json.loads(large.to_json())
    assert written[1].read_text("utf-8") == benchmark_csv(large) + "\n"
    assert written[2].read_text("utf-8") == benchmark_page(large)
    assert re.search(r"all cores at once</td>\s*<td[^>]*>9,876", benchmark_page(large))


def test_csv_of_no_rows_is_its_header(large: BenchRun) -> None:
    assert benchmark_csv(replace(large, rows=[])) == benchmark_csv(large).splitlines()[0]


def test_the_table_has_a_line_for_every_measured_row_within_80_columns(large: BenchRun) -> None:
    lines = benchmark_table(large).split("\n")
    long_name = max((row.model for row in large.rows), key=len)
    assert [line for line in lines if len(line) > 80 and long_name not in line] == []
    numbers = [
        line for line in lines if re.match(r"(single-crop|ten-crop|multiscale) +(network|transfer|memory|files) ", line)
    ]
    measured = [row for row in large.rows if not row.error]
    assert len(numbers) == len(measured)
    models = list(dict.fromkeys((r.model, r.backend, r.precision, r.options) for r in measured))
    ordered = [
        row for name in models for row in measured if (row.model, row.backend, row.precision, row.options) == name
    ]
    for line, row in zip(numbers, ordered, strict=True):
        halved = f" ({row.batch_size_asked})" if row.batch_size_asked != row.batch_size else ""
        found = re.fullmatch(
            rf"{row.protocol} +{row.measurement} +{row.batch_size}{re.escape(halved)} +([\d.,]+) +([\d.]+) % +"
            r"(?:([\d.,]+)/([\d.,]+) +)?([\d.]+) %",
            line,
        )
        assert found, line
        rates, cv, p50, p99, roof = found.groups()
        assert near(rates, rate(row))
        assert near(cv, row.cv_pct)
        assert near(roof, 100 * rate(row) / row.roof_images_per_s)
        if row.latency_ms:
            assert near(p50, row.latency_ms["p50"])
            assert near(p99, row.latency_ms["p99"])
        else:
            assert p50 is p99 is None


def test_failures_and_warnings_are_listed_below(large: BenchRun) -> None:
    text = " ".join(benchmark_table(large).split())
    table, below = text.split("3 rows failed, 3 rows with warnings:")
    for row in large.rows:
        for said in (row.error, *row.warnings):
            assert said not in table or not said
            assert said in below
    assert below.count("warning: ") == 2
    assert "warning: 2 rows, first checkpoints/2026" in below  # two have the same


def test_warnings_that_differ_in_numbers_are_one_line(
    run_with: Callable[..., BenchRun], row: Callable[..., BenchRow]
) -> None:
    way = ("a.onnx", "onnxruntime", "fp32", "")
    said = ["vary by 12.5 % of #5", "vary by 3 % of #5", "vary by 101.25 % of #5", "vary"]
    rows = [row(way, "ten-crop", "files", batch, 9.0, warnings=[text]) for batch, text in enumerate(said, 1)]
    assert benchmark_table(run_with(rows)).endswith(
        "4 rows with warnings:\n"
        "warning: 3 rows, first ten-crop, files, batch 1: vary by 3 to 101.25 % of #5\n"
        "warning: ten-crop, files, batch 4: vary"
    )


def test_what_all_rows_share_is_said_once(run_with: Callable[..., BenchRun], row: Callable[..., BenchRow]) -> None:
    way = ("resnet50.onnx", "onnxruntime", "fp32", "")
    text = benchmark_table(run_with([row(way, "single-crop", "network", batch, 900.0) for batch in (1, 8)]))
    assert text.split("\n")[2] == "resnet50.onnx, onnxruntime fp32 on cuda:0"
    assert text.count("resnet50.onnx") == text.count("onnxruntime") == 1


def test_nothing_but_failures(all_failed: BenchRun) -> None:
    assert "all 2 rows failed" in benchmark_page(all_failed)
    assert benchmark_table(all_failed).count("failed: ten-crop, network, batch") == 2
    assert benchmark_table(all_failed).count("a.engine, tensorrt fp16") == 1
    assert "all 2 rows failed" in benchmark_markdown({"r.json": all_failed})


def tables_of(markdown: str) -> list[list[list[str]]]:
    """The tables as a Markdown parser sees them: their cells' text; raises if there is HTML."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        assert token.type != "html_block"
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline":
            assert all(child.type != "html_inline" for child in token.children or [])
            if token.level >= 4:
                tables[-1][-1].append("".join(child.content for child in token.children or []))
    return tables


def test_the_readme_section_has_the_best_rate_of_every_way(large: BenchRun) -> None:
    text = benchmark_markdown({"benchmarks/results/benchmark_a b.json": large})
    network, files = tables_of(text)
    assert "](<benchmarks/results/benchmark_a b.json>)" in text
    assert f"`{large.command}`" in text
    assert "NVIDIA H200 with AMD EPYC" in text
    assert "3 rows of the run failed" in text
    for table, measurement in ((network, "network"), (files, "files")):
        _, _, *protocols = table[0]
        assert protocols == ["single-crop", "ten-crop", "multiscale"]
        seen = 0
        for name, way, *cells in table[1:]:
            for protocol, cell in zip(protocols, cells, strict=True):
                own = [
                    row for row in large.rows
                    if Path(row.model).name == name and row.protocol == protocol and row.measurement == measurement
                    and way == " ".join(filter(None, (row.backend, row.precision, row.options))) and not row.error
                ]  # fmt: skip
                seen += len(own)
                if not own:
                    assert cell == ""
                    continue
                best = max(own, key=rate)
                found = re.fullmatch(r"([\d.,]+) \((\d+), ([\d.]+) %\)", cell)
                assert found, cell
                assert near(found[1], rate(best))
                assert int(found[2]) == best.batch_size
                assert near(found[3], 100 * rate(best) / best.roof_images_per_s)
        assert seen == sum(row.measurement == measurement and not row.error for row in large.rows)


def test_readme_is_what_the_committed_results_give() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert updated(text, ROOT) == text


def test_the_section_follows_the_results(tmp_path: Path, large: BenchRun, single: BenchRun) -> None:
    document = f"# Title\n\n{BEGIN}\nold figures\n{END}\n\nThe end.\n"
    assert updated(document, tmp_path) == f"# Title\n\n{BEGIN}\n{NOTHING}\n{END}\n\nThe end.\n"
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    large.save(folder / "benchmark_gpu.json")
    single.save(folder / "benchmark_cpu.json")
    (folder / "training.json").write_text("{}")
    new = updated(document, tmp_path)
    assert new.index("benchmark_cpu.json") < new.index("benchmark_gpu.json")
    assert "old figures" not in new
    assert updated(new, tmp_path) == new
    for broken in ("no markers", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"):
        with pytest.raises(DataError, match="benchmark table: begin"):
            with_section(broken, "x")


def renamed(run: BenchRun, name: str) -> BenchRun:
    """The run with this name wherever one stands."""
    rows = [
        replace(
            row,
            model=name,
            options=name,
            architecture=name,
            protocol=name,
            error=row.error and name,
            warnings=[name],
            bound=name,
        )
        for row in run.rows
    ]
    environment = {"cpu": name, "gpus": [{"name": name}], name: name, "packages": {name: name}}
    return replace(run, rows=rows, command=name, started=name, environment=environment, data={"name": name})


def test_names_of_all_kinds_are_text_in_pages(hostile: str, large: BenchRun, read: Any) -> None:
    def pages(name: str) -> list[str]:
        run = renamed(replace(large, rows=large.rows[-40:]), name)
        return [benchmark_page(run), comparison_page(name, run, [compare_runs(run, name, run)])]

    for plain, page in zip(pages("plain name"), pages(hostile), strict=True):
        found = read(page)
        assert [(tag, list(has)) for tag, has in found.tags] == [(tag, list(has)) for tag, has in read(plain).tags]
        assert all(not name.startswith("on") and name not in ("src", "action") for _, has in found.tags for name in has)
        assert all(str(has["href"]).startswith("#") for _, has in found.tags if "href" in has)
        assert "url(" not in page
        assert "".join(found.text).count(hostile) > 50


def test_names_of_all_kinds_are_text_in_markdown_and_tables(hostile: str, large: BenchRun) -> None:
    run = renamed(large, hostile)
    for text in ("`", "a|b", "**b**", "[x](y)", "``c``", hostile):
        spaced = " ".join(text.split())
        for table in tables_of(benchmark_markdown({"r.json": renamed(large, text)})):
            for line in table[1:]:
                assert line[0] == spaced.rpartition("/")[2].strip()
                assert spaced in line[1]
    assert " ".join(hostile.split()) in " ".join(benchmark_table(run).split())
    assert " ".join(hostile.split()) in " ".join(
        comparison_table(hostile, run, [compare_runs(run, hostile, run)]).split()
    )
