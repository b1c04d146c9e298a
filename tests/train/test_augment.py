"""Augmentation against torchvision, Pillow and formulae."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from resnet_infer.train.augment import augment_batch, augment_image, colour_basis, crops, offsets, scale_of
from resnet_infer.train.recipe import RECIPES

CIFAR10, IMAGENET = RECIPES["cifar10"], RECIPES["imagenet"]


@pytest.fixture
def batch(picture: Callable[..., Any]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(picture(32, 32, seed)).permute(2, 0, 1) for seed in range(12)])


def test_cifar_batches_are_torchvisions_pad_crop_and_flip(batch: torch.Tensor) -> None:
    uniform_B4 = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
    ours = augment_batch(batch, uniform_B4, CIFAR10)
    for x_CHW, found, (top, left, mirror, _) in zip(batch, ours, uniform_B4.tolist(), strict=True):
        padded = tv.pad(x_CHW, [4, 4, 4, 4])  # black
        expected = tv.crop(padded, int(9 * top), int(9 * left), 32, 32)
        assert torch.equal(found, tv.horizontal_flip(expected) if mirror < 0.5 else expected)
    assert ours.dtype == torch.uint8
    assert 0 < sum(mirror < 0.5 for _, _, mirror, _ in uniform_B4.tolist()) < 12
    assert torch.equal(augment_image(batch[3], uniform_B4[3], CIFAR10), ours[3])


def test_no_mirror_means_none(batch: torch.Tensor) -> None:
    still = replace(CIFAR10, mirror=False, pad=0)
    assert torch.equal(augment_batch(batch, torch.rand(12, 4), still), batch)


def test_every_offset_is_as_likely() -> None:
    uniform = torch.from_numpy(np.linspace(0, 1, 90_000, endpoint=False, dtype=np.float32))
    counts = torch.bincount(offsets(uniform, 8), minlength=9)
    assert len(counts) == 9
    assert counts.tolist() == pytest.approx([10_000] * 9, abs=2)
    assert offsets(torch.tensor(1 - 2**-24), 8) == 8


def test_scales_are_256_to_480_inclusive() -> None:
    assert (scale_of(0.0, IMAGENET), scale_of(1 - 1e-9, IMAGENET)) == (256, 480)
    counts = np.bincount([scale_of(u, IMAGENET) - 256 for u in np.linspace(0, 1, 22_500, endpoint=False)])
    assert len(counts) == 225
    assert set(counts) <= {99, 100, 101}


@pytest.mark.parametrize(("height", "width"), [(300, 400), (500, 333)])
def test_imagenet_views_are_pillows(picture: Callable[..., Any], height: int, width: int) -> None:
    pixels = picture(height, width)
    top, left, mirror, scale = 0.3, 0.8, 0.2, 0.4
    found = augment_image(torch.from_numpy(pixels).permute(2, 0, 1), torch.tensor([top, left, mirror, scale]), IMAGENET)
    side = 256 + int(0.4 * 225)
    size = (int(side * width / height), side) if height < width else (side, int(side * height / width))
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    x, y = int(left * (size[0] - 224 + 1)), int(top * (size[1] - 224 + 1))
    expected = resized.crop((x, y, x + 224, y + 224)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    difference = np.abs(np.asarray(expected, dtype=int) - found.permute(1, 2, 0).numpy())
    assert difference.max() <= 2


def test_a_batch_may_be_scaled_too(batch: torch.Tensor) -> None:
    recipe = replace(CIFAR10, scale_min=36, scale_max=36, pad=0, mirror=False)
    found = augment_batch(batch, torch.zeros(12, 4), recipe)
    assert torch.equal(found, tv.resize(batch, [36, 36], antialias=True)[:, :, :32, :32])


def test_crops_keep_channels_innermost(batch: torch.Tensor) -> None:
    zeros = torch.zeros(12, dtype=torch.long)
    assert crops(batch, zeros, zeros, zeros.bool(), 16).is_contiguous(memory_format=torch.channels_last)


def test_colour_is_eigenvectors_times_alpha_times_eigenvalues() -> None:
    """AlexNet 4.1, with the components of fb.resnet.torch; rows are R, G, B."""
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    values = np.array([0.2175, 0.0188, 0.0045])
    alpha = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]])
    expected = [[sum(vectors[c, k] * 0.1 * a[k] * values[k] for k in range(3)) for c in range(3)] for a in alpha]
    found = torch.from_numpy(alpha).float() @ colour_basis(0.1)
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-7)
    first = colour_basis(0.1)[0] * 255
    assert float(first.norm()) == pytest.approx(5.55, abs=0.01)  # grey levels of one deviation
