"""Lanczos: Pillow's to the bit, timm's transform whole, on the CPU alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from resnet_infer.backends.base import Normalize
from resnet_infer.backends.load import Model
from resnet_infer.data.source import Memory
from resnet_infer.errors import UsageError
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.render import render
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import Tile, single_crop

Picture = Callable[..., NDArray[np.uint8]]


def test_any_resize_is_pillows(picture: Picture) -> None:
    @settings(max_examples=60)
    @given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 200), st.integers(1, 200), st.booleans())
    def resized(height: int, width: int, to_height: int, to_width: int, contiguous: bool) -> None:
        pixels = picture(height, width, height)
        x_CHW = torch.from_numpy(pixels).permute(2, 0, 1)
        tile = Tile((to_height, to_width), to_height // 3, 0, to_height - to_height // 3, to_width, "lanczos")
        (ours,) = render(x_CHW.contiguous() if contiguous else x_CHW, [tile])
        pillows = np.asarray(Image.fromarray(pixels).resize((to_width, to_height), Image.Resampling.LANCZOS))
        assert np.array_equal(ours.numpy(), pillows[to_height // 3 :])

    resized()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_the_whole_transform_is_timms(picture: Picture, interpolation: Any) -> None:
    """Resize, crop, scale, mean and std; within the levels that resizing may differ by, none for lanczos."""
    ours = Preprocessing(interpolation=interpolation, resize=64, crop=56, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    theirs = create_transform(
        input_size=(3, 56, 56), crop_pct=56 / 64, interpolation=interpolation, mean=ours.mean, std=ours.std
    )
    for seed, (height, width) in enumerate(((80, 97), (131, 70), (64, 64))):
        image = Image.fromarray(picture(height, width, seed))
        (view,) = single_crop(64, 56, interpolation).views(height, width)
        (tile_HWC,) = render(torch.from_numpy(np.array(image)).permute(2, 0, 1), [view.tile])
        x_CHW = Normalize(ours, "cpu")(tile_HWC.permute(2, 0, 1)[None])[0]
        level = 1 / 255 / min(ours.std)
        assert (x_CHW - theirs(image)).abs().max() < (1e-5 if interpolation == "lanczos" else 2.01 * level)


@pytest.mark.parametrize("offload", ["rendering", "decoding"])
def test_no_device_renders_it(
    model_of: Callable[..., Model], small_net: Any, encode: Any, picture: Picture, offload: Any
) -> None:
    source = Memory("mine", [("a", encode(picture(40, 44)))])
    member = Member(model_of(small_net), (single_crop(40, 32, "lanczos"),))
    with pytest.raises(UsageError, match=r"lanczos.*leave out --render device and --decode device"):
        list(score([member], source, loading=Loading(offload=offload)))
    assert [image.error for image in score([member], source)] == [""]
    other = Member(member.model, (single_crop(40, 32, "bicubic"),))
    assert [image.error for image in score([other], source, loading=Loading(offload="rendering"))] == [""]
