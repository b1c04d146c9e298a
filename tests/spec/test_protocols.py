"""Views of an image against torchvision's own crops and sizes, and the paper's section 3.4."""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from resnet_infer.errors import UsageError
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import (
    CIFAR_SCALES,
    PAPER_SCALES,
    Protocol,
    Tile,
    View,
    multi_scale,
    protocol_for,
    shorter_side_to,
    single_crop,
    ten_crop,
)

RESNET50, RESNET20 = spec_from_name("resnet50"), spec_from_name("resnet20")
IMAGENET, CIFAR = Preprocessing(), Preprocessing(resize=32, crop=32)
SIDES = st.integers(1, 700)
PROTOCOLS = st.sampled_from(
    [
        single_crop(),
        single_crop(33, 32),
        ten_crop(),
        ten_crop(39, 34, mirror=False),
        multi_scale(),
        multi_scale((40, 33), mirror=False, average="gap"),
        multi_scale(CIFAR_SCALES, average="map-logits"),
    ]
)


def noise(height: int, width: int) -> Tensor:
    """A picture no two rectangles of which are alike."""
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def pixels(x_CHW: Tensor) -> tuple[tuple[int, ...], bytes]:
    """A picture as a value that can be counted."""
    return tuple(x_CHW.shape), x_CHW.contiguous().numpy().tobytes()


