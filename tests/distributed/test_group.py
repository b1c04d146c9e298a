"""An evaluation shared among processes: the numbers of one, and an error whenever one of them is missing."""

import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_ranks import ranks

from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.distributed.group import Processes, processes
from resnet_infer.errors import DataError, ProcessError, UsageError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member
from resnet_infer.predictions.files import read_predictions
from resnet_infer.predictions.recorder import Recording
from resnet_infer.spec.protocols import multi_scale, single_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
COUNT = 41
BROKEN = (3, 30, 40)
TESTS = (single_crop(32, 32), multi_scale((32, 36)))


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("resnet20.cifar10", device="cpu")


@pytest.fixture(scope="module")
def source(
    picture: Callable[..., Picture], encode: Any, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Source:
    assert model.manifest.labels
    labels = model.manifest.labels.names
    path = tmp_path_factory.mktemp("data") / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(COUNT):
            pixels = picture(32, 32 + number % 3, number)
            archive.writestr(f"{labels[number % 10]}/{number:02}.png", encode(pixels))
    return open_source(path)


@pytest.fixture(scope="module")
def damaged(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("data") / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, sample in enumerate(source.samples):
            data = source.read(sample)
            archive.writestr(sample.name, b"broken" if number in BROKEN else bytes(data))
    return open_source(path)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_of_unequal_length_count_every_image_once(
    world: int, model: Model, damaged: Source, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = evaluate(
        [Member(model, tuple(TESTS))], damaged, on_error="count-wrong", recording=Recording(path=tmp_path / "1.jsonl")
    )
    capfd.readouterr()
    recording = Recording(path=tmp_path / "n.jsonl")

    def task(rank: int, group: Processes) -> Any:
        return evaluate(
            [Member(model, tuple(TESTS))], damaged, on_error="count-wrong", recording=recording, group=group
        )

    rows, *others = ranks(world, task, tmp_path)
    assert others == [[]] * (world - 1)
    for row, one in zip(rows, alone, strict=True):
        assert (row.images, row.top1_errors, row.top5_errors) == (one.images, one.top1_errors, one.top5_errors)
        assert row.unreadable == one.unreadable
        assert row.images == COUNT
    shared, single = (read_predictions(tmp_path / name).records for name in ("n.jsonl", "1.jsonl"))
    for protocol in TESTS:
        for mine, theirs in zip(shared[protocol.name], single[protocol.name], strict=True):
            assert (mine.index, mine.name, mine.rank, mine.error) == (
                theirs.index,
                theirs.name,
                theirs.rank,
                theirs.error,
            )
            assert mine.top_probs == pytest.approx(theirs.top_probs, abs=1e-5)
    assert [path.name for path in tmp_path.glob("*.parts")] == []


def test_each_image_is_in_one_share() -> None:
    for world in range(1, 9):
        for count in (0, 1, 7, 8, 100):
            shares = [Processes(rank=rank, world=world).share(range(count)) for rank in range(world)]
            assert [index for share in shares for index in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_machines_without_common_storage_hand_their_records_over(model: Model, source: Source, tmp_path: Path) -> None:
    """Also those of an evaluation that was interrupted, of which each machine has a part."""

    written = (2, 2, 3)
    """Parts of two images each, after which a machine fails."""

    def parts_of(rank: int) -> int:
        return len(list((tmp_path / f"machine {rank}" / "p.jsonl.parts").glob("*.jsonl")))

    def interrupted(rank: int, group: Processes) -> Any:
        folder = tmp_path / f"machine {rank}"

        def advance(images: float) -> None:
            if parts_of(rank) == written[rank]:
                while group.leads and parts_of(1) + parts_of(2) < sum(written[1:]):
                    time.sleep(0.01)  # without the leading process the others would give up
                os.kill(os.getpid(), signal.SIGKILL)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("resnet_infer.predictions.recorder.PART_IMAGES", 2)
            recording = Recording(path=folder / "p.jsonl", resume=True)
            return evaluate(
                [Member(model, tuple(TESTS))],
                source,
                recording=recording,
                group=group,
                advance=advance,
                loading=Loading(workers=0, batch_size=1),
            )

    def whole(rank: int, group: Processes) -> Any:
        recording = Recording(path=tmp_path / f"machine {rank}" / "p.jsonl", resume=True)
        return evaluate(
            [Member(model, tuple(TESTS))], source, recording=recording, group=group, loading=Loading(workers=0)
        )

    assert ranks(3, interrupted, tmp_path) == [None] * 3
    rows, *_ = ranks(3, whole, tmp_path)
    alone = evaluate([Member(model, tuple(TESTS))], source)
    assert [(row.images, row.top1_errors, row.top5_errors) for row in rows] == [
        (row.images, row.top1_errors, row.top5_errors) for row in alone
    ]
    assert rows[0].resumed == 2 * sum(written)
    assert len(read_predictions(tmp_path / "machine 0" / "p.jsonl").records["multiscale"]) == COUNT
    assert [path.name for path in tmp_path.rglob("*.parts")] == []
    assert not (tmp_path / "machine 1" / "p.jsonl").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_or_hangs_is_an_error_of_the_others(
    victim: int, model: Model, source: Source, tmp_path: Path
) -> None:
    def task(rank: int, group: Processes) -> Any:
        def advance(images: float) -> None:
            if rank == victim and images:
                os.kill(os.getpid(), signal.SIGKILL)

        return evaluate([Member(model, tuple(TESTS))], source, group=group, advance=advance, loading=Loading(workers=0))

    results = ranks(3, task, tmp_path, patience_s=4)
    assert results[victim] is None
    for rank in {0, 1, 2} - {victim}:
        assert isinstance(results[rank], ProcessError)
    if victim:
        assert "process 1 of 3 gave no sign for 4 s, after 0 images; nothing is counted" in str(results[0])


def test_a_failure_of_one_process_is_told_by_all_at_once(model: Model, source: Source, tmp_path: Path) -> None:
    def task(rank: int, group: Processes) -> Any:
        def advance(images: float) -> None:
            if rank == 2 and images:
                raise DataError("no more memory")

        return evaluate([Member(model, tuple(TESTS))], source, group=group, advance=advance, loading=Loading(workers=0))

    begun = time.monotonic()
    results = ranks(3, task, tmp_path, patience_s=600)
    assert time.monotonic() - begun < 300
    assert str(results[2]) == "no more memory"
    assert "process 2 failed: no more memory" in str(results[0])


def test_processes_that_see_other_data_are_an_error(
    model: Model, source: Source, damaged: Source, tmp_path: Path
) -> None:
    smaller = open_source(source.name)
    smaller.samples = smaller.samples[:-1]  # type: ignore[misc]

    def task(rank: int, group: Processes) -> Any:
        return evaluate([Member(model, tuple(TESTS))], smaller if rank == 1 else source, group=group)

    results = ranks(2, task, tmp_path)
    assert "process 1 works on something else than process 0: the number of images: 40, not 41" in str(results[0])
    assert isinstance(results[0], ProcessError)


def test_an_unreadable_image_of_any_process_ends_the_evaluation_and_all_are_named(
    model: Model, damaged: Source, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def task(rank: int, group: Processes) -> Any:
        return evaluate(
            [Member(model, tuple(TESTS))], damaged, group=group, recording=Recording(path=tmp_path / "p.jsonl")
        )

    first, *_ = ranks(2, task, tmp_path)
    assert isinstance(first, DataError)
    assert f"{len(BROKEN)} of {COUNT} images cannot be read" in str(first)
    printed = capfd.readouterr().err
    assert all(printed.count(damaged.samples[index].name) == 1 for index in BROKEN)


def test_processes_that_never_come_are_an_error_in_time(tmp_path: Path) -> None:
    (alone, _) = ranks(2, lambda rank, group: "met", tmp_path, patience_s=2, missing=1)
    assert isinstance(alone, ProcessError)
    assert "process 0 of 2" in str(alone)
    assert "within 2 s" in str(alone)


def test_the_device_asked_for_is_made_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made without a device, as a stream, is of the current one, and a graph captured there is empty."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes("cuda:1") as group:
        assert current == [torch.device("cuda:1")] == [group.device]


def test_half_a_launchers_environment_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match=r"RANK is None.*torchrun"), processes("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'"), processes("cpu"):
        pass
