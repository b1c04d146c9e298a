"""Batches of tiles of one exact size, bounded in pixels, so that 224 and 640 pixels cost the same memory.

Tiles of different sizes never share a batch: padding would change their scores. Tiles come and go in pieces, which are
sequences of them: those of several images that lie side by side stay together.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)

HELD_BATCHES = 8
"""Full batches' worth of pixels that wait in unfilled buckets before the fullest one is run."""


class Piece(Protocol):
    """Entries that came together and can be parted."""

    def __len__(self) -> int: ...
    def __getitem__(self: "Entries", part: slice, /) -> "Entries": ...


Entries = TypeVar("Entries", bound=Piece)


class Buckets(Generic[Key, Entries]):
    """Entries waiting by key until a batch of them is full."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Pixels in one batch at most; a larger tile goes alone. May be lowered at any time."""
        self._waiting: dict[Key, list[Entries]] = {}
        self._counts: dict[Key, int] = {}
        """Entries that wait."""
        self._pixels: dict[Key, int] = {}
        """Of one entry of this key."""
        self._held = 0
        """Pixels of everything that waits; kept, because every piece asks and there can be thousands of sizes."""

    def add(self, key: Key, pixels: int, piece: Entries) -> Iterable[tuple[Key, list[Entries]]]:
        """Put a piece into its bucket, of so many pixels an entry, alike for all of its key; gives the batches due."""
        self._pixels[key] = pixels
        if key in self._waiting:
            self._waiting[key].append(piece)
            self._counts[key] += len(piece)
        else:
            self._waiting[key], self._counts[key] = [piece], len(piece)
        self._held += pixels * len(piece)
        return self._due(key) if self._full(key) or self._too_much() else ()

    def _full(self, key: Key) -> bool:
        return self._counts.get(key, 0) * self._pixels[key] > max(0, self.budget - self._pixels[key])

    def _too_much(self) -> bool:
        return self._held > HELD_BATCHES * self.budget

    def _due(self, key: Key) -> Iterator[tuple[Key, list[Entries]]]:
        while self._full(key):
            yield self._take(key)
        while self._too_much():
            yield self._take(max(self._counts, key=lambda k: self._counts[k] * self._pixels[k]))

    def change(self, how: Callable[[Entries], Entries]) -> None:
        """Put another piece of as many entries in the place of each that waits."""
        for pieces in self._waiting.values():
            pieces[:] = map(how, pieces)

    def rest(self) -> Iterator[tuple[Key, list[Entries]]]:
        """Everything still waiting."""
        while self._waiting:
            yield self._take(next(iter(self._waiting)))

    def _take(self, key: Key) -> tuple[Key, list[Entries]]:
        room = max(1, self.budget // self._pixels[key])
        taken, rest = parted(self._waiting.pop(key), room)
        count = self._counts.pop(key)
        if rest:  # a piece was larger, or the budget was lowered while it waited
            self._waiting[key] = rest
            self._counts[key] = count - room
        self._held -= min(count, room) * self._pixels[key]
        return key, taken


def parted(pieces: Sequence[Entries], count: int) -> tuple[list[Entries], list[Entries]]:
    """The first `count` entries, and the others."""
    for number, piece in enumerate(pieces):
        left = count - len(piece)
        if left <= 0:
            cut = [piece[count:]] if left else []
            return [*pieces[:number], piece[:count] if cut else piece], [*cut, *pieces[number + 1 :]]
        count = left
    return list(pieces), []
