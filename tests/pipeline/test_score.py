"""The scoring path against its definition, one view at a time; and that nothing about the batching shows."""

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from resnet_infer.backends.base import Backend
from resnet_infer.backends.load import Model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Memory, Source
from resnet_infer.errors import BackendError, OutOfMemory, UsageError
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.batching import reduce_map
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, check_served, score
from resnet_infer.spec.protocols import Average, Protocol, multi_scale, single_crop, ten_crop
from resnet_infer.spec.shapes import ANY, ShapeRange

Picture = np.ndarray[Any, np.dtype[np.uint8]]
SIZES = ((48, 60), (60, 48), (32, 32), (33, 70), (100, 41), (48, 60))
SCALES = (32, 41)
PROTOCOLS = (
    single_crop(40, 32),
    ten_crop(41, 32),
    multi_scale(SCALES),
    multi_scale(SCALES, average="gap"),
    multi_scale(SCALES, average="map-logits", mirror=False),
)


@pytest.fixture(scope="module")
def images(picture: Callable[..., Picture]) -> list[Picture]:
    return [picture(height, width, seed) for seed, (height, width) in enumerate(SIZES)]


@pytest.fixture(scope="module")
def source(images: list[Picture]) -> Source:
    return Memory("memory", [(str(number), image) for number, image in enumerate(images)])


@pytest.fixture(scope="module")
def model(small_net: ResNet, model_of: Callable[..., Model]) -> Model:
    return model_of(small_net)


@pytest.fixture(scope="module")
def reference(naive: Any, small_net: ResNet) -> Any:
    """The same network, scored one view at a time."""
    return naive(small_net)


def scores(model: Model, protocols: Sequence[Protocol], source: Source, indices: Any = None, **how: Any) -> Tensor:
    """(images, protocols, classes), in the source's order."""
    found = score([Member(model, tuple(protocols))], source, indices=indices, loading=Loading(**how))
    results = {result.index: result.probs_PK for result in found}
    assert sorted(results) == sorted(indices or range(len(source.samples)))
    return torch.stack([probs_PK for _, probs_PK in sorted(results.items()) if probs_PK is not None])


# against the definition


def test_single_crop_is_the_naive_one(model: Model, source: Source, images: list[Picture], reference: Any) -> None:
    ours = scores(model, [single_crop(40, 32)], source)[:, 0]
    expected = torch.stack([reference.single_crop(image, 40, 32) for image in images])
    assert float(expected.std(0).mean()) > 0.01  # the images do differ to this network
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mirror", [True, False])
def test_ten_crop_is_the_naive_one(
    mirror: bool, model: Model, source: Source, images: list[Picture], reference: Any
) -> None:
    ours = scores(model, [ten_crop(41, 32, mirror=mirror)], source)[:, 0]
    expected = torch.stack([reference.ten_crop(image, 41, 32, mirror) for image in images])
    other = torch.stack([reference.ten_crop(image, 41, 32, not mirror) for image in images])
    assert (expected - other).abs().max() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("average", get_args(Average))
def test_multiscale_is_the_naive_one(
    average: Average, mirror: bool, model: Model, source: Source, images: list[Picture], reference: Any
) -> None:
    ours = scores(model, [multi_scale(SCALES, mirror=mirror, average=average)], source)[:, 0]
    for number, image in enumerate(images):
        expected = reference.multi_scale(image, SCALES, average, mirror)
        torch.testing.assert_close(ours[number], expected, rtol=0, atol=1e-5)


def test_the_averages_differ_but_not_on_the_native_size(model: Model, source: Source, images: list[Picture]) -> None:
    protocols = [multi_scale((41,), average=average) for average in get_args(Average)]
    large = scores(model, protocols, source)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (large[:, one] - large[:, other]).abs().max() > 1e-3

    native = Memory("native", [("0", images[2])])
    protocols = [multi_scale((32,), average=average, mirror=False) for average in get_args(Average)]
    same = scores(model, [*protocols, single_crop(32, 32)], native)[0]
    torch.testing.assert_close(same, same[:1].expand_as(same), rtol=0, atol=1e-6)


