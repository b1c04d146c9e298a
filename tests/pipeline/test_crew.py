"""Worker processes outlive a pass, and nothing outlives them."""

import gc
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelled import COUNT, MIXED, SIZES, Labelled, Picture

from resnet_infer.backends.load import Model
from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Memory, Source
from resnet_infer.errors import DataError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loader import Crew
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.labels import Labels


@pytest.fixture(scope="module")
def images(picture: Callable[..., Picture]) -> list[Picture]:
    return [picture(*SIZES[seed % len(SIZES)], seed) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def source(images: list[Picture]) -> Source:
    return Labelled(images, 10)


@pytest.fixture(scope="module")
def model(small_net: ResNet, model_of: Callable[..., Model]) -> Model:
    return model_of(small_net, Labels(names=tuple(f"class {k}" for k in range(10))))


def pids() -> set[int]:
    return {process.pid or 0 for process in multiprocessing.active_children()}


def test_a_crew_is_the_same_for_every_pass_and_gone_afterwards(model: Model, source: Source) -> None:
    alone = [evaluate([Member(model, (protocol,))], source, loading=Loading(workers=0))[0] for protocol in MIXED[:3]]
    seen: set[int] = set()
    with Crew(source) as crew:
        for protocol, row in zip(MIXED[:3] * 2, alone * 2, strict=True):
            (ours,) = evaluate([Member(model, (protocol,))], source, crew=crew, loading=Loading(workers=2))
            assert (ours.top1_errors, ours.top5_errors) == (row.top1_errors, row.top5_errors)
            assert len(pids()) == 2
            seen |= pids()
        assert len(seen) == 2
        list(score([Member(model, tuple(MIXED[:1]))], source, indices=[3], crew=crew, loading=Loading(workers=1)))
        assert len(pids()) == 1
    assert pids() == set()


def test_a_pass_that_is_left_early_ends_its_crew_which_then_starts_anew(model: Model, source: Source) -> None:
    with Crew(source) as crew:
        results = score([Member(model, tuple(MIXED[:1]))], source, crew=crew, loading=Loading(workers=2, batch_size=1))
        next(results)
        with pytest.raises(RuntimeError, match="one pass at a time"):
            next(score([Member(model, tuple(MIXED[:1]))], source, crew=crew, loading=Loading(workers=2)))
        with pytest.raises(RuntimeError, match="one pass at a time"):
            next(score([Member(model, tuple(MIXED[:1]))], source, crew=crew, loading=Loading(workers=1)))
        assert next(results).error == ""
        results.close()  # type: ignore[attr-defined]
        assert pids() == set()
        assert (
            len(list(score([Member(model, tuple(MIXED[:1]))], source, crew=crew, loading=Loading(workers=2)))) == COUNT
        )
        assert len(pids()) == 2
    assert pids() == set()


def test_an_error_leaves_no_processes(model: Model, images: list[Picture], encode: Callable[..., bytes]) -> None:
    broken = Memory("broken", [("0", encode(images[0])), *((str(n), b"broken") for n in range(1, 40))])
    broken.samples = [replace(sample, label=f"class {n % 10}") for n, sample in enumerate(broken.samples)]
    with pytest.raises(DataError, match="39 of 40"):
        evaluate([Member(model, tuple(MIXED[:1]))], broken, loading=Loading(workers=2))
    assert pids() == set()


def test_workers_that_die_between_passes_are_replaced_however_many(model: Model, source: Source) -> None:
    with Crew(source) as crew:
        list(score([Member(model, tuple(MIXED[:1]))], source, crew=crew, loading=Loading(workers=8)))
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        found = list(score([Member(model, tuple(MIXED[:1]))], source, crew=crew, loading=Loading(workers=8)))
    assert [result.error for result in found] == [""] * COUNT


class Collecting(Memory):
    """A source whose reader collects garbage, as any Python process does now and then."""

    def read(self, sample: Sample) -> Any:
        gc.collect()
        return super().read(sample)


class Finalized:
    """As an object of CUDA, which only the process that made it may end."""

    def __init__(self, log: Path) -> None:
        self.log, self.itself = log, self

    def __del__(self) -> None:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")


def test_a_worker_does_not_finalize_what_its_parent_left(model: Model, images: list[Picture], tmp_path: Path) -> None:
    log = tmp_path / "log"
    source = Collecting("collecting", [("0", images[0]), ("1", images[1])])
    gc.disable()
    try:
        Finalized(log)  # garbage at once, which a collection would end
        list(score([Member(model, tuple(MIXED[:1]))], source, loading=Loading(workers=1)))
        assert not log.exists()
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()
    gc.collect()
    assert log.read_text() == f"{os.getpid()}\n"
