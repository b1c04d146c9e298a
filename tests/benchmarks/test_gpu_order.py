"""The GPU command: what comes first, what it is given time for, and what is left out where time is short."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import end_to_end, kernels, network, protocols, run, steps, ways
from benchmarks.gpu.context import Context
from benchmarks.gpu.plan import FULL
from benchmarks.gpu.results import open_results
from benchmarks.gpu.steps import STEPS, run_steps
from resnet_infer.bench.measure import works
from resnet_infer.bench.rows import BenchRow
from resnet_infer.spec.protocols import multi_scale

FIRST = ["correctness", "machine", "levers"]
SECOND = ["machine", "network", "protocols", "end_to_end"]
MINUTES = 5
Made = Callable[[float], Context]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A step of the full plan with so many seconds, on a GPU that is not there."""
    results = open_results(tmp_path, run.BLANK)
    around: dict[str, Any] = {"device": torch.device("cuda"), "plan": FULL, "scratch": tmp_path, "results": results}
    return lambda seconds: Context(step="", ends=time.time() + seconds, **around)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the steps would have done, in order; it takes no time."""
    said: list[str] = []

    def row(context: Context, subject: Any, batch: int, *, protocol: str = "single-crop", **more: Any) -> None:
        said.append(f"{protocol}, {subject.options or 'eager'}, {batch}")
        context.results.row(measured(1000.0 * (1 + ("default" in subject.options)), subject.options, batch, protocol))

    monkeypatch.setattr(Context, "network", row)
    for step in (network, protocols):
        monkeypatch.setattr(step, "ready", lambda context: None)
    monkeypatch.setattr(protocols, "pictures", lambda context: None)
    monkeypatch.setattr(network, "kernels", lambda context, way: said.append(f"profile, {ways.named(way)}"))
    monkeypatch.setattr(network, "contest_here", lambda context, contest, seconds: said.append(contest.ours[0].name))
    return said


def measured(rate: float, options: str, batch: int = FULL.batch, protocol: str = "single-crop") -> BenchRow:
    return BenchRow(
        model=FULL.network, backend="torch", precision=FULL.precision, options=options, protocol=protocol,
        measurement="network", batch_size=batch, batch_size_asked=batch, images_per_s=rate,
    )  # fmt: skip


def test_both_calls_give_every_step_the_time_that_its_first_rows_need(
    monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    given: dict[str, float] = {}  # in the order in which it was given
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)

    def spends_it(context: Context) -> None:
        nonlocal now
        given.pop(context.step, None)
        given[context.step] = context.left()
        now += context.left()

    monkeypatch.setattr(steps, "STEPS", [replace(step, function=spends_it) for step in STEPS])
    context = made(0)
    around = {"device": context.device, "plan": FULL, "scratch": context.scratch}
    for names in (FIRST, SECOND):
        run_steps(names, now + 60 * MINUTES - run.END_S, context.results, **around)
        assert list(given)[-len(names) :] == names
        assert sum(given[name] for name in names) <= 60 * MINUTES - run.END_S
    recorded = ways.COMPILE_S["cuda-graphs"] + network.ROW_S
    assert given["network"] >= network.ROW_S + kernels.KERNELS_S + recorded + network.CONTEST_S
    shapes = {(work.height, work.width) for work in works(multi_scale(), FULL.sizes[: protocols.SIZES])}
    assert len(shapes) == 15
    assert given["protocols"] >= 2 * protocols.ROW_S + 15 * protocols.SHAPE_S
    assert given["end_to_end"] >= 3 * end_to_end.ROW_S + 2.5 * end_to_end.CONTEST_S


def test_the_network_alone_in_the_order_of_what_rows_tell(made: Made, done: list[str]) -> None:
    network.network(made(3600))
    assert done[:7] == [
        "single-crop, eager, 256", "profile, as it comes", "single-crop, compile=cuda-graphs, 256",
        "single-crop, compile=default, 256", "ours: compile=default", "profile, compile=default",
        "single-crop, eager, 1024",
    ]  # fmt: skip
    assert done[-1] == "single-crop, compile=max-autotune, 256"


def test_nothing_is_compiled_at_the_cost_of_the_contest(made: Made, done: list[str]) -> None:
    network.network(made(network.CONTEST_S + 20))
    recorded = "single-crop, compile=cuda-graphs, 256"
    assert done[:4] == ["single-crop, eager, 256", "profile, as it comes", recorded, "ours: as it comes"]


def test_whole_images_are_begun_with_time_for_all_their_shapes(made: Made, done: list[str]) -> None:
    least = 2 * protocols.ROW_S + 15 * protocols.SHAPE_S
    protocols.protocols(made(least + 1))
    assert done == ["single-crop, eager, 256", "ten-crop, eager, 256", "multiscale, eager, 256"]
    done.clear()
    short = made(protocols.ROW_S + 1)
    protocols.protocols(short)
    assert done == ["ten-crop, eager, 256"]  # the single crop is known by now
    log = (short.results.folder / "log.txt").read_text()
    assert "left out for want of time: multiscale, as it comes, 15 shapes" in log


def test_whole_images_are_not_compiled_for_a_comparison(made: Made, done: list[str]) -> None:
    """It cost a step 96 s on an H100, and those after it their time."""
    context = made(3600)
    context.results.row(measured(10.0, "compile=default"))
    context.results.row(measured(30.0, ""))
    protocols.protocols(context)
    assert done == ["ten-crop, eager, 256", "multiscale, eager, 256"]


def test_later_steps_take_the_fastest_way_of_the_run(made: Made) -> None:
    context = made(600)
    assert ways.fastest(context) == FULL.ways[0]
    context.results.row(measured(10.0, ""))
    context.results.row(measured(30.0, "compile=cuda-graphs"))
    context.results.row(measured(20.0, "compile=default"))
    context.results.row(replace(measured(99.0, "compile=default"), precision="fp16"))
    assert ways.fastest(context) == {"compile": "cuda-graphs"}
    assert ways.fastest(context, dense=True) == {"compile": "default"}
    assert end_to_end.subject_of(context, "ten-crop").options == "compile=cuda-graphs"
    assert end_to_end.subject_of(context, "multiscale").options == "compile=default"
