"""The result of a run as text, at most 80 columns."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 80


def lines(contest: Mapping[str, Any]) -> Iterator[str]:
    """A heading for the contest, and for every claim the two sides, their rates, the ratio and its target."""
    heading = f"{contest['peer']}: {contest['what']}"
    yield heading[:WIDTH]
    for row in contest["rows"]:
        if "error" in row:
            yield from wrapped(f"{row['claim']}: {row['error']}")
            continue
        target = "" if row["target"] is None else f"{row['target']:.2f}"
        verdict = {None: "", True: " met", False: " MISS"}[row["met"]]
        untried = row["theirs_untried"]
        yield (
            f"  {row['theirs'][:46]:46}{row['theirs_images_per_s']:8.1f}{row['ours_images_per_s']:8.1f}"
            f"{row['ratio']:6.2f}{target:>5}{verdict}"
        )
        if untried:
            yield f"    {untried} of their settings not tried, so this is no verdict: give more --minutes"
    if ours := next((row["ours"] for row in contest["rows"] if "ours" in row), None):
        yield f"    {ours}, {contest['repeats']} repeats, checked to {worst(contest):.0e}"[:WIDTH]
    for entry in contest["tried"]:
        if str(entry.get("error", "")).startswith("disagrees"):
            yield from wrapped(f"left out: {entry['side']}: {entry['error']}")


def worst(contest: Mapping[str, Any]) -> float:
    """Largest difference of a side that was timed."""
    return max((entry["difference"] for entry in contest["tried"] if "seconds" in entry), default=0.0)


def wrapped(text: str) -> list[str]:
    """An indented paragraph."""
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")


def header() -> str:
    """The columns."""
    return f"{'images/s, medians of sides in turns':48}{'theirs':>8}{'ours':>8}{'ratio':>6}{'target':>7}"
