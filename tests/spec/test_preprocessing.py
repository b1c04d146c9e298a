"""Preprocessing: its defaults are torchvision's, its record comes back whole, nonsense is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import ResNet50_Weights

from resnet_infer.errors import UsageError
from resnet_infer.spec.preprocessing import Preprocessing

FINITE = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
SIZES = st.tuples(st.integers(1, 8192), st.integers(1, 8192)).map(sorted)
ANY = st.builds(
    lambda mean, std, sizes, kind: Preprocessing(
        mean=mean, std=std, crop=sizes[0], resize=sizes[1], interpolation=kind
    ),
    st.tuples(FINITE, FINITE, FINITE),
    st.tuples(POSITIVE, POSITIVE, POSITIVE),
    SIZES,
    st.sampled_from(["bilinear", "bicubic"]),
)


def test_the_defaults_are_torchvisions() -> None:
    theirs, ours = ResNet50_Weights.IMAGENET1K_V1.transforms(), Preprocessing()
    assert [ours.resize] == theirs.resize_size
    assert [ours.crop] == theirs.crop_size
    assert list(ours.mean) == theirs.mean
    assert list(ours.std) == theirs.std
    assert ours.interpolation == theirs.interpolation.value


@given(ANY)
def test_a_record_gives_the_same_preprocessing_back(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, 0.5, 0.5, 0.5)},
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
