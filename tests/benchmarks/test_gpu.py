"""The GPU command: its steps' time, what it leaves behind, and its table."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import clocks, run, steps
from benchmarks.gpu.context import Context, OutOfTime, Skipped
from benchmarks.gpu.pictures import pictures, spread
from benchmarks.gpu.plan import FULL, TINY
from benchmarks.gpu.results import Check, Results, StepRecord, best, open_results
from benchmarks.gpu.steps import Step, run_step, run_steps
from benchmarks.gpu.table import text
from resnet_infer.bench.rows import BenchRow, load_run
from resnet_infer.pipeline.decode import decode

ROW = BenchRow(
    model="resnet50", backend="torch", precision="bf16", options="compile=default, render=device, workers=15",
    protocol="multiscale", measurement="network", batch_size=1024, images_per_s=123456.7, roof_fraction=0.812,
)  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return open_results(tmp_path, run.BLANK)


@pytest.fixture
def around(tmp_path: Path) -> dict[str, Any]:
    return {"device": torch.device("cpu"), "plan": TINY, "scratch": tmp_path}


def use(monkeypatch: pytest.MonkeyPatch, **functions: Callable[[Context], None]) -> None:
    monkeypatch.setattr(steps, "STEPS", [Step(name, "", 1, 10, function) for name, function in functions.items()])


def test_a_step_that_fails_is_recorded_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch, results: Results, around: dict[str, Any]
) -> None:
    def fails(context: Context) -> None:
        context.check("before", 1.0, 2.0)
        raise ValueError("no such thing")

    def cannot(context: Context) -> None:
        raise Skipped("not here")

    use(monkeypatch, fails=fails, cannot=cannot, works=lambda context: context.check("after", 2.0, 1.0))
    run_steps(["works", "cannot", "fails"], time.time() + 600, results, **around)
    again = open_results(results.folder, run.BLANK)
    assert [(step.name, step.status) for step in again.steps] == [
        ("fails", "failed"), ("cannot", "skipped"), ("works", "done"),
    ]  # fmt: skip
    assert again.steps[0].why == "ValueError: no such thing"
    assert [(check.what, check.met) for check in again.checks] == [("before", False), ("after", True)]
    assert "raise ValueError" in (results.folder / "log.txt").read_text()


def test_a_step_is_cut_even_if_it_catches_everything_else(
    monkeypatch: pytest.MonkeyPatch, results: Results, around: dict[str, Any]
) -> None:
    def endless(context: Context) -> None:
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    use(monkeypatch, endless=endless, works=lambda context: None)
    run_steps([], time.time(), results, **around)  # which sets the alarm's handler
    for step in steps.STEPS:
        run_step(step, 1.0, 0.3, results, around)
    assert [step.status for step in results.steps] == ["cut", "done"]
    assert not issubclass(OutOfTime, Exception)


def test_time_is_shared_among_the_steps_that_are_left(
    monkeypatch: pytest.MonkeyPatch, results: Results, around: dict[str, Any]
) -> None:
    given = {}

    def notes(context: Context) -> None:
        given[context.step] = context.left()

    use(monkeypatch, first=notes, second=notes)
    run_steps(["first", "second"], time.time() + 1000 + steps.RESERVE_S, results, **around)
    assert given["first"] == pytest.approx(500, abs=50)
    assert given["second"] == pytest.approx(1000, abs=100)
    run_steps(["first"], time.time() + steps.RESERVE_S + 0.5, results, **around)
    assert [(step.name, step.status) for step in results.steps][-1] == ("first", "skipped")


def test_what_a_check_meets() -> None:
    for measured, at_most, met in ((1.0, False, True), (0.9, False, False), (1.1, True, False), (0.9, True, True)):
        assert Check(step="", what="", measured=measured, target=1.0, at_most=at_most).met is met
    assert Check(step="", what="", measured=float("nan"), target=1.0, at_most=True).met is False
    assert Check(step="", what="", measured=1.0).met is None
    assert Check(step="", what="", target=1.0, skipped="not here").met is None


def test_results_are_on_disk_at_once_and_are_gone_on_with(results: Results) -> None:
    results.row(ROW)
    results.contest({"peer": "a"})
    again = open_results(results.folder, run.BLANK)
    assert again.run.rows == load_run(results.folder / "benchmark.json").rows
    again.row(ROW)
    assert len(load_run(results.folder / "benchmark.json").rows) == 2
    assert best(again.run.rows, protocol="multiscale") == again.run.rows[0]
    assert best(again.run.rows, protocol="ten-crop") is None
    again.contest({"peer": "a", "what": "b", "tried": 1})
    again.contest({"peer": "a", "what": "b", "tried": 2})  # the same one, further on
    assert open_results(results.folder, run.BLANK).contests == [{"peer": "a"}, {"peer": "a", "what": "b", "tried": 2}]


def test_the_table_is_80_columns_wide(results: Results) -> None:
    results.row(ROW)
    results.row(BenchRow(**{**_values(ROW), "error": "long words " * 40}))
    results.check(Check(step="s", what="long words " * 12, measured=123456.789, target=0.0001, at_most=True))
    results.check(Check(step="s", what="long words " * 12, note="long words " * 12, measured=0.5, target=0.95))
    results.check(Check(step="s", what="x", error="y" * 300))
    results.step(StepRecord(name="architectures", what="", status="failed", began=0, why="long words " * 30))
    table = text(results)
    assert max(map(len, table.splitlines())) <= 80
    assert "1 met" not in table
    assert "2 missed, 1 with an error" in table


def _values(row: BenchRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in BenchRow.__dataclass_fields__}


def test_a_worker_that_hangs_or_dies_is_noticed(results: Results) -> None:
    words = [sys.executable, "-c", "import time; time.sleep(600)"]
    results.step(StepRecord(name="slow", what="", status="running", began=0, until=time.time() - run.GRACE_S - 1))
    worker = subprocess.Popen(words, process_group=0)
    try:
        assert "hung" in run.wait(worker, results.folder, time.time() + 600)
        assert "time was over" in run.wait(worker, results.folder, time.time() - 1)
    finally:
        run.end(worker)
    assert worker.poll() is not None
    assert "ended with code" in run.wait(worker, results.folder, time.time() + 600)
    assert run.close_running(open_results(results.folder, run.BLANK), "hung") == {"slow"}
    assert open_results(results.folder, run.BLANK).steps[0].status == "failed"


def test_clocks_are_told_by_step(tmp_path: Path) -> None:
    lines = [",".join(clocks.FIELDS), "2026/11/25 03:00:01.000, 1980, 2619, 650.5, 60, 99",
             "2026/11/25 03:00:02.000, 1900, 2619, 690.5, 62, 97", "2026/11/25 03:00:09.000, 345, 2619, 70, 40, 0",
             "2026/11/25 03:00:10.000, [N/A], 2619"]  # fmt: skip
    (tmp_path / clocks.FILE).write_text("\n".join(lines))
    noon = time.mktime((2026, 11, 25, 3, 0, 0, 0, 0, -1))
    found = clocks.between(tmp_path, {"busy": (noon, noon + 5), "none": (noon + 20, noon + 30)})
    assert found == {"busy": {"sm_mhz": 1940, "power_w": 670.5, "temperature_c": 62, "load_pct": 98}}


def test_pictures_have_their_sizes_and_repeat(results: Results, around: dict[str, Any]) -> None:
    context = Context(step="", results=results, ends=time.time() + 600, **around)
    source = pictures(context, 100)
    assert len(source.samples) == 100
    assert len({source.read(sample) for sample in source.samples}) == TINY.distinct
    sizes = {tuple(decode(source.read(sample)).shape[1:]) for sample in source.samples}
    assert sizes == set(TINY.sizes)
    assert len({sample.label for sample in spread(pictures(context), 8).samples}) == 8
    assert set(FULL.sizes) > {(375, 500)}


def test_wrong_flags_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], results: Results) -> None:
    out = ["--out", str(tmp_path / "new"), "--device", "cpu"]
    results.contest({})
    results.set_run()
    for words, wrong in (
        ([*out, "--steps", "netwrk"], "unknown step 'netwrk'. Nearest: network"),
        ([*out, "--minutes", "0.5"], "--minutes must be above 0.5; got 0.5"),
        (["--out", str(results.folder), "--device", "cpu"], "holds a run already"),
    ):
        assert run.main(words) in (1, 2)
        error = capsys.readouterr().err
        assert wrong in error
        assert error.count("\n") == 1
