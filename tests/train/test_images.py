"""Training images by both roads, and CIFAR-10's own batches."""

import gc
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_infer.data.classes import labels_of
from resnet_infer.data.open import open_source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.pipeline.decode import decode
from resnet_infer.train.fingerprint import fingerprint
from resnet_infer.train.images import InMemory, Streamed, read_into_memory
from resnet_infer.train.kept import Kept
from resnet_infer.train.recipe import RECIPES
from resnet_infer.train.stream import Stream

CIFAR10 = RECIPES["cifar10"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_what_memory_gives(images: Path, workers: int) -> None:
    source = open_source(images)
    classes = [i % 3 for i in range(24)]
    memory = InMemory(read_into_memory(source, 32, 0), classes, Stream(24, 8, 5), CIFAR10, CPU)
    streamed = Streamed(source, classes, Stream(24, 8, 5), CIFAR10, CPU, workers)
    for ours, theirs in zip(streamed.batches(2, 6), memory.batches(2, 6), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)


class Held:
    """In a cycle, so that only a collection ends it, and then it tells in which process."""

    def __init__(self, told: Path) -> None:
        self.itself, self.told = self, told

    def __del__(self) -> None:
        self.told.write_text(str(os.getpid()))


def test_a_worker_does_not_collect_what_it_was_forked_with(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory of a GPU is the parent's; in a forked process its release is an error."""

    def decode_and_collect(data: bytes) -> torch.Tensor:
        gc.collect()
        return decode(data)

    monkeypatch.setattr("resnet_infer.train.images.decode", decode_and_collect)
    streamed = Streamed(open_source(images), [0] * 24, Stream(24, 8, 0), CIFAR10, CPU, 1)
    gc.disable()
    try:
        Held(tmp_path / "ended in")
        assert len(list(streamed.batches(0, 2))) == 2
        assert not (tmp_path / "ended in").exists()
    finally:
        gc.enable()
    gc.collect()
    assert (tmp_path / "ended in").read_text() == str(os.getpid())


def test_the_mean_of_a_stream_is_that_of_its_centre_crops(write: Callable[..., Path], tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.zip", side=256))
    recipe = replace(RECIPES["imagenet"], batch=8)
    streamed = Streamed(source, [0] * 24, Stream(24, 8, 0), recipe, CPU, 0)
    pixels = [np.asarray(Kept(source).read(s)) for s in Kept(source).samples]
    expected = np.mean([p[16:240, 16:240] for p in pixels], axis=0) / 255
    assert streamed.mean_image().numpy() == pytest.approx(expected, abs=1e-6)


def test_larger_images_are_made_smaller(write: Callable[..., Path], tmp_path: Path) -> None:
    pixels = read_into_memory(open_source(write(tmp_path / "a.zip", side=64)), 32, 0)
    assert pixels.shape == (24, 32, 32, 3)


def test_kept_reads_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(images)
    kept = Kept(source)
    first = [kept.read(sample) for sample in kept.samples]
    monkeypatch.setattr(source, "read", None)  # a second reading would fail
    assert all(np.array_equal(kept.read(sample), pixels) for sample, pixels in zip(kept.samples, first, strict=True))
    assert [(s.name, s.label) for s in kept.samples] == [(s.name, s.label) for s in source.samples]


def test_a_fingerprint_is_of_names_and_classes(images: Path, test_images: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.zip"
    moved.write_bytes(images.read_bytes())
    begun = fingerprint(open_source(images))
    none = torch.zeros(0, dtype=torch.int64)
    begun.check(fingerprint(open_source(moved)), open_source(moved), tmp_path, none)
    with pytest.raises(UsageError, match="names or classes differ"):
        begun.check(fingerprint(open_source(test_images)), open_source(test_images), tmp_path, none)


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """A cifar-10-batches-py folder of two images a batch, each of one value: its batch's number."""
    meta = {b"label_names": [name.encode() for name in ("cat", "dog")]}
    (tmp_path / "batches.meta").write_bytes(pickle.dumps(meta, protocol=4))
    for number, name in enumerate(["test_batch", *(f"data_batch_{i}" for i in range(1, 6))]):
        data = np.full((2, 3072), number, dtype=np.uint8)
        batch: dict[bytes, Any] = {b"data": data, b"labels": [0, 1]}
        batch[b"filenames"] = [f"{number}{i}.png".encode() for i in range(2)]
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=4))
    return tmp_path


def test_cifars_own_training_batches(batches: Path) -> None:
    source = open_source(batches, "train")
    assert [int(np.asarray(source.read(s)).max()) for s in source.samples] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [s.label for s in source.samples] == ["cat", "dog"] * 5
    assert [int(np.asarray(open_source(batches).read(s)).max()) for s in open_source(batches).samples] == [0, 0]
    (batches / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3"):
        open_source(batches, "train")


def test_classes_are_the_folders(images: Path, tmp_path: Path, write: Callable[..., Path]) -> None:
    assert labels_of(open_source(images)).names == ("blue", "green", "red")
    for name in ("10", "9", "1"):
        (tmp_path / "numbers" / name).mkdir(parents=True)
        (tmp_path / "numbers" / name / "a.png").write_bytes(b"x")
    assert labels_of(open_source(tmp_path / "numbers")).names == ("1", "9", "10")
    for name in ("n01440764", "n02102040"):
        (tmp_path / "synsets" / name).mkdir(parents=True)
        (tmp_path / "synsets" / name / "a.png").write_bytes(b"x")
    labels = labels_of(open_source(tmp_path / "synsets"))
    assert (labels.ids, labels.names) == (("n01440764", "n02102040"), ("tench", "English springer"))