def test_probabilities_sum_to_one(model: Model, source: Source) -> None:
    probs_NPK = scores(model, PROTOCOLS, source)
    assert probs_NPK.shape == (len(SIZES), len(PROTOCOLS), 10)
    assert probs_NPK.dtype == torch.float32
    assert (probs_NPK >= 0).all()
    torch.testing.assert_close(probs_NPK.sum(2), torch.ones(probs_NPK.shape[:2]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("average", get_args(Average))
def test_a_map_is_reduced_by_its_formula(average: Average) -> None:
    map_BKhw = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    for logits_Khw, ours_K in zip(map_BKhw.numpy().astype(float), reduce_map(map_BKhw, average), strict=True):
        windows = [logits_Khw[:, row, column] for row in range(3) for column in range(5)]

        def softmax(logits_K: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.exp(logits_K) / np.exp(logits_K).sum()

        after = np.mean([softmax(window_K) for window_K in windows], 0)
        before = softmax(np.mean(windows, 0))
        np.testing.assert_allclose(ours_K, after if average == "window-softmax" else before, atol=1e-6)


# nothing about the batching shows


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("workers", [0, 2])
def test_scores_do_not_depend_on_batch_size_or_workers(
    batch_size: int, workers: int, model: Model, source: Source
) -> None:
    usual = scores(model, PROTOCOLS, source)
    ours = scores(model, PROTOCOLS, source, batch_size=batch_size, workers=workers)
    torch.testing.assert_close(ours, usual, rtol=0, atol=1e-5)


def test_scores_do_not_depend_on_order_or_company(model: Model, source: Source) -> None:
    usual = scores(model, PROTOCOLS, source)
    for indices in ([5, 3, 1, 0, 2, 4], [4, 1]):
        ours = scores(model, PROTOCOLS, source, indices=indices, batch_size=5)
        torch.testing.assert_close(ours, usual[sorted(indices)], rtol=0, atol=1e-5)


def test_scores_do_not_depend_on_the_other_protocols(model: Model, source: Source) -> None:
    together = scores(model, PROTOCOLS, source)
    backwards = scores(model, PROTOCOLS[::-1], source)
    torch.testing.assert_close(backwards.flip(1), together, rtol=0, atol=1e-5)
    for number, protocol in enumerate(PROTOCOLS):
        alone = scores(model, [protocol, protocol], source)
        torch.testing.assert_close(alone[:, 0], together[:, number], rtol=0, atol=1e-5)
        assert torch.equal(alone[:, 0], alone[:, 1])


def test_photographs_score_alike_however_they_are_batched(
    shared: Path, random_net: Callable[..., ResNet], model_of: Callable[..., Model], naive: Any
) -> None:
    photos = open_source(shared / "data/photos/photos.zip")
    net = random_net("resnet18", 1000)
    model = model_of(net)
    protocols = [single_crop(), multi_scale((224, 256))]
    indices = list(range(0, len(photos.samples), 9))
    usual = scores(model, protocols, photos, indices=indices)
    with zipfile.ZipFile(shared / "data/photos/photos.zip") as archive:
        first = np.array(Image.open(archive.open(sorted(archive.namelist())[0])).convert("RGB"))
    expected = naive(net).single_crop(first, 256, 224), naive(net).multi_scale(first, (224, 256), "window-softmax")
    torch.testing.assert_close(usual[0], torch.stack(expected), rtol=0, atol=1e-5)
    for options in ({"batch_size": 1, "workers": 0}, {"batch_size": 32, "workers": 2}):
        ours = scores(model, protocols, photos, indices=indices[::-1], **options)
        torch.testing.assert_close(ours, usual, rtol=0, atol=1e-5)


# out of memory, and what cannot be


class Observed:
    """A backend that keeps the sizes of its batches and has memory for so many pixels."""

    def __init__(self, backend: Backend, pixels: int = ANY, batch: int = ANY) -> None:
        self.backend = backend
        self.info = backend.info
        self.shapes = (ShapeRange(min=(1, 1, 1), opt=(1, 32, 32), max=(batch, ANY, ANY)),)
        self.pixels = pixels
        self.ran: list[tuple[int, ...]] = []
        self.refused = 0

    def run(self, x_BCHW: Tensor, head: Any) -> Tensor:
        if len(x_BCHW) * x_BCHW.shape[2] * x_BCHW.shape[3] > self.pixels:
            self.refused += 1
            raise OutOfMemory("does not fit")
        self.ran.append(tuple(x_BCHW.shape))
        return self.backend.run(x_BCHW, head)

    def close(self) -> None:
        """Nothing is held."""


def test_batches_are_bounded_in_pixels_and_by_the_backend(model: Model, source: Source) -> None:
    usual = scores(model, PROTOCOLS, source)
    watched = Observed(model.backend, batch=2)
    ours = scores(replace(model, backend=watched), PROTOCOLS, source, batch_size=3)
    torch.testing.assert_close(ours, usual, rtol=0, atol=1e-5)
    assert all(batch <= 2 and (batch == 1 or batch * h * w <= 3 * 32 * 32) for batch, _, h, w in watched.ran)
    assert max(batch for batch, *_ in watched.ran) == 2


@pytest.mark.parametrize("tiles", [1.0, 2.5, 7.0])
def test_out_of_memory_halves_batches_and_changes_no_score(tiles: float, model: Model, source: Source) -> None:
    usual = scores(model, PROTOCOLS[:2], source)
    tight = Observed(model.backend, pixels=int(tiles * 32 * 32))
    ours = scores(replace(model, backend=tight), PROTOCOLS[:2], source, batch_size=64)
    torch.testing.assert_close(ours, usual, rtol=0, atol=1e-5)
    assert tight.refused > 0


def test_after_out_of_memory_smaller_batches_are_tried_at_once(model: Model, picture: Callable[..., Picture]) -> None:
    many = Memory("many", [(str(seed), picture(32, 32, seed)) for seed in range(64)])
    tight = Observed(model.backend, pixels=4 * 32 * 32)
    scores(replace(model, backend=tight), [single_crop(32, 32)], many, batch_size=16)
    assert tight.refused == 3  # 16, then both halves of it; then the budget is 4
    assert [batch for batch, *_ in tight.ran] == [4] * 16


def test_a_single_tile_that_does_not_fit_is_out_of_memory(model: Model, source: Source) -> None:
    tight = Observed(model.backend, pixels=32 * 32 - 1)
    with pytest.raises(OutOfMemory):
        scores(replace(model, backend=tight), [single_crop(40, 32)], source)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("protocol", [single_crop(40, 32), multi_scale(SCALES)])
def test_scores_that_are_not_numbers_are_a_backend_error(
    value: float, protocol: Protocol, small_net: ResNet, model_of: Callable[..., Model], source: Source
) -> None:
    broken = model_of(small_net, fc__weight=torch.full((10, 64), value))
    with pytest.raises(BackendError, match=f"not numbers at {'32x32' if protocol.crop else r'[0-9]+x32'}"):
        scores(broken, [protocol], source, batch_size=1)


def test_a_protocol_that_the_backend_cannot_serve_is_refused(model: Model, source: Source) -> None:
    class Exported(Observed):
        def __init__(self, heads: tuple[Any, ...], side: tuple[int, int]) -> None:
            super().__init__(model.backend)
            self.info = replace(model.backend.info, heads=heads)
            self.shapes = (ShapeRange(min=(1, side[0], side[0]), opt=(1, 32, 32), max=(ANY, side[1], side[1])),)

    pooled, dense = (replace(model, backend=Exported((head,), (32, 64))) for head in ("pooled", "dense"))
    for served, protocol in (
        (pooled, single_crop(40, 32)),
        (pooled, multi_scale((32, 40), average="gap")),
        (dense, multi_scale((32, 40))),
        (dense, single_crop(40, 32)),  # one window of the dense head is the pooled one
    ):
        check_served(served, protocol)
    for model_, protocol, reason in (
        (pooled, multi_scale((32, 40)), "--head dense"),
        (dense, multi_scale((32, 40), average="gap"), "--head pooled"),
        (pooled, single_crop(40, 24), "32..64 x 32..64 pixels, and single-crop needs 24"),
        (dense, multi_scale((32, 65)), "multiscale needs 65"),
    ):
        for refuse in (lambda m, p: check_served(m, p), lambda m, p: next(score([Member(m, (p,))], source))):
            with pytest.raises(UsageError, match=reason):
                refuse(model_, protocol)


def test_an_image_outside_of_every_profile_is_an_error_that_says_its_size(model: Model) -> None:
    backend = Observed(model.backend)
    backend.shapes = (ShapeRange(min=(1, 32, 32), opt=(1, 32, 43), max=(ANY, 64, 64)),)
    wide = Memory("memory", [("wide", np.zeros((32, 90, 3), np.uint8))])
    with pytest.raises(BackendError, match=r"a view of 90x32 pixels is outside .* 32\.\.64.*--max-aspect"):
        scores(replace(model, backend=backend), [multi_scale((32,))], wide)


def test_a_scale_too_small_for_the_dense_window_is_refused(model: Model, source: Source) -> None:
    with pytest.raises(UsageError):
        scores(model, [multi_scale((16,))], source)


def test_unreadable_images_are_results_with_errors(
    model: Model, images: list[Picture], encode: Callable[..., bytes], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("0.png", encode(images[0]))
        archive.writestr("1.png", encode(images[1])[:-60])
    results = list(score([Member(model, tuple(PROTOCOLS))], open_source(tmp_path / "x.zip")))
    assert sorted((result.index, result.probs_PK is None, bool(result.error)) for result in results) == [
        (0, False, False),
        (1, True, True),
    ]
    assert os.listdir(tmp_path) == ["x.zip"]
