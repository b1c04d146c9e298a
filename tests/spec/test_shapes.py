"""Input ranges by their definition, and profiles against every tile that a protocol cuts from every small picture."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import UsageError
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.protocols import CIFAR_SCALES, PAPER_SCALES, Protocol, multi_scale, single_crop, ten_crop
from resnet_infer.spec.shapes import ANY, BatchRange, Shape, ShapeRange, profiles_for, range_for

RESNET50, RESNET20 = spec_from_name("resnet50"), spec_from_name("resnet20")
CROPS = [single_crop(), single_crop(32, 32), ten_crop(), ten_crop(39, 34, mirror=False)]
ENDS = st.lists(st.integers(1, 500), min_size=3, max_size=3).map(sorted)


@st.composite
def shape_ranges(draw: st.DrawFn) -> ShapeRange:
    """Any valid range."""
    low, best, high = zip(draw(ENDS), draw(ENDS), draw(ENDS), strict=True)
    return ShapeRange(min=low, opt=best, max=high)


def fixed(batch: int, height: int, width: int) -> ShapeRange:
    """A range of one shape."""
    shape: Shape = (batch, height, width)
    return ShapeRange(min=shape, opt=shape, max=shape)


def pictures(max_aspect: float, longest: int = 60) -> Iterator[tuple[int, int]]:
    """Every (height, width) up to `longest` whose long side is at most `max_aspect` times its short one."""
    for height in range(1, longest + 1):
        for width in range(1, longest + 1):
            if max(height, width) <= max_aspect * min(height, width):
                yield height, width


def tiles(protocol: Protocol, max_aspect: float) -> set[tuple[int, int]]:
    """The sizes of all tiles of all those pictures."""
    return {(v.tile.height, v.tile.width) for size in pictures(max_aspect) for v in protocol.views(*size)}


@given(shape_ranges(), st.integers(1, 510), st.integers(1, 510))
def test_a_size_is_accepted_exactly_between_the_ends(accepted: ShapeRange, height: int, width: int) -> None:
    heights = range(accepted.min[1], accepted.max[1] + 1)
    widths = range(accepted.min[2], accepted.max[2] + 1)
    assert accepted.accepts(height, width) == (height in heights and width in widths)


@pytest.mark.parametrize(("height", "width", "expected"), [
    (32, 40, True), (64, 80, True), (48, 60, True), (31, 40, False), (32, 39, False), (65, 80, False), (64, 81, False),
    (80, 64, False),
])  # fmt: skip
def test_the_ends_themselves_are_accepted_and_one_pixel_beyond_is_not(height: int, width: int, expected: bool) -> None:
    accepted = ShapeRange(min=(1, 32, 40), opt=(4, 48, 60), max=(8, 64, 80))
    assert accepted.accepts(height, width) is expected


@pytest.mark.parametrize(("low", "high", "words"), [
    ((1, 224, 224), (32, 448, 448), "1..32 x 3 x 224..448 x 224..448"),
    ((8, 32, 32), (8, 32, 32), "8 x 3 x 32 x 32"),
    ((1, 32, 33), (ANY, ANY, 33), "1..any x 3 x 32..any x 33"),
])  # fmt: skip
def test_the_words_for_a_range(low: Shape, high: Shape, words: str) -> None:
    assert ShapeRange(min=low, opt=low, max=high).describe() == words


@given(shape_ranges())
def test_a_range_round_trips(accepted: ShapeRange) -> None:
    assert ShapeRange.from_dict(accepted.to_dict()) == accepted


@pytest.mark.parametrize(
    ("low", "best", "high"),
    [
        ([0, 1, 1], [1, 1, 1], [1, 1, 1]),  # no batch of none
        ([1, -5, 1], [1, 1, 1], [1, 1, 1]),
        ([2, 1, 1], [1, 1, 1], [2, 1, 1]),  # min over opt
        ([1, 1, 1], [1, 9, 1], [1, 8, 1]),  # opt over max
        ([1, 1, 1], [1, 1, 1], [1, 1, 2**31]),  # past 32 bits
        ([1, 1], [1, 1], [1, 1]),
        ([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]),
        (["a", 1, 1], [1, 1, 1], [1, 1, 1]),
        ([None, 1, 1], [1, 1, 1], [1, 1, 1]),
        (5, [1, 1, 1], [1, 1, 1]),
        ([1, 1, 1], None, [1, 1, 1]),
        ([1, 1, [1]], [1, 1, 1], [1, 1, 1]),
    ],
)
def test_a_range_out_of_order_or_malformed_is_refused(low: object, best: object, high: object) -> None:
    with pytest.raises(UsageError, match="shape range"):
        ShapeRange.from_dict({"min": low, "opt": best, "max": high})


@pytest.mark.parametrize("values", [None, [], {}, "min", 3, {"min": [1, 1, 1], "opt": [1, 1, 1]}])
def test_what_is_no_record_of_a_range_is_refused(values: object) -> None:
    with pytest.raises(UsageError, match="incomplete or malformed"):
        ShapeRange.from_dict(values)


@given(st.integers(-2, 6), st.integers(-2, 6), st.integers(-2, 6))
def test_a_batch_range_is_in_order_or_refused(low: int, best: int, high: int) -> None:
    if [low, best, high] == sorted([low, best, high]) and low > 0:
        made = BatchRange(min=low, opt=best, max=high)
        assert (made.min, made.opt, made.max) == (low, best, high)
    else:
        with pytest.raises(UsageError, match=rf"--batch-range.*got {low},{best},{high}"):
            BatchRange(min=low, opt=best, max=high)


def test_a_batch_range_ends_at_65535() -> None:
    assert BatchRange(max=65535).max == 65535
    with pytest.raises(UsageError, match="65536"):
        BatchRange(max=65536)


@pytest.mark.parametrize("protocol", CROPS, ids=lambda protocol: f"{protocol.name}-{protocol.crop}")
def test_crops_need_one_profile_of_one_size(protocol: Protocol) -> None:
    spec = RESNET50 if protocol.crop == 224 else RESNET20
    (profile,) = profiles_for(protocol, spec, BatchRange(min=2, opt=5, max=9))
    assert tiles(protocol, 3.0) == {(protocol.crop, protocol.crop)}
    side = protocol.crop
    best, most = (5, 9) if side == spec.native_size else (4, 7)  # 9 * 32 * 32 pixels hold 7 of 34, 5 hold 4.4
    assert profile == ShapeRange(min=(2, side, side), opt=(best, side, side), max=(most, side, side))


@pytest.mark.parametrize("max_aspect", [1.0, 1.5, 2.0, 2.25, 5.0])
@pytest.mark.parametrize("scales", [CIFAR_SCALES, PAPER_SCALES, (40, 33)], ids=["cifar", "paper", "two"])
def test_every_picture_up_to_the_aspect_fits_a_profile_of_its_scale(scales: tuple[int, ...], max_aspect: float) -> None:
    protocol = multi_scale(scales)
    profiles = profiles_for(protocol, RESNET20, BatchRange(), max_aspect)
    assert [profile.min[1:] for profile in profiles] == [(scale, scale) for scale in sorted(scales)]
    seen = tiles(protocol, max_aspect)
    assert {min(tile) for tile in seen} == set(scales)
    for height, width in seen:
        of_scale = profiles[sorted(scales).index(min(height, width))]
        assert of_scale.accepts(height, width)
        assert of_scale.accepts(width, height)
        assert range_for(profiles, height, width) is not None


@pytest.mark.parametrize("max_aspect", [1.0, 1.5, 2.0])
def test_a_longer_picture_fits_no_profile_of_its_scale(max_aspect: float) -> None:
    for profile, scale in zip(
        profiles_for(multi_scale(), RESNET50, BatchRange(), max_aspect), PAPER_SCALES, strict=True
    ):
        longest = int(scale * max_aspect)
        assert profile.accepts(scale, longest)
        assert profile.accepts(longest, scale)
        assert not profile.accepts(scale, longest + 1)
        assert not profile.accepts(longest + 1, scale)


@given(
    st.sampled_from([multi_scale(), multi_scale(CIFAR_SCALES)]),
    st.sampled_from([RESNET50, RESNET20]),
    st.lists(st.integers(1, 600), min_size=3, max_size=3).map(sorted),
    st.sampled_from([1.0, 1.25, 2.0, 4.0]),
)
def test_larger_tiles_make_smaller_batches_of_no_more_pixels(
    protocol: Protocol, spec: object, batch: list[int], max_aspect: float
) -> None:
    asked = BatchRange(min=batch[0], opt=batch[1], max=batch[2])
    side = 224 if spec is RESNET50 else 32
    profiles = profiles_for(protocol, RESNET50 if spec is RESNET50 else RESNET20, asked, max_aspect)
    for profile in profiles:
        assert all(1 <= a <= b <= c for a, b, c in zip(profile.min, profile.opt, profile.max, strict=True))
        assert profile.min[0] == asked.min
        assert profile.max[0] <= asked.max
        tuned = profile.opt[1] * profile.opt[2]
        assert profile.max[0] == asked.min or profile.max[0] * tuned <= asked.max * side**2
        assert profile.opt[0] == asked.min or (profile.opt[0] - 0.5) * tuned <= asked.opt * side**2
    most = [profile.max[0] for profile in profiles]
    assert most == sorted(most, reverse=True)


def test_the_papers_profiles_are_tuned_for_four_by_three_photographs() -> None:
    """Sizes as torchvision resizes a 375x500 picture; batches of 128 native tiles' pixels, worked out by hand."""
    profiles = profiles_for(multi_scale(), RESNET50, BatchRange())
    assert [p.opt[1:] for p in profiles] == [(224, 298), (256, 341), (384, 512), (480, 640), (640, 853)]
    assert [p.max for p in profiles] == [
        (96, 448, 448), (73, 512, 512), (32, 768, 768), (20, 960, 960), (11, 1280, 1280),
    ]  # fmt: skip


