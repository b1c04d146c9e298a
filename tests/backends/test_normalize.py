"""The input on the device: grey as Pillow makes it, BGR and 0..255 as Caffe's tools do, by formulas in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from resnet_infer.backends import fused
from resnet_infer.backends.base import Normalize
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

Picture = Callable[..., NDArray[np.uint8]]
CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), std=(1, 1, 1), channel_order="bgr", input_range="0-255")


def tiles(picture: Picture) -> list[NDArray[np.uint8]]:
    """Pictures, noise, and every end of every channel."""
    noise = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    ends = np.stack(np.meshgrid(*[[0, 1, 127, 128, 254, 255]] * 3), -1).reshape(12, 18, 3).astype(np.uint8)
    return [picture(33, 47, 1), noise, ends]


def ours(pixels_HWC: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(channels, H, W)."""
    x_BCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]
    result: NDArray[np.float32] = Normalize(preprocessing, "cpu")(x_BCHW)[0].numpy()
    return result


def test_plain_rgb_is_torchvisions(picture: Picture) -> None:
    theirs = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    for pixels in tiles(picture):
        np.testing.assert_allclose(ours(pixels, Preprocessing()), theirs(pixels).numpy(), atol=1e-6)


def test_caffe_subtracts_the_mean_of_bgr_bytes(picture: Picture) -> None:
    """As its own data layer does: whole numbers minus the mean, exact in float32 to a rounding."""
    for pixels in tiles(picture):
        expected = pixels[:, :, ::-1].astype(np.float64) - [103.939, 116.779, 123.68]
        np.testing.assert_allclose(ours(pixels, CAFFE).transpose(1, 2, 0), expected, atol=2e-5)


def test_grey_is_pillows_to_the_bit(picture: Picture) -> None:
    """With mean 0 and std 1 in 0..255 the network's input is the grey value itself."""
    itself = Preprocessing(mean=(0,), std=(1,), input_range="0-255")
    for pixels in tiles(picture):
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
        assert np.array_equal(ours(pixels, itself)[0], grey)
        scaled = ours(pixels, Preprocessing(mean=(0.45,), std=(0.22,)))[0]
        np.testing.assert_allclose(scaled, (grey / 255 - 0.45) / 0.22, atol=1e-6)


def test_every_colour_is_as_grey_as_pillow_has_it() -> None:
    """A fifth of all 16.7 million."""
    itself = Preprocessing(mean=(0,), std=(1,), input_range="0-255")
    normalize = Normalize(itself, "cpu")
    green, blue = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    for red in range(0, 256, 5):
        pixels = np.stack([np.full_like(green, red), green, blue], -1)
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
        assert np.array_equal(normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0, 0].numpy(), grey), red


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_alpha_is_opaque_and_comes_last(picture: Picture, order: Any) -> None:
    mean, std = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.6, 0.7, 0.8])
    preprocessing = Preprocessing(mean=tuple(mean), std=tuple(std), channel_order=order)
    for pixels in tiles(picture):
        rgba = np.asarray(Image.fromarray(pixels).convert("RGBA"))
        colours = rgba if order == "rgb" else rgba[:, :, [2, 1, 0, 3]]
        np.testing.assert_allclose(
            ours(pixels, preprocessing).transpose(1, 2, 0), (colours / 255 - mean) / std, atol=1e-6
        )


@pytest.mark.parametrize("preprocessing", [Preprocessing(), CAFFE, Preprocessing(mean=(0.5,) * 4, std=(0.5,) * 4)])
def test_the_memory_layout_is_kept(preprocessing: Preprocessing, picture: Picture) -> None:
    innermost = torch.from_numpy(picture(9, 11)).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
    innermost = innermost.contiguous(memory_format=torch.channels_last)
    made = Normalize(preprocessing, "cpu")(innermost)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(made, Normalize(preprocessing, "cpu")(innermost.contiguous()))


@pytest.mark.parametrize(
    ("preprocessing", "plain"),
    [
        (Preprocessing(), True),
        (Preprocessing(mean=(0.5,) * 3, std=(1,) * 3, interpolation="lanczos"), True),
        (CAFFE, False),
        (Preprocessing(channel_order="bgr"), False),
        (Preprocessing(mean=(0, 0, 0), std=(255, 255, 255), input_range="0-255"), False),
        (Preprocessing(mean=(0.5,), std=(0.5,)), False),
        (Preprocessing(mean=(0.5,) * 4, std=(0.5,) * 4), False),
    ],
)
def test_the_stems_own_kernels_are_for_plain_rgb_only(
    preprocessing: Preprocessing, plain: bool, monkeypatch: pytest.MonkeyPatch, small_net: ResNet
) -> None:
    """Which form is tried first on a GPU; none is here, so the form itself is not made."""
    tried = []
    monkeypatch.setattr(fused, "has_kernels", lambda spec, device: True)
    monkeypatch.setattr(fused, "FusedResNet", lambda *given, kernels: tried.append(kernels) or (given, kernels))
    monkeypatch.setattr(fused, "agrees", lambda *given: True)
    net = OnCuda(small_net)
    monkeypatch.setattr(fused, "_classifier", lambda net: net.fc)
    fused.fused_resnet(net, Normalize(preprocessing, "cpu"), torch.bfloat16, 32)  # type: ignore[arg-type]
    assert tried == [plain]


class OnCuda:
    """A network that says it is on a GPU."""

    def __init__(self, net: ResNet) -> None:
        self.spec, self.input_offset = net.spec, net.input_offset
        self.fc = type("fc", (), {"weight": type("weight", (), {"device": torch.device("cuda")})})


def test_fused_without_kernels_takes_any_input(small_net: ResNet, picture: Picture) -> None:
    """What runs on a GPU instead, on the CPU: the same logits as the plain network on the normalised input."""
    from resnet_infer.model.fold import fold_batch_norm

    net, normalize = fold_batch_norm(small_net), Normalize(CAFFE, "cpu")
    x_BCHW = torch.from_numpy(picture(32, 32, 3)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        fast = fused.FusedResNet(net, normalize, torch.float32, 32, kernels=False)
        torch.testing.assert_close(fast(x_BCHW), net(normalize(x_BCHW)), rtol=1e-4, atol=1e-3)
    with pytest.raises(AssertionError):
        fused.FusedResNet(net, normalize, torch.float32, 32, kernels=True)
