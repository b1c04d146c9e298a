"""A contest of toy sides in real processes: what is checked, tried, timed and recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_sides

from benchmarks.peers import runner
from benchmarks.peers.agreement import agreement
from benchmarks.peers.runner import NotRun, check_here, hold, in_turns
from benchmarks.peers.sides import Claim, Contest, Side

SLOW, FAST = 0.2, 0.05


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that tests run on may be slow, or stop for a while."""
    monkeypatch.setattr(runner, "LONGEST_CALL_S", 3600.0)


def toy(name: str, **settings: Any) -> Side:
    return Side(name=name, start=toy_sides.start, settings=settings)


CONTEST = Contest(
    peer="toy",
    what="sleeping",
    theirs=[toy("plain", seconds=SLOW)],
    ours=[toy("ours", seconds=FAST)],
    claims=[Claim(name="plain", target=2.0), Claim(name="a lot", target=1000.0)],
    images=10,
    tolerance=0.01,
    files=(),
)


def test_what_agrees_is_timed_and_the_rest_is_recorded_and_left_out() -> None:
    theirs = [*CONTEST.theirs, toy("raises", does="raise"), toy("dies", does="die"), toy("other outputs", shift=0.02)]
    record = hold(replace(CONTEST, theirs=theirs), Path(), repeats=2, seconds=3600)
    errors = {entry["side"]: entry.get("error") for entry in record["tried"]}
    assert errors["plain"] is None
    assert errors["ours"] is None
    assert errors["raises"] == "ValueError: no such setting"
    assert "its process ended" in errors["dies"]
    assert "disagrees with plain: outputs differ by 0.02 of the largest" in errors["other outputs"]
    plain, lot = record["rows"]
    assert (plain["theirs"], plain["ours"]) == ("plain", "ours")
    assert plain["theirs_images_per_s"] <= 10 / SLOW  # a sleep is never shorter
    assert plain["ours_images_per_s"] <= 10 / FAST
    assert plain["ratio"] == pytest.approx(plain["ours_images_per_s"] / plain["theirs_images_per_s"])
    assert (plain["met"], lot["met"]) == (plain["ratio"] >= 2, False)
    assert {name: len(seconds) for name, seconds in record["seconds_in_turns"].items()} == {"plain": 2, "ours": 2}
    assert [entry["top1_errors"] for entry in record["tried"] if "seconds" in entry] == [2, 2]


def test_no_ratio_without_agreement() -> None:
    record = hold(replace(CONTEST, ours=[toy("ours", shift=-0.5)]), Path(), repeats=1, seconds=3600)
    assert len(record["rows"]) == 2
    for row in record["rows"]:
        assert row["error"].startswith("none of ours ran and agreed: disagrees with plain: outputs differ by 0.5 ")
        assert "ratio" not in row


def test_short_of_time_the_first_of_each_camp_are_timed_once() -> None:
    theirs = [*CONTEST.theirs, toy("later"), toy("last")]
    record = hold(replace(CONTEST, theirs=theirs), Path(), repeats=50, seconds=0.5)
    assert record["repeats"] == 1
    assert [entry.get("error") for entry in record["tried"]] == [None, None] + ["not tried: out of time"] * 2
    assert record["rows"][0]["ratio"] > 0
    assert record["rows"][0]["met"] is None  # what was not tried might be faster
    assert record["rows"][0]["theirs_untried"] == 2


def test_a_missing_package_is_a_reason() -> None:
    with pytest.raises(NotRun, match="not run: no_such_tool not installed"):
        check_here(replace(CONTEST, packages=["no_such_tool", "torch"]))


def test_camps_take_turns_when_they_are_tried() -> None:
    theirs, ours = [toy("a"), toy("b"), toy("c")], [toy("x"), toy("y"), toy("z"), toy("w")]
    assert "".join(side.name for side in in_turns(theirs, ours)) == "axbyczw"
    assert "".join(side.name for side in in_turns(theirs, ours[:1])) == "axbc"


def test_agreement_is_the_largest_difference_and_the_best_classes() -> None:
    reference_NK = np.array([[4.0, 1.0], [0.0, 3.0]], np.float32)
    same = agreement(reference_NK, reference_NK)
    assert (same.difference, same.same_best_class) == (0, 1)
    assert same.within(0)
    other = agreement(reference_NK, np.array([[4.0, 2.0], [3.5, 3.0]], np.float32))
    assert other.difference == pytest.approx(3.5 / 4)
    assert other.same_best_class == 0.5
    assert not other.within(1)  # a best class differs, however near
    for broken in (np.full((2, 2), np.nan, np.float32), reference_NK[:1]):
        assert not agreement(reference_NK, broken).within(1e9)