def rendered(protocol: Protocol, x_CHW: Tensor) -> Iterator[Tensor]:
    """What the protocol's views of a picture show, by plain slicing and reversing."""
    for view in protocol.views(*x_CHW.shape[1:]):
        tile = view.tile
        resized_CHW = tv.resize(x_CHW, list(tile.resize), antialias=True)
        cut_CHW = resized_CHW[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        yield cut_CHW.flip(2) if view.mirrored else cut_CHW


# Sizes and margins: even and odd, landscape and portrait, square, and a margin of nothing.
CROPPED = [(50, 75, 40, 32), (50, 75, 40, 33), (75, 50, 41, 32), (77, 51, 37, 32), (60, 60, 35, 32), (45, 46, 32, 32)]


@pytest.mark.parametrize(("height", "width", "resize", "crop"), CROPPED)
def test_ten_crop_shows_torchvisions_ten_pictures(height: int, width: int, resize: int, crop: int) -> None:
    x_CHW = noise(height, width)
    theirs = tv.ten_crop(tv.resize(x_CHW, [resize], antialias=True), [crop, crop])
    ours = list(rendered(ten_crop(resize, crop), x_CHW))
    assert len(ours) == 10
    assert Counter(map(pixels, ours)) == Counter(map(pixels, theirs))


@pytest.mark.parametrize(("height", "width", "resize", "crop"), CROPPED)
def test_ten_crop_without_mirror_shows_torchvisions_five(height: int, width: int, resize: int, crop: int) -> None:
    x_CHW = noise(height, width)
    theirs = tv.five_crop(tv.resize(x_CHW, [resize], antialias=True), [crop, crop])
    ours = list(rendered(ten_crop(resize, crop, mirror=False), x_CHW))
    assert Counter(map(pixels, ours)) == Counter(map(pixels, theirs))


@pytest.mark.parametrize(("height", "width", "resize", "crop"), CROPPED)
def test_single_crop_shows_torchvisions_centre(height: int, width: int, resize: int, crop: int) -> None:
    x_CHW = noise(height, width)
    (ours,) = rendered(single_crop(resize, crop), x_CHW)
    assert torch.equal(ours, tv.center_crop(tv.resize(x_CHW, [resize], antialias=True), [crop, crop]))


def test_multi_scale_shows_the_whole_picture_and_its_mirror_at_every_scale() -> None:
    x_CHW = noise(50, 75)
    theirs = [tv.resize(x_CHW, [scale], antialias=True) for scale in CIFAR_SCALES]
    theirs += [tv.horizontal_flip(resized_CHW) for resized_CHW in theirs]
    assert Counter(map(pixels, rendered(multi_scale(CIFAR_SCALES), x_CHW))) == Counter(map(pixels, theirs))


@given(st.integers(1, 640), SIDES, SIDES)
def test_the_resized_size_is_torchvisions(scale: int, height: int, width: int) -> None:
    theirs = tv.resize(torch.empty(1, height, width, device="meta"), [scale])
    assert shorter_side_to(scale, height, width) == tuple(theirs.shape[1:])


def test_the_papers_scales_of_a_four_by_three_photo() -> None:
    """Windows of the 7x7 pool are 4, 10, 60, 126 and 294: why scales, and not windows, weigh alike."""
    sizes = [shorter_side_to(scale, 375, 500) for scale in PAPER_SCALES]
    assert sizes == [(224, 298), (256, 341), (384, 512), (480, 640), (640, 853)]
    windows = [(RESNET50.map_size(h) - 6) * (RESNET50.map_size(w) - 6) for h, w in sizes]
    assert windows == [4, 10, 60, 126, 294]


@given(PROTOCOLS, SIDES, SIDES)
def test_weights_sum_to_one_and_every_scale_weighs_the_same(protocol: Protocol, height: int, width: int) -> None:
    views = protocol.views(height, width)
    assert sum(view.weight for view in views) == pytest.approx(1, abs=1e-12)
    scales: Counter[int] = Counter()
    for view in views:
        scales[min(view.tile.resize)] += view.weight
    assert dict(scales) == pytest.approx({scale: 1 / len(protocol.scales) for scale in protocol.scales})
    mirrored = sum(view.weight for view in views if view.mirrored)
    assert mirrored == pytest.approx(0.5 if protocol.mirror else 0)


@given(PROTOCOLS, SIDES, SIDES)
def test_every_tile_lies_within_its_resized_picture(protocol: Protocol, height: int, width: int) -> None:
    for tile in (view.tile for view in protocol.views(height, width)):
        assert 0 <= tile.top <= tile.top + tile.height <= tile.resize[0]
        assert 0 <= tile.left <= tile.left + tile.width <= tile.resize[1]
        assert tile.height > 0 < tile.width


@given(PROTOCOLS, st.lists(st.tuples(SIDES, SIDES), max_size=5))
def test_shapes_are_the_distinct_sizes_of_all_tiles(protocol: Protocol, sizes: list[tuple[int, int]]) -> None:
    shapes = protocol.shapes(sizes)
    assert set(shapes) == {(v.tile.height, v.tile.width) for size in sizes for v in protocol.views(*size)}
    areas = [height * width for height, width in shapes]
    assert areas == sorted(areas)
    assert len(set(shapes)) == len(shapes)


def test_the_single_crop_of_cifar_is_the_picture_itself() -> None:
    protocol = protocol_for("single-crop", RESNET20, CIFAR)
    assert protocol.views(32, 32) == (View(Tile((32, 32), 0, 0, 32, 32), False, 1.0),)
    (shown,) = rendered(protocol, noise(32, 32))
    assert torch.equal(shown, noise(32, 32))


def test_protocols_as_the_paper_and_the_checkpoint_say() -> None:
    v2 = Preprocessing(resize=232, interpolation="bicubic")
    single = protocol_for("single-crop", RESNET50, v2)
    assert (single.scales, single.crop, single.mirror, single.interpolation) == ((232,), 224, False, "bicubic")
    ten = protocol_for("ten-crop", RESNET50, v2)
    assert (ten.scales, ten.crop, ten.mirror, ten.interpolation) == ((256,), 224, True, "bicubic")
    whole = protocol_for("multiscale", RESNET50, v2)
    assert (whole.scales, whole.crops, whole.mirror) == ((224, 256, 384, 480, 640), "whole", True)
    assert (whole.average, whole.interpolation) == ("window-softmax", "bicubic")
    assert protocol_for("multiscale", RESNET20, CIFAR).scales == (32, 36, 40, 44, 48)


def test_the_head_is_dense_only_where_windows_are_averaged() -> None:
    heads = {average: multi_scale(average=average).head for average in ("window-softmax", "map-logits", "gap")}
    assert heads == {"window-softmax": "dense", "map-logits": "dense", "gap": "pooled"}
    assert single_crop().head == ten_crop().head == "pooled"


def test_overrides_win() -> None:
    single = protocol_for("single-crop", RESNET50, IMAGENET, resize=300, crop=288)
    assert (single.scales, single.crop) == ((300,), 288)
    ten = protocol_for("ten-crop", RESNET50, IMAGENET, resize=300, crop=200, mirror=False)
    assert (ten.scales, ten.crop, ten.mirror) == ((300,), 200, False)
    whole = protocol_for("multiscale", RESNET50, IMAGENET, scales=(224, 320), mirror=False, average="map-logits")
    assert (whole.scales, whole.mirror, whole.average) == ((224, 320), False, "map-logits")


def test_a_larger_crop_alone_enlarges_the_resize_with_it() -> None:
    assert protocol_for("single-crop", RESNET50, IMAGENET, crop=288).scales == (288,)
    assert protocol_for("ten-crop", RESNET50, IMAGENET, crop=448).scales == (512,)


def test_scales_below_one_window_are_only_for_gap() -> None:
    """A 7x7 window of a map that is a 32nd needs 193 pixels."""
    with pytest.raises(UsageError, match=r"192 .*7x7.*193"):
        protocol_for("multiscale", RESNET50, IMAGENET, scales=(192, 256))
    assert protocol_for("multiscale", RESNET50, IMAGENET, scales=(193,)).scales == (193,)
    assert protocol_for("multiscale", RESNET50, IMAGENET, scales=(64,), average="gap").scales == (64,)
    with pytest.raises(UsageError, match="8x8"):
        protocol_for("multiscale", RESNET20, CIFAR, scales=(28,))


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("five-crop", {}, "single-crop, ten-crop, multiscale"),
        ("single-crop", {"mirror": True}, "--mirror"),
        ("single-crop", {"resize": 200}, "224.*200.*--resize"),
        ("single-crop", {"resize": 9000}, "8192"),
        ("single-crop", {"crop": -1}, "crop -1"),
        ("ten-crop", {"crop": 300, "resize": 256}, "300.*256"),
        ("multiscale", {"scales": (224, 224)}, "twice"),
        ("multiscale", {"scales": (224, 10**9)}, "8192"),
        ("multiscale", {"scales": (224, -1), "average": "gap"}, "-1"),
        ("multiscale", {"average": "logits"}, "window-softmax, map-logits, gap.*'logits'"),
    ],
)
def test_nonsense_is_a_usage_error(name: str, wrong: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        protocol_for(name, RESNET50, IMAGENET, **wrong)


def test_descriptions_tell_protocols_apart() -> None:
    protocols = [single_crop(), single_crop(232), ten_crop(), ten_crop(mirror=False), multi_scale((224, 320))]
    protocols += [multi_scale(), multi_scale(average="map-logits"), multi_scale(average="gap")]
    texts = [protocol.describe() for protocol in protocols]
    assert len(set(texts)) == len(texts)
    for protocol, text in zip(protocols, texts, strict=True):
        assert all(str(scale) in text for scale in protocol.scales)
        assert ("mirror" in text) == protocol.mirror
