"""The GPU command's checks find the faults that they are for, and a slow start is no fault."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_sides
from torch import Tensor

from benchmarks.gpu import contests, correctness, decoding, run
from benchmarks.gpu.context import Context
from benchmarks.gpu.correctness import Reference
from benchmarks.gpu.pictures import pictures
from benchmarks.gpu.plan import TINY
from benchmarks.gpu.results import open_results
from benchmarks.peers import runner
from benchmarks.peers.sides import Claim, Contest, Side
from resnet_infer.pipeline.loader import load
from resnet_infer.pipeline.packing import Rendered


@pytest.fixture
def context(tmp_path: Path) -> Context:
    results = open_results(tmp_path, run.BLANK)
    given: dict[str, Any] = {"device": torch.device("cpu"), "results": results, "scratch": tmp_path}
    plan = replace(TINY, distinct=6, sizes=((60, 80),), scales=(64,))
    return Context(step="", plan=plan, ends=time.time() + 600, **given)


class Network:
    """Logits are a tile's mean and its left half's, so a mirror image has others."""

    def __init__(self) -> None:
        self.backend = self
        self.held = torch.zeros(4, 2, 1, 1)

    def run(self, x_BCHW: Tensor, head: str) -> Tensor:
        half = x_BCHW.shape[3] // 2
        return torch.stack([x_BCHW.float().mean((1, 2, 3)), x_BCHW[..., :half].float().mean((1, 2, 3))], 1)[
            :, :, None, None
        ]


class WritesOver(Network):
    """Gives its own buffer away, which the next run fills anew: a recorded graph's output that was not copied."""

    def run(self, x_BCHW: Tensor, head: str) -> Tensor:
        return self.held.copy_(super().run(x_BCHW, head))


class OneBehind(Network):
    """Runs on what its buffer held before: a recorded graph whose input arrives late."""

    def run(self, x_BCHW: Tensor, head: str) -> Tensor:
        said, self.held = self.held, super().run(x_BCHW, head)
        return said


class AlwaysTheFirst(Network):
    """Goes on reading the memory of the first batch."""

    def run(self, x_BCHW: Tensor, head: str) -> Tensor:
        self.held = super().run(x_BCHW, head) if not self.held.any() else self.held
        return self.held


@pytest.mark.parametrize("network", [Network, WritesOver, OneBehind, AlwaysTheFirst])
def test_logits_that_belong_to_another_batch_are_found(context: Context, network: type[Network]) -> None:
    x_BCHW = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    true = Network()
    given = Reference(x_BCHW, *(true.run(each, "pooled").flatten(1) for each in (x_BCHW, x_BCHW.flip(3))))
    correctness.compare(context, "fake", "fp32", network(), given)  # type: ignore[arg-type]
    assert context.results.checks[0].met is (network is Network)


@pytest.mark.parametrize("changed", [None, 1, 3])
def test_an_image_that_differs_beside_a_busy_stream_is_found(
    context: Context, monkeypatch: pytest.MonkeyPatch, changed: int | None
) -> None:
    passes = 0

    def fake(source: Any, protocols: Any, indices: Sequence[int], **how: Any) -> Iterator[Rendered]:
        nonlocal passes
        for image in load(source, protocols, indices, **how):
            if passes == changed and image.index == 4:
                image.tiles[0][0, 0, 0] ^= 1
            yield image
        passes += 1

    monkeypatch.setattr(decoding, "load", fake)
    decoding.beside_a_busy_stream(context, pictures(context))
    differ = {check.what.split(",")[0]: check.measured for check in context.results.checks if "differ" in check.what}
    assert passes == 4
    assert differ == {"single-crop": float(changed == 1), "multiscale": float(changed == 3)}
    assert [check.met for check in context.results.checks].count(False) == (changed is not None)


def test_blocks_that_are_written_over_are_counted(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[Tensor] = []
    full = torch.full

    def fake_full(*given: Any, **how: Any) -> Tensor:
        filled.append(full(*given, **how))
        return filled[-1]

    def fake_mm(*given: Any, **how: Any) -> Tensor:  # stands for what the decoder writes while products are queued
        filled[2][0, 0, 0] = 0
        return torch.matmul(*given, **how)

    monkeypatch.setattr(torch, "full", fake_full)
    monkeypatch.setattr(torch, "mm", fake_mm)
    decoding.beside_a_busy_stream(context, pictures(context))
    over = [check.measured for check in context.results.checks if "written over" in check.what]
    assert over == [1, 0]


def test_a_slow_start_does_not_end_a_contest(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side takes longer to start than any of its calls may take, so one of theirs is not tried: no verdict."""
    monkeypatch.setattr(contests, "touch", toy_sides.slow_start)
    monkeypatch.setattr(contests, "method", lambda context: "spawn")  # as on a GPU
    monkeypatch.setattr(runner, "LONGEST_CALL_S", toy_sides.START_S - 2)
    theirs = [Side(name=name, start=toy_sides.start) for name in ("first", "later")]
    contest = Contest(
        peer="toy", what="sleeping", theirs=theirs, ours=[Side(name="ours", start=toy_sides.start)],
        claims=[Claim(name="theirs", target=0.0)], images=1, tolerance=0.1, files=(),
    )  # fmt: skip
    contests.contest_here(replace(context, plan=replace(context.plan, quick=False)), contest, 0.001)
    (check,) = context.results.checks
    assert check.measured, check.error
    assert check.met is None
    assert "1 of their settings not tried" in check.note
    (record,) = context.results.contests
    assert record["starting_seconds"] > toy_sides.START_S
