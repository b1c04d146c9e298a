"""Loading: the same tiles in the same order with any number of workers; what cannot be read is a record."""

import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

from resnet_infer.data.open import open_source
from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Memory, Source
from resnet_infer.pipeline import loader
from resnet_infer.pipeline.loader import CHUNK, FEW, Crew, auto_workers, load, load_chunks
from resnet_infer.pipeline.packing import Offload, Rendered
from resnet_infer.pipeline.render import distinct_tiles
from resnet_infer.spec.protocols import CIFAR_SCALES, multi_scale, single_crop, ten_crop

Picture = Callable[..., NDArray[np.uint8]]
Encode = Callable[..., bytes]
PROTOCOLS = (single_crop(24, 16), multi_scale((16, 24)))
COUNT = 2 * CHUNK + 5
BROKEN = (0, 7, COUNT - 1)


@pytest.fixture
def images(picture: Picture) -> list[NDArray[np.uint8]]:
    return [picture(20 + index % 7, 18 + index % 5, index) for index in range(COUNT)]


@pytest.fixture
def source(images: list[NDArray[np.uint8]], encode: Encode, tmp_path: Path) -> Source:
    """A zip of images of several sizes, three of them broken."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for index, image in enumerate(images):
            archive.writestr(f"{index:03}.png", b"broken" if index in BROKEN else encode(image))
    return open_source(tmp_path / "x.zip")


def same(one: Rendered, other: Rendered) -> bool:
    return (one.index, one.size, one.error, len(one.tiles)) == (
        other.index,
        other.size,
        other.error,
        len(other.tiles),
    ) and all(torch.equal(a, b) for a, b in zip(one.tiles, other.tiles, strict=True))


@pytest.mark.parametrize("offload", get_args(Offload))
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_tiles_come_in_order_and_broken_images_are_records_in_their_place(
    workers: int, offload: Offload, source: Source, images: list[NDArray[np.uint8]]
) -> None:
    indices = list(np.random.default_rng(0).permutation(COUNT).tolist())
    loaded = list(load(source, PROTOCOLS, indices, workers, offload=offload))
    assert [image.index for image in loaded] == indices
    for image in loaded:
        if image.index in BROKEN:
            assert image.error
            assert image.tiles == ()
            continue
        x_CHW = torch.from_numpy(images[image.index]).permute(2, 0, 1)
        at_16, at_24 = (tv.resize(x_CHW, [side], antialias=True) for side in (16, 24))
        expected = [tv.center_crop(at_24, [16, 16]), at_16, at_24]  # mirrored views need no tiles of their own
        assert image.size == images[image.index].shape[:2]
        assert image.error == ""
        for tile_HWC, view_CHW in zip(image.tiles, expected, strict=True):
            assert torch.equal(tile_HWC.permute(2, 0, 1), view_CHW)


def test_without_protocols_images_are_only_decoded(source: Source) -> None:
    for workers in (0, 2):
        loaded = list(load(source, (), range(COUNT), workers))
        assert [image.index for image in loaded if image.error] == list(BROKEN)
        assert all(image.tiles == () for image in loaded)
    assert list(load(source, (), (), 0)) == []


def test_a_missing_file_is_a_record_with_the_systems_words(tmp_path: Path, encode: Encode, picture: Picture) -> None:
    (tmp_path / "here.png").write_bytes(encode(picture(20, 20)))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "list.txt").write_text("gone.png\nhere.png\nfolder.png\n")
    gone, here, folder = load(open_source(tmp_path / "list.txt"), PROTOCOLS, range(3), 0)
    assert gone.error == os.strerror(2)
    assert here.error == ""
    assert folder.error == os.strerror(21)


def test_an_image_too_thin_for_a_scale_is_a_record(encode: Encode) -> None:
    thin = np.zeros((1, 30_000, 3), np.uint8)
    source = Memory("memory", [("thin", encode(thin)), ("also thin", thin), ("ok", thin[:, :40])])
    loaded = list(load(source, [multi_scale((640,))], range(3), 0))
    assert ["thin" in image.error for image in loaded] == [True, True, False]


def test_every_tile_is_rendered_once_however_many_views_need_it() -> None:
    protocols = (ten_crop(24, 16), ten_crop(24, 16, mirror=False), single_crop(24, 16), multi_scale((16, 24)))
    tiles = distinct_tiles(protocols, 30, 41)
    # the mirrored corners are the other corners; the mirrored centre is one pixel off where the margin is odd
    assert len(tiles) == len(set(tiles)) == {True: 5, False: 6}[(int(24 * 41 / 30) - 16) % 2 == 0] + 2
    assert set(tiles) == {view.tile for protocol in protocols for view in protocol.views(30, 41)}


def test_loading_does_not_disturb_random_numbers(source: Source) -> None:
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(load(source, PROTOCOLS, range(4), workers))
    assert torch.equal(torch.get_rng_state(), before)


class Fatal:
    """A source whose second image ends the process that reads it, as the kernel does when memory is short."""

    name = "fatal"
    samples = (Sample(name="0"), Sample(name="1"))
    left_out = ()

    def read(self, sample: Sample) -> bytes:
        if sample.name == "1":
            os._exit(9)
        return b""


def test_an_image_whose_worker_dies_is_a_record_in_its_place() -> None:
    zero, one = load(Fatal(), PROTOCOLS, (1, 0), 1)
    assert (zero.index, one.index) == (1, 0)
    assert "ended with exit code 9, twice" in zero.error
    assert one.error == "the file is empty"


class Slow(Memory):
    """A source whose second image never comes, as from a network drive that is gone."""

    def read(self, sample: Sample) -> Any:
        if sample.key == 1:
            time.sleep(600)
        return super().read(sample)


def test_an_image_that_takes_too_long_is_a_record(images: list[NDArray[np.uint8]]) -> None:
    source = Slow("slow", [(str(number), image) for number, image in enumerate(images[:6])])
    loaded = list(load(source, PROTOCOLS, range(6), 2, image_timeout_s=1.5))
    assert [image.index for image in loaded] == list(range(6))
    assert [image.error for image in loaded] == ["", "took longer than 1.5 s to read and decode", "", "", "", ""]


def test_protocols_of_one_pass_may_differ_in_interpolation(source: Source, images: list[NDArray[np.uint8]]) -> None:
    kinds = ("bilinear", "bicubic")
    (image,) = load(source, [multi_scale((24,), interpolation=kind) for kind in kinds], [1], 0)
    x_CHW = torch.from_numpy(images[1]).permute(2, 0, 1)
    for tile_HWC, kind in zip(image.tiles, kinds, strict=True):
        expected_CHW = tv.resize(x_CHW, [24], tv.InterpolationMode(kind), antialias=True)
        assert torch.equal(tile_HWC.permute(2, 0, 1), expected_CHW)


def test_few_images_start_no_workers() -> None:
    assert auto_workers(FEW, "cpu") == auto_workers(1, "cuda") == 0
    cores = os.cpu_count() or 1
    assert auto_workers(10**6, "cpu") <= cores // 4
    assert 1 <= auto_workers(10**6, "cuda") <= cores


def test_what_is_loaded_can_be_pickled(source: Source) -> None:
    image = next(load(source, PROTOCOLS, [1], 0))
    assert same(pickle.loads(pickle.dumps(image)), image)


@pytest.mark.parametrize("workers", [0, 2])
def test_large_images_travel_in_smaller_blocks(workers: int, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of about 4 kB an image: three fill a block of 10."""
    usual = list(load(source, PROTOCOLS, range(COUNT), 0))
    monkeypatch.setattr(loader, "BLOCK_BYTES", 10_000)
    with Crew(source) as crew:
        chunks = list(load_chunks(crew, PROTOCOLS, range(COUNT), workers))
    assert all(sum(record.length for record in chunk.records[:-1]) < 10_000 for chunk in chunks)
    assert len(chunks) > COUNT // CHUNK + 1
    found = [image for chunk in chunks for image in chunk.images()]
    assert all(same(one, other) for one, other in zip(found, usual, strict=True))


def test_an_image_whose_sizes_are_too_large_together_is_a_record(encode: Encode) -> None:
    """7281x1 is within the limit of one size at each of the CIFAR scales, and their tiles would be 178 MB."""
    thin = np.zeros((1, 7281, 3), np.uint8)
    source = Memory("memory", [("thin.png", encode(thin)), ("thin.jpg", encode(thin, "JPEG")), ("pixels", thin)])
    for offload in get_args(Offload):
        found = list(load(source, [multi_scale(CIFAR_SCALES)], range(3), 0, offload=offload))
        assert [image.error.partition(", over")[0] for image in found] == [
            "7281x1 is too long and thin: its 5 resized forms have 59.4 million pixels together"
        ] * 3
