"""Preprocessing: its defaults are torchvision's, its record comes back whole, nonsense is refused."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import ResNet50_Weights

from resnet_infer.errors import UsageError
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, changed

SIZES = st.tuples(st.integers(1, 8192), st.integers(1, 8192)).map(sorted)


@st.composite
def anything(draw: st.DrawFn) -> Preprocessing:
    channels, white = draw(st.sampled_from([1, 3, 4])), draw(st.sampled_from([1, 255]))
    low = 0.0 if white == 1 else 1.0
    crop, resize = draw(SIZES)
    return Preprocessing(
        mean=draw(st.tuples(*[st.floats(low, white)] * channels).filter(lambda mean: white == 1 or max(mean) > 1)),
        std=draw(st.tuples(*[st.floats(low, white, exclude_min=low == 0)] * channels)),
        crop=crop,
        resize=resize,
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "lanczos"])),
        channel_order="rgb" if channels == 1 else draw(st.sampled_from(["rgb", "bgr"])),
        input_range="0-1" if white == 1 else "0-255",
    )


def test_the_defaults_are_torchvisions() -> None:
    theirs, ours = ResNet50_Weights.IMAGENET1K_V1.transforms(), Preprocessing()
    assert [ours.resize] == theirs.resize_size
    assert [ours.crop] == theirs.crop_size
    assert list(ours.mean) == theirs.mean
    assert list(ours.std) == theirs.std
    assert ours.interpolation == theirs.interpolation.value


@given(anything())
def test_a_record_gives_the_same_preprocessing_back(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, 0.5, 0.5, 0.5)},
        {"mean": (0.5,)},
        {"mean": (), "std": ()},
        {"mean": (0.5, -0.5, 0.5)},
        {"mean": (300.0, 300.0, 300.0)},
        {"channel_order": "gbr"},
        {"channel_order": None},
        {"input_range": "0-1.0"},
        {"input_range": 255},
        {"channel_order": "bgr", "mean": (0.5,), "std": (0.5,)},
        {"mean": (0.5, 0.5, float("nan"))},
        {"mean": (0.5, 0.5, 10**400)},
        {"mean": "grey"},
        {"mean": 0.5},
        {"mean": None},
        {"std": (0.2, 0.2, 0.0)},
        {"std": (0.2, 0.2, -0.2)},
        {"std": (0.2, 0.2, float("inf"))},
        {"resize": 223},
        {"resize": 8193},
        {"resize": "large"},
        {"resize": float("inf")},
        {"crop": 0},
        {"crop": 257},
        {"crop": None},
        {"interpolation": "nearest"},
        {"interpolation": ["bilinear"]},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_nonsense_is_a_usage_error(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Preprocessing.from_dict(Preprocessing().to_dict() | wrong)


@pytest.mark.parametrize("key", ["mean", "std", "resize", "crop", "interpolation"])
def test_an_incomplete_record_is_a_usage_error(key: str) -> None:
    record = Preprocessing().to_dict()
    del record[key]
    with pytest.raises(UsageError, match=key):
        Preprocessing.from_dict(record)


def test_the_description_has_every_number_that_changes_an_accuracy() -> None:
    text = Preprocessing(
        mean=(0.11, 0.12, 0.13), std=(0.21, 0.22, 0.23), resize=301, crop=299, interpolation="bicubic"
    ).describe()
    for word in ("0.11", "0.12", "0.13", "0.21", "0.22", "0.23", "301", "299", "bicubic"):
        assert word in text


def test_what_the_first_records_did_not_have_is_the_default_and_is_not_stored() -> None:
    """Manifests of earlier releases load, and those of plain networks stay as they were."""
    plain = Preprocessing().to_dict()
    assert set(plain) == {"mean", "std", "resize", "crop", "interpolation"}
    caffe = replace(CAFFE, input_range="0-255").to_dict()
    assert set(caffe) - set(plain) == {"channel_order", "input_range"}


MEAN_255, STD_255 = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CAFFE = Preprocessing(
    mean=(103.939, 116.779, 123.68), std=(1, 1, 1), channel_order="bgr", input_range="0-255"
)  # deploy files of the paper's authors


def refused(**given: Any) -> str:
    with pytest.raises(UsageError) as caught:
        Preprocessing(**given)
    return str(caught.value)


def pasted(message: str) -> tuple[dict[str, Any], bool]:
    """The mean and std that a message gives to paste, and whether it names the other range."""
    mean, std = re.search(r"--mean (\S+) --std ([\d.,]+\d)", message).groups()  # type: ignore[union-attr]
    values = {"mean": tuple(map(float, mean.split(","))), "std": tuple(map(float, std.split(",")))}
    return values, "--input-range 0-255" in message


@pytest.mark.parametrize(
    ("mean", "std", "either"),
    [
        (MEAN_255, STD_255, True),
        (MEAN_255, (1, 1, 1), True),
        (MEAN_255, IMAGENET_STD, False),
        ((0, 0, 0), (255, 255, 255), True),
        (IMAGENET_MEAN, STD_255, False),
        ((127.5,), (127.5,), True),
    ],
)
def test_values_of_0_to_255_are_refused_with_the_divided_ones(
    mean: tuple[float, ...], std: tuple[float, ...], either: bool
) -> None:
    """The remedies work: what is printed can be pasted and, over 1, is the 255th part."""
    message = refused(mean=mean, std=std)
    values, named = pasted(message)
    assert named == either
    for name, said in (("mean", mean), ("std", std)):
        expected = [v / 255 for v in said] if max(said) > 1 else said
        assert values[name] == pytest.approx(expected, rel=1e-6)
    assert Preprocessing(**values).plain == (len(mean) == 3)
    if either:
        assert Preprocessing(mean=mean, std=std, input_range="0-255").mean == mean
    else:
        with pytest.raises(UsageError):
            Preprocessing(mean=mean, std=std, input_range="0-255")
    assert len(message) < 300  # as much as an error of a manifest repeats


def test_values_of_0_to_1_are_refused_where_the_range_is_0_to_255() -> None:
    for mean, std in ((IMAGENET_MEAN, IMAGENET_STD), (IMAGENET_MEAN, (1, 1, 1)), (MEAN_255, IMAGENET_STD)):
        message = refused(mean=mean, std=std, input_range="0-255")
        values, _ = pasted(message)
        assert Preprocessing(**values, input_range="0-255").mean == pytest.approx(MEAN_255)
        if "leave out" in message:
            Preprocessing(mean=mean, std=std)


@pytest.mark.parametrize(
    ("mean", "std", "range_"),
    [
        ((0, 0, 0), (1, 1, 1), "0-1"),
        ((1, 1, 1), (1, 1, 1), "0-1"),
        ((0, 0, 0), (1, 1, 1), "0-255"),
        ((0, 0, 0), (255, 255, 255), "0-255"),
        (CAFFE.mean, (1, 1, 1), "0-255"),
        ((0.1307,), (0.3081,), "0-1"),
        ((127.5,) * 4, (127.5,) * 4, "0-255"),
    ],
)
def test_what_networks_really_have_is_taken(mean: tuple[float, ...], std: tuple[float, ...], range_: Any) -> None:
    assert Preprocessing(mean=mean, std=std, input_range=range_).std == std


def test_order_and_range_are_not_changed_under_a_mean_that_was_given_for_others() -> None:
    rgb = Preprocessing()
    for said in ({"channel_order": "bgr"}, {"input_range": "0-255"}, {"channel_order": "bgr", "mean": IMAGENET_MEAN}):
        with pytest.raises(UsageError, match=r"--mean and --std"):
            changed(rgb, said)
    both = {"mean": CAFFE.mean, "std": CAFFE.std, "channel_order": "bgr", "input_range": "0-255"}
    assert changed(rgb, both) == CAFFE
    assert changed(CAFFE, {"channel_order": "bgr", "interpolation": "lanczos"}).interpolation == "lanczos"
    same = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # of any order
    assert changed(same, {"channel_order": "bgr"}).channel_order == "bgr"
    scaled = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))  # of any range
    assert changed(scaled, {"input_range": "0-255"}).input_range == "0-255"


@pytest.mark.parametrize(("channels", "numbers"), [(3, 1), (1, 3), (4, 3), (2, 3)])
def test_a_number_a_channel_is_asked_for(channels: int, numbers: int) -> None:
    takes = "one channel" if channels == 1 else f"{channels} channels"
    with pytest.raises(UsageError, match=rf"takes {takes}.*--mean has {numbers} numbers?;"):
        changed(Preprocessing(), {"mean": (0.5,) * numbers}, channels)
    own = Preprocessing(mean=(0.5,) * numbers, std=(0.5,) * numbers)
    with pytest.raises(UsageError, match=rf"takes {takes}.*{numbers} numbers? in.*--mean and --std"):
        changed(own, {}, channels)


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [
        (Preprocessing(), "RGB / 255, mean (0.485, 0.456, 0.406)"),
        (CAFFE, "BGR in 0..255, mean (103.939, 116.779, 123.68), std (1, 1, 1)"),
        (Preprocessing(mean=(0.5,), std=(0.25,)), "grey (luma of RGB) / 255, mean (0.5), std (0.25)"),
        (Preprocessing(mean=(0.5,) * 4, std=(1,) * 4), "RGBA (alpha opaque) / 255"),
        (Preprocessing(mean=(0.5,) * 4, std=(1,) * 4, channel_order="bgr"), "BGRA (alpha opaque) / 255"),
    ],
)
def test_the_description_says_channels_and_range(preprocessing: Preprocessing, words: str) -> None:
    assert words in preprocessing.describe()
