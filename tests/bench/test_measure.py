"""The stopwatch on a clock that the test holds: what is counted, weighed and kept."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resnet_infer.backends.base import Backend, BackendInfo
from resnet_infer.backends.load import Model
from resnet_infer.bench.measure import Timing, _Step, measure_network, measure_path, works
from resnet_infer.data.source import Memory
from resnet_infer.errors import BackendError, OutOfMemory
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.protocols import Protocol, multi_scale, single_crop, ten_crop
from resnet_infer.spec.shapes import ANY, ShapeRange

NS_PER_PIXEL = 50.0


class Clock:
    """time.perf_counter that stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Metered:
    """A backend that takes a set time a pixel, and holds so many."""

    info = BackendInfo(name="torch", device="cpu", precision="fp32", heads=("pooled", "dense"), artifact="metered")

    def __init__(self, clock: Clock, pixels: int = ANY, batch: int = ANY) -> None:
        self.clock = clock
        self.pixels = pixels
        self.shapes = (ShapeRange(min=(1, 16, 16), opt=(1, 32, 32), max=(batch, 900, 900)),)
        self.seen: list[tuple[int, ...]] = []

    def run(self, x_BCHW: Tensor, head: Any) -> Tensor:
        batch, _, height, width = x_BCHW.shape
        if batch * height * width > self.pixels:
            raise OutOfMemory("does not fit")
        assert x_BCHW.float().std() > 50  # never zeros, never constant
        self.seen.append((batch, height, width))
        self.clock.now += batch * height * width * NS_PER_PIXEL * 1e-9
        return torch.zeros(batch, 10, 1, 1)

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(time, "perf_counter", stopped)
    return stopped


SIZES = ((48, 60), (60, 48), (40, 40), (33, 70))


@pytest.mark.parametrize("protocol", [single_crop(40, 32), ten_crop(41, 32), multi_scale((32, 41))])
@pytest.mark.parametrize("batch_size", [1, 6])
def test_an_image_costs_what_all_its_views_cost(protocol: Protocol, batch_size: int, clock: Clock) -> None:
    timing = measure_network(Metered(clock), protocol, SIZES, batch_size, 32, repeats=3, seconds=0.01)
    pixels = [sum(v.tile.height * v.tile.width for v in protocol.views(*size)) for size in SIZES]
    assert 1 / timing.images_per_s == pytest.approx(statistics.mean(pixels) * NS_PER_PIXEL * 1e-9)
    assert len(timing.seconds) == 3
    assert timing.cv_pct == pytest.approx(0, abs=1e-6)
    assert sum(shape.tiles_per_image for shape in timing.shapes) == len(protocol.views(*SIZES[0]))
    for shape in timing.shapes:
        assert shape.batch == max(1, batch_size * 32 * 32 // (shape.height * shape.width))
        assert shape.ms == pytest.approx(shape.batch * shape.height * shape.width * NS_PER_PIXEL * 1e-6)


def test_a_repeat_lasts_as_long_as_it_is_told(clock: Clock) -> None:
    backend = Metered(clock)
    timing = measure_network(backend, single_crop(40, 32), SIZES, 4, 32, repeats=2, seconds=0.1)
    one = 4 * 32 * 32 * NS_PER_PIXEL * 1e-9
    assert len(timing.latencies_ms) / 2 * one == pytest.approx(0.1, rel=0.01)


def test_memory_that_runs_out_halves_the_batch(clock: Clock) -> None:
    backend = Metered(clock, pixels=5 * 32 * 32)
    timing = measure_network(backend, single_crop(40, 32), SIZES, 32, 32, repeats=1, seconds=0.01)
    assert timing.batch_size == 4
    assert set(backend.seen) == {(4, 32, 32)}
    with pytest.raises(OutOfMemory, match="not even one"):
        measure_network(Metered(clock, pixels=9), single_crop(40, 32), SIZES, 8, 32, repeats=1, seconds=0.01)


def test_a_batch_is_no_larger_than_the_backend_takes(clock: Clock) -> None:
    backend = Metered(clock, batch=3)
    measure_network(backend, ten_crop(41, 32), SIZES, 8, 32, repeats=1, seconds=0.01)
    assert {batch for batch, *_ in backend.seen} == {3}
    with pytest.raises(BackendError, match=r"metered takes .* not 1066x800"):
        measure_network(backend, multi_scale((800,)), [(480, 640)], 8, 32, repeats=1, seconds=0.01)


def test_percentiles_and_variation_are_numpys() -> None:
    random = np.random.default_rng(0)
    latencies, seconds = random.gamma(2, 3, 101), random.gamma(50, 1, 9)
    timing = Timing(images=7, seconds=tuple(seconds), latencies_ms=tuple(latencies))
    for name, value in timing.latency_ms.items():
        assert value == pytest.approx(np.percentile(latencies, int(name[1:])))
    assert timing.cv_pct == pytest.approx(100 * seconds.std(ddof=1) / seconds.mean())
    assert timing.images_per_s == pytest.approx(7 / np.median(seconds))


@pytest.mark.parametrize("protocol", [single_crop(40, 32), ten_crop(41, 32), multi_scale((32, 41), mirror=False)])
def test_works_list_every_view_once(protocol: Protocol) -> None:
    views = [(v.tile.height, v.tile.width) for size in SIZES for v in protocol.views(*size)]
    found = works(protocol, SIZES)
    for height, width in set(views):
        passes = sum(work.passes_per_image for work in found if (work.height, work.width) == (height, width))
        assert passes * len(SIZES) == pytest.approx(views.count((height, width)))


def test_the_whole_path_is_timed_after_a_run_that_does_not_count(clock: Clock) -> None:
    durations = iter([9.0, 1.0, 3.0, 2.0])

    def run() -> int:
        clock.now += next(durations)
        return 30

    timing = measure_path(run, repeats=3)
    assert timing.seconds == (1.0, 3.0, 2.0)
    assert timing.first_run_s == 9.0
    assert timing.images_per_s == 15.0


def test_a_real_network_is_measured(small_net: ResNet, model_of: Callable[..., Model]) -> None:
    backend: Backend = model_of(small_net).backend
    timing = measure_network(backend, ten_crop(41, 32), SIZES, 4, 32, repeats=2, seconds=0.02)
    assert all(second > 0 for second in timing.seconds)
    assert timing.first_run_s > 0
    assert replace(timing, seconds=()) != timing


@pytest.mark.parametrize("average", ["gap", "window-softmax", "map-logits"])
def test_what_is_timed_is_what_scores_images(average: Any, small_net: ResNet, model_of: Callable[..., Model]) -> None:
    model, protocol = model_of(small_net), multi_scale((32,), average=average)
    (work,) = works(protocol, [(32, 32)])
    step = _Step(model.backend, work, 4, upload=False)
    (timed_BK,) = step.run()()
    source = Memory("tiles", [(str(number), tile_HWC.numpy()) for number, tile_HWC in enumerate(step.tiles_BHWC)])
    results = score([Member(model, (protocol,))], source, loading=Loading(batch_size=4, workers=0))
    scored = {result.index: result.probs_PK for result in results}
    for number, timed_K in enumerate(timed_BK.float()):
        probs_PK = scored[number]
        assert probs_PK is not None
        assert torch.equal(probs_PK[0], timed_K)