@pytest.mark.parametrize("max_aspect", [0.0, 0.99, -1.0, 40.5, 1e9, float("nan"), float("inf")])
def test_an_absurd_aspect_is_refused(max_aspect: float) -> None:
    with pytest.raises(UsageError, match=r"--max-aspect must be 1\.\.40"):
        profiles_for(multi_scale(), RESNET50, BatchRange(), max_aspect)


def test_of_overlapping_ranges_the_one_tuned_nearest_runs_a_size() -> None:
    profiles = profiles_for(multi_scale(), RESNET50, BatchRange())
    for index, scale in enumerate(PAPER_SCALES):
        assert range_for(profiles, scale, scale * 4 // 3) == index
        assert range_for(profiles, scale * 4 // 3, scale) == index
    assert range_for(profiles, 256, 341) == 1  # which the first accepts too
    assert profiles[0].accepts(256, 341)
    assert range_for(profiles, 223, 300) is None
    assert range_for(profiles, 640, 1281) is None
    assert range_for((), 32, 32) is None
    assert range_for([fixed(1, 32, 32), fixed(8, 48, 48)], 48, 48) == 1


@given(st.lists(shape_ranges(), max_size=4), st.integers(1, 500), st.integers(1, 500))
def test_the_chosen_range_accepts_the_size_and_none_is_nearer(
    ranges: list[ShapeRange], height: int, width: int
) -> None:
    chosen = range_for(ranges, height, width)
    distances = {
        index: abs(accepted.opt[1] * accepted.opt[2] - height * width)
        for index, accepted in enumerate(ranges)
        if accepted.accepts(height, width)
    }
    assert (chosen is None) == (not distances)
    if chosen is not None:
        assert distances[chosen] == min(distances.values())
