"""Batches: every entry once, one size a batch, bounded pixels in a batch and in waiting, however entries come."""

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.pipeline.buckets import HELD_BATCHES, Buckets, parted

Due = tuple[tuple[str, int], list[list[int]]]
Coming = list[tuple[str, int, int]]
budgets = st.integers(1, 40)
arrivals = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 60), st.integers(1, 9)), max_size=60)
"""(name, pixels) of a key, and how many entries come at once."""


def numbered(arrivals: Coming) -> tuple[list[tuple[tuple[str, int], list[int]]], list[tuple[str, int]]]:
    """Pieces of entries 0, 1, 2 and so on with their keys, and every entry's key."""
    number = itertools.count()
    pieces = [((name, pixels), [next(number) for _ in range(count)]) for name, pixels, count in arrivals]
    return pieces, [key for key, piece in pieces for _ in piece]


def check(due: list[Due], budget: int, keys: list[tuple[str, int]]) -> None:
    """Every batch holds entries of its own key only, in the order they came, within the budget."""
    for key, pieces in due:
        entries = list(itertools.chain(*pieces))
        assert all(pieces)
        assert all(keys[entry] == key for entry in entries)
        assert entries == sorted(entries)
        assert len(entries) == 1 or len(entries) * key[1] <= budget


def entries_of(due: list[Due]) -> list[int]:
    return [entry for _, pieces in due for piece in pieces for entry in piece]


@given(arrivals, budgets)
def test_every_entry_comes_out_once_in_batches_of_one_key_within_the_budget(arrivals: Coming, budget: int) -> None:
    buckets: Buckets[tuple[str, int], list[int]] = Buckets(budget)
    pieces, keys = numbered(arrivals)
    due: list[Due] = []
    for key, piece in pieces:
        due += buckets.add(key, key[1], piece)
        waiting = set(range(piece[-1] + 1)) - set(entries_of(due))
        assert sum(keys[entry][1] for entry in waiting) <= HELD_BATCHES * budget
    due += buckets.rest()
    check(due, budget, keys)
    assert Counter(entries_of(due)) == Counter(range(len(keys)))
    assert list(buckets.rest()) == []


@given(st.integers(1, 20), st.integers(1, 100), st.integers(1, 50), st.integers(1, 9))
def test_entries_of_one_size_fill_their_batches(size: int, budget: int, count: int, at_once: int) -> None:
    buckets: Buckets[str, list[int]] = Buckets(budget)
    full = max(1, budget // size)
    due: list[list[int]] = []
    for number in range(count):
        piece = list(range(number * at_once, (number + 1) * at_once))
        due += [list(itertools.chain(*pieces)) for _, pieces in buckets.add("only", size, piece)]
        assert len(due) == (number + 1) * at_once // full  # a batch is due as soon as it is full
    due += [list(itertools.chain(*pieces)) for _, pieces in buckets.rest()]
    assert [len(entries) for entries in due[:-1]] == [full] * (-(-count * at_once // full) - 1)
    assert list(itertools.chain(*due)) == list(range(count * at_once))


def test_many_sizes_wait_within_bounds_and_the_fullest_goes_first() -> None:
    buckets: Buckets[int, list[int]] = Buckets(10)
    due = [key for key in range(100) for key, _ in buckets.add(key, 4 if key % 5 else 5, [key])]
    assert 0 < 100 - len(due) <= HELD_BATCHES * 10 // 4
    assert not any(key % 5 for key in due[:3])  # the larger ones


@given(arrivals, budgets, budgets, st.integers(0, 60))
def test_a_lowered_budget_holds_from_then_on(arrivals: Coming, one: int, other: int, moment: int) -> None:
    buckets: Buckets[tuple[str, int], list[int]] = Buckets(max(one, other))
    pieces, keys = numbered(arrivals)
    before: list[Due] = []
    after: list[Due] = []
    for number, (key, piece) in enumerate(pieces):
        if number == moment:
            buckets.budget = min(one, other)
        (after if number >= moment else before).extend(buckets.add(key, key[1], piece))
    buckets.budget = min(one, other)
    after += buckets.rest()
    check(before, max(one, other), keys)
    check(after, min(one, other), keys)
    assert sorted(entries_of(before + after)) == list(range(len(keys)))


@given(arrivals, budgets, st.lists(st.integers(1, 40), max_size=4))
def test_no_entry_is_lost_or_doubled_as_the_budget_falls(arrivals: Coming, budget: int, falls: list[int]) -> None:
    buckets: Buckets[tuple[str, int], list[int]] = Buckets(budget)
    pieces, keys = numbered(arrivals)
    out: list[int] = []
    for key, piece in pieces:
        for batch in buckets.add(key, key[1], piece):
            out += entries_of([batch])
            if falls:
                buckets.budget = min(buckets.budget, falls.pop())
        waiting = set(range(piece[-1] + 1)) - set(out)
        assert sum(keys[entry][1] for entry in waiting) <= HELD_BATCHES * buckets.budget
    out += entries_of(list(buckets.rest()))
    assert sorted(out) == list(range(len(keys)))


@given(st.lists(st.lists(st.integers(), min_size=1), max_size=6), st.integers(1, 30))
def test_pieces_are_parted_where_they_are_to_be(pieces: list[list[int]], count: int) -> None:
    first, rest = parted(pieces, count)
    whole = list(itertools.chain(*pieces))
    assert (list(itertools.chain(*first)), list(itertools.chain(*rest))) == (whole[:count], whole[count:])
    assert all(first)
    assert all(rest)
