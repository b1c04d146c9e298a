"""Rendering: Pillow's resize to one level, torchvision's resize and crops to the bit."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from resnet_infer.errors import ImageError
from resnet_infer.pipeline.decode import decode
from resnet_infer.pipeline.render import render
from resnet_infer.spec.protocols import Tile, multi_scale, shorter_side_to, single_crop, ten_crop

Picture = Callable[..., NDArray[np.uint8]]
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
sides = st.integers(1, 90)


def whole(height: int, width: int) -> Tile:
    return Tile((height, width), 0, 0, height, width)


def channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def levels_apart(pixels: NDArray[np.uint8], height: int, width: int, interpolation: str) -> NDArray[np.int64]:
    """The differences between our resized image and Pillow's."""
    (ours,) = render(channels_first(pixels), [replace(whole(height, width), interpolation=interpolation)])
    assert ours.shape == (height, width, 3)
    pillows = np.asarray(Image.fromarray(pixels).resize((width, height), PILLOW[interpolation]))
    apart: NDArray[np.int64] = np.abs(ours.numpy().astype(int) - pillows)
    return apart


@pytest.mark.parametrize("interpolation", PILLOW)
def test_any_resize_is_within_two_levels_of_pillows(interpolation: str, picture: Picture) -> None:
    """Two levels in fewer than one value of a thousand: the weights of torchvision's kernel have 16 bits."""

    @settings(max_examples=80)
    @given(st.integers(8, 90), st.integers(8, 90), st.integers(1, 200), st.integers(0, 9))
    def resized(height: int, width: int, scale: int, seed: int) -> None:
        apart = levels_apart(picture(height, width, seed), *shorter_side_to(scale, height, width), interpolation)
        assert apart.max() <= 2
        assert (apart > 1).mean() < 1e-3

    resized()


@pytest.mark.parametrize("interpolation", PILLOW)
@pytest.mark.parametrize("scale", [224, 480])
def test_photographs_are_resized_as_pillow_does(scale: int, interpolation: str, shared: Path) -> None:
    with zipfile.ZipFile(shared / "data/photos/photos.zip") as archive:
        for name in archive.namelist()[::16]:
            pixels = np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            height, width = shorter_side_to(scale, *pixels.shape[:2])
            assert levels_apart(pixels, height, width, interpolation).max() <= 1, name


@settings(max_examples=60)
@given(height=sides, width=sides, data=st.data())
def test_a_tile_is_a_slice_of_torchvisions_resize(height: int, width: int, data: st.DataObject) -> None:
    x_CHW = channels_first(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    to_height, to_width = data.draw(sides), data.draw(sides)
    resized_CHW = tv.resize(x_CHW, [to_height, to_width], antialias=True)
    top, left = data.draw(st.integers(0, to_height - 1)), data.draw(st.integers(0, to_width - 1))
    tile = Tile((to_height, to_width), top, left, to_height - top, data.draw(st.integers(1, to_width - left)))
    (cut_HWC,) = render(x_CHW, [tile])
    expected_CHW = resized_CHW[:, top:, left : left + tile.width]
    assert torch.equal(cut_HWC.permute(2, 0, 1), expected_CHW)


@pytest.mark.parametrize(("height", "width"), [(300, 401), (401, 300), (256, 256), (257, 511), (99, 130)])
@pytest.mark.parametrize("interpolation", PILLOW)
def test_the_views_of_ten_crop_are_torchvisions(height: int, width: int, interpolation: str, picture: Picture) -> None:
    x_CHW = channels_first(picture(height, width))
    resized_CHW = tv.resize(x_CHW, [256], tv.InterpolationMode(interpolation), antialias=True)
    expected = [crop_CHW.permute(1, 2, 0) for crop_CHW in tv.ten_crop(resized_CHW, [224, 224])]

    views = ten_crop(256, 224, interpolation=interpolation).views(height, width)
    tiles = render(x_CHW, [view.tile for view in views])
    ours = [tile.flip(1) if view.mirrored else tile for view, tile in zip(views, tiles, strict=True)]
    assert sorted(crop.contiguous().numpy().tobytes() for crop in ours) == sorted(
        crop.contiguous().numpy().tobytes() for crop in expected
    )


@pytest.mark.parametrize(("height", "width"), [(300, 401), (401, 300), (33, 70)])
def test_the_views_of_the_other_protocols_are_torchvisions(height: int, width: int, picture: Picture) -> None:
    x_CHW = channels_first(picture(height, width))
    (view,) = single_crop(256, 224).views(height, width)
    (tile_HWC,) = render(x_CHW, [view.tile])
    expected_CHW = tv.center_crop(tv.resize(x_CHW, [256], antialias=True), [224, 224])
    assert torch.equal(tile_HWC.permute(2, 0, 1), expected_CHW)

    protocol = multi_scale((64, 96))
    for view, scale in zip(protocol.views(height, width), (64, 64, 96, 96), strict=True):
        (tile_HWC,) = render(x_CHW, [view.tile])
        assert torch.equal(tile_HWC.permute(2, 0, 1), tv.resize(x_CHW, [scale], antialias=True))
    assert [view.mirrored for view in protocol.views(height, width)] == [False, True, False, True]


def test_how_pixels_lie_in_memory_does_not_matter(picture: Picture) -> None:
    innermost_CHW = channels_first(picture(50, 70))
    tiles = [whole(31, 43), whole(80, 112)]
    for ours, theirs in zip(render(innermost_CHW, tiles), render(innermost_CHW.contiguous(), tiles), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("height", "width"), [(4, 60_000), (60_000, 4), (1, 30_000)])
def test_an_image_too_long_and_thin_for_a_scale_is_an_image_error(height: int, width: int) -> None:
    x_CHW = decode(np.zeros((height, width, 3), np.uint8))
    for protocol in (multi_scale((640,)), single_crop(640, 224)):
        with pytest.raises(ImageError, match="too long and thin"):
            render(x_CHW, [view.tile for view in protocol.views(height, width)])
    views = multi_scale((4,)).views(height, width) if height > 1 else multi_scale((1,)).views(height, width)
    assert render(x_CHW, [views[0].tile])[0].shape == (*views[0].tile.resize, 3)
