"""Axes: ticks are round, few and inside; places follow their scale; series are told apart by more than colour."""

import math
from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from resnet_infer.report import svg

positive = st.floats(1e-3, 1e7)


def is_round(value: float) -> bool:
    """At most two significant digits."""
    return math.isclose(float(f"{value:.1e}"), value, rel_tol=1e-9)


@given(positive, st.floats(1.05, 1e8))
def test_logarithmic_ticks_are_few_and_inside(low: float, ratio: float) -> None:
    high = low * ratio
    ticks = svg.log_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low * (1 - 1e-9) <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert all(a < b for a, b in pairwise(ticks))
    assert ratio < 2 or all(map(is_round, ticks))


@given(st.floats(0, 1e5), st.floats(1e-3, 1e5))
def test_linear_ticks_are_evenly_spaced_and_inside(low: float, span: float) -> None:
    assume(span > 1e-6 * low)
    ticks = svg.linear_ticks(low, low + span)
    assert 2 <= len(ticks) <= 7
    steps = [b - a for a, b in pairwise(ticks)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-4) for step in steps)
    assert low - 1e-6 * (low + span) <= ticks[0]
    assert ticks[-1] <= (low + span) * (1 + 1e-6)


@given(st.lists(positive, min_size=1, max_size=9))
def test_a_logarithmic_axis_holds_its_values_and_equal_ratios_are_equal_lengths(values: list[float]) -> None:
    axis = svg.log_axis(values, 50, 350, str)
    assert all(50 < axis.at(value) < 350 for value in values)
    assert math.isclose(axis.at(axis.low), 50)
    assert math.isclose(axis.at(axis.high), 350)
    middle = math.sqrt(axis.low * axis.high)
    assert math.isclose(axis.at(middle), 200)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_a_linear_axis_holds_its_values(values: list[float]) -> None:
    axis = svg.linear_axis(values, 240, 20, str)  # upwards
    assert all(20 <= axis.at(value) <= 240.0001 for value in values)
    assert math.isclose(axis.at((axis.low + axis.high) / 2), 130)


def test_no_two_of_24_series_look_alike_and_none_of_eight_without_colour() -> None:
    looks = [(n % svg.COLOURS, svg.dash(n)) for n in range(24)]
    assert len(set(looks)) == 24
    assert len({svg.dash(n) for n in range(8)}) == len({svg.MARKS[n] for n in range(8)}) == 8


def test_attributes_are_escaped_and_absent_ones_left_out() -> None:
    drawn = svg.shape("path", svg.shape("title", "<a> & b"), aria_label='"x" <y>', stroke_dasharray="", kind="line")
    assert drawn == ('<path aria-label="&quot;x&quot; &lt;y&gt;" class="line"><title>&lt;a&gt; &amp; b</title></path>')


def test_a_bar_stays_on_its_line() -> None:
    assert 'width="100"' in svg.bar(1.7, "s0")
    assert 'x="25" y="1" width="25"' in svg.bar(0.25, "s0", start=0.5)
