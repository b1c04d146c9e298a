"""What is left to the device changes where images are prepared, not what is scored."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Memory, Source
from resnet_infer.errors import OutOfMemory
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline import loader, packing
from resnet_infer.pipeline.loader import Crew, load_chunks
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.packing import How, Offload, pack, prepare, unpack
from resnet_infer.pipeline.render import distinct_tiles, in_regions, regions, render
from resnet_infer.pipeline.score import Member, score
from resnet_infer.pipeline.transfer import Upload
from resnet_infer.spec.protocols import Protocol, Tile, multi_scale, single_crop, ten_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
TESTS = (single_crop(40, 32), ten_crop(41, 32), multi_scale((32, 41)))


def scores(model: Model, source: Source, indices: list[int], offload: Offload) -> Tensor:
    """(images, protocols, classes), in the source's order."""
    results = score([Member(model, tuple(TESTS))], source, indices=indices, loading=Loading(offload=offload))
    return torch.stack([r.probs_PK for r in sorted(results, key=lambda r: r.index) if r.probs_PK is not None])


@pytest.mark.parametrize("offload", ["rendering", "decoding"])
def test_where_photographs_are_prepared_does_not_matter_on_a_cpu(
    offload: Offload, shared: Path, small_net: ResNet, model_of: Callable[..., Model]
) -> None:
    photos = open_source(shared / "data/photos/photos.zip")
    indices = list(range(0, len(photos.samples), 9))
    usual = scores(model_of(small_net), photos, indices, "nothing")
    ours = scores(model_of(small_net), photos, indices, offload)
    torch.testing.assert_close(ours, usual, rtol=0, atol=1e-5)


def test_broken_jpegs_are_named_when_the_device_decodes(
    small_net: ResNet,
    model_of: Callable[..., Model],
    picture: Callable[..., Picture],
    encode: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number, image in enumerate(picture(40, 50, seed) for seed in range(4)):
            data = encode(image, "JPEG")
            archive.writestr(f"{number}.jpg", data[: len(data) // 2] if number == 2 else data)
    usual, ours = (
        list(
            score(
                [Member(model_of(small_net), tuple(TESTS))],
                open_source(tmp_path / "x.zip"),
                loading=Loading(offload=offload),
            )
        )
        for offload in ("nothing", "decoding")
    )
    for results in (usual, ours):
        assert [(r.index, r.error != "") for r in sorted(results, key=lambda r: r.index)] == [
            (number, number == 2) for number in range(4)
        ]
    assert [r.error for r in usual if r.error] == [r.error for r in ours if r.error]


@settings(max_examples=50)
@given(st.data())
def test_tiles_cut_from_regions_are_the_tiles_rendered(data: st.DataObject) -> None:
    x_CHW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 23, 31), dtype=np.uint8))
    tiles = []
    for _ in range(data.draw(st.integers(1, 6))):
        height, width = data.draw(st.sampled_from([(20, 27), (31, 41)]))
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        size = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
        tiles.append(Tile((height, width), top, left, *size, data.draw(st.sampled_from(["bilinear", "bicubic"]))))
    parts = regions(tuple(tiles))
    assert len(parts) == len({(tile.resize, tile.interpolation) for tile in tiles})
    pixels = torch.cat([region_HWC.flatten() for region_HWC in render(x_CHW, parts)])
    length, places = in_regions(tuple(tiles))
    assert length == len(pixels)
    for (offset, stride, height, width), expected in zip(places, render(x_CHW, tiles), strict=True):
        assert torch.equal(pixels.as_strided((height, width, 3), (stride, 3, 1), offset), expected)


@pytest.mark.parametrize(
    ("protocols", "alike"),
    [(TESTS[:1], [[0, 1, 2, 3, 4, 5, 6]]), (TESTS, [[0, 2, 5], [1, 6], [3], [4]])],
)
def test_images_whose_tiles_lie_alike_are_cut_together_and_come_in_their_order(
    protocols: tuple[Protocol, ...], alike: list[list[int]], picture: Callable[..., Picture]
) -> None:
    """Centre crops lie alike in images of any size, corners and whole images in those of one."""
    sizes = [(40, 50), (60, 45), (40, 50), (61, 45), (60, 47), (40, 50), (60, 45)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    prepared = [prepare(10 + n, lambda image=image: image, How(protocols)) for n, image in enumerate(images)]
    prepared.insert(3, prepare(99, lambda: b"broken", How(protocols)))
    block, records = pack(prepared, lambda size: torch.empty(size, dtype=torch.uint8))
    chunk = unpack([(block, records)], protocols, Upload(torch.device("cpu")))
    found = list(chunk.images())
    assert [image.index for image in found] == [10, 11, 12, 99, 13, 14, 15, 16]
    assert [image.index for image in found if image.error] == [99]
    for image, pixels in zip([image for image in found if not image.error], images, strict=True):
        x_CHW = torch.from_numpy(pixels).permute(2, 0, 1)
        expected = render(x_CHW, distinct_tiles(protocols, *pixels.shape[:2]))
        assert all(torch.equal(a, b) for a, b in zip(image.tiles, expected, strict=True))
    groups = sorted(sorted(index - 10 for index in group.indices) for group in chunk.groups)
    assert groups == alike


@pytest.mark.parametrize("offload", ["rendering", "decoding"])
def test_large_images_are_not_all_in_the_devices_memory_together(
    offload: Offload, picture: Callable[..., Picture], encode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Memory("large", [(str(seed), encode(picture(96, 128, seed), "JPEG")) for seed in range(40)])
    (usual,) = load_chunks(Crew(source), TESTS, range(40), 0, offload=offload)
    most: list[int] = []

    def watched(x_BCHW: Tensor, tiles: Any) -> list[Tensor]:
        most.append(x_BCHW.shape[0] * x_BCHW.shape[2] * x_BCHW.shape[3])
        return render(x_BCHW, tiles)

    monkeypatch.setattr(packing, "render", watched)
    monkeypatch.setattr(packing, "TOGETHER", 5 * 96 * 128 + 1)
    monkeypatch.setattr(loader, "PIXELS", 20 * 96 * 128)
    chunks = list(load_chunks(Crew(source), TESTS, range(40), 0, offload=offload))
    assert [len(chunk.records) for chunk in chunks] == [32, 8]
    assert max(most) == 5 * 96 * 128
    for one, other in zip(usual.images(), (image for chunk in chunks for image in chunk.images()), strict=True):
        assert one.index == other.index
        assert all(torch.equal(a, b) for a, b in zip(one.tiles, other.tiles, strict=True))


def test_a_device_that_is_full_of_images_is_one_line(
    picture: Callable[..., Picture], encode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Memory("full", [("x", encode(picture(40, 50, 0), "JPEG"))])

    def full(x_BCHW: Tensor, tiles: Any) -> list[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(packing, "render", full)
    with pytest.raises(OutOfMemory, match="no room for the next images"):
        list(load_chunks(Crew(source), TESTS, [0], 0, offload="rendering"))
