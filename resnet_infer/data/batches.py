"""Batches of tiles of one exact size, bounded in pixels, so that 224 and 640 pixels cost the same memory.

Tiles of different sizes never share a batch: padding would change their scores.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Entry = TypeVar("Entry")

HELD_BATCHES = 8
"""Full batches' worth of pixels that wait in unfilled buckets before the fullest one is run."""


class Buckets(Generic[Key, Entry]):
    """Entries waiting by key until a batch of them is full."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Pixels in one batch at most; a larger tile goes alone. May be lowered at any time."""
        self._waiting: dict[Key, list[Entry]] = {}
        self._pixels: dict[Key, int] = {}
        """Of one entry of this key."""
        self._held = 0
        """Pixels of everything that waits; kept, because every tile asks and there can be thousands of sizes."""

    def add(self, key: Key, pixels: int, entry: Entry) -> Iterator[tuple[Key, list[Entry]]]:
        """Put an entry of so many pixels, alike for all of its key, into its bucket; yields the batches due."""
        self._pixels[key] = pixels
        self._waiting.setdefault(key, []).append(entry)
        self._held += pixels
        while len(self._waiting.get(key, ())) * pixels > max(0, self.budget - pixels):
            yield self._take(key)
        while self._held > HELD_BATCHES * self.budget:
            yield self._take(max(self._waiting, key=lambda k: len(self._waiting[k]) * self._pixels[k]))

    def rest(self) -> Iterator[tuple[Key, list[Entry]]]:
        """Everything still waiting."""
        while self._waiting:
            yield self._take(next(iter(self._waiting)))

    def _take(self, key: Key) -> tuple[Key, list[Entry]]:
        entries = self._waiting.pop(key)
        room = max(1, self.budget // self._pixels[key])
        if len(entries) > room:  # the budget was lowered while they waited
            self._waiting[key] = entries[room:]
        self._held -= len(entries[:room]) * self._pixels[key]
        return key, entries[:room]
