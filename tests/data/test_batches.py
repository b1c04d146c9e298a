"""Batches: every entry once, one size a batch, bounded pixels in a batch and in waiting."""

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.data.batches import HELD_BATCHES, Buckets

Due = tuple[tuple[str, int], list[int]]
budgets = st.integers(1, 40)
arrivals = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 60)), max_size=80)


def check(due: list[Due], budget: int, pixels: list[int]) -> None:
    """Every batch holds entries of its own key only, in the order they came, within the budget."""
    for (_, size), entries in due:
        assert all(pixels[entry] == size for entry in entries)
        assert entries == sorted(entries)
        assert len(entries) == 1 or len(entries) * size <= budget


@given(arrivals, budgets)
def test_every_entry_comes_out_once_in_batches_of_one_key_within_the_budget(
    arrivals: list[tuple[str, int]], budget: int
) -> None:
    buckets: Buckets[tuple[str, int], int] = Buckets(budget)
    pixels = [size for _, size in arrivals]
    due: list[Due] = []
    for entry, key in enumerate(arrivals):
        due += buckets.add(key, key[1], entry)
        out = {entry for _, entries in due for entry in entries}
        assert sum(pixels[waiting] for waiting in range(entry + 1) if waiting not in out) <= HELD_BATCHES * budget
    due += buckets.rest()
    check(due, budget, pixels)
    assert Counter(entry for _, entries in due for entry in entries) == Counter(range(len(arrivals)))
    assert all(arrivals[entry] == key for key, entries in due for entry in entries)
    assert list(buckets.rest()) == []


@given(st.integers(1, 20), st.integers(1, 100), st.integers(1, 200))
def test_entries_of_one_size_fill_their_batches(size: int, budget: int, count: int) -> None:
    buckets: Buckets[str, int] = Buckets(budget)
    full = max(1, budget // size)
    due: list[list[int]] = []
    for entry in range(count):
        due += [entries for _, entries in buckets.add("only", size, entry)]
        assert len(due) == (entry + 1) // full  # a batch is due as soon as it is full
    due += [entries for _, entries in buckets.rest()]
    assert [len(entries) for entries in due[:-1]] == [full] * (-(-count // full) - 1)
    assert list(itertools.chain(*due)) == list(range(count))


def test_many_sizes_wait_within_bounds_and_the_fullest_goes_first() -> None:
    buckets: Buckets[int, int] = Buckets(10)
    due = [key for key in range(100) for key, _ in buckets.add(key, 4 if key % 5 else 5, key)]
    assert 0 < 100 - len(due) <= HELD_BATCHES * 10 // 4
    assert not any(key % 5 for key in due[:3])  # the larger ones


@given(arrivals, budgets, budgets, st.integers(0, 80))
def test_a_lowered_budget_holds_from_then_on(
    arrivals: list[tuple[str, int]], one: int, other: int, moment: int
) -> None:
    buckets: Buckets[tuple[str, int], int] = Buckets(max(one, other))
    pixels = [size for _, size in arrivals]
    before: list[Due] = []
    after: list[Due] = []
    for entry, key in enumerate(arrivals):
        if entry == moment:
            buckets.budget = min(one, other)
        (after if entry >= moment else before).extend(buckets.add(key, key[1], entry))
    buckets.budget = min(one, other)
    after += buckets.rest()
    check(before, max(one, other), pixels)
    check(after, min(one, other), pixels)
    assert sorted(entry for _, entries in before + after for entry in entries) == list(range(len(arrivals)))


@given(arrivals, budgets, st.lists(st.integers(1, 40), max_size=4))
def test_no_entry_is_lost_or_doubled_as_the_budget_falls(
    arrivals: list[tuple[str, int]], budget: int, falls: list[int]
) -> None:
    buckets: Buckets[tuple[str, int], int] = Buckets(budget)
    out: list[int] = []
    for entry, key in enumerate(arrivals):
        for _, entries in buckets.add(key, key[1], entry):
            out += entries
            if falls:
                buckets.budget = min(buckets.budget, falls.pop())
        waiting = set(range(entry + 1)) - set(out)
        assert sum(arrivals[number][1] for number in waiting) <= HELD_BATCHES * buckets.budget
    out += [entry for _, entries in buckets.rest() for entry in entries]
    assert sorted(out) == list(range(len(arrivals)))
