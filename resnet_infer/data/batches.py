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

    def add(self, key: Key, pixels: int, entry: Entry) -> Iterator[tuple[Key, list[Entry]]]:
        """Put an entry of so many pixels into its bucket; yields the batches that are due."""
        if self._pixels.get(key, 0) + pixels > self.budget and key in self._waiting:
            yield self._take(key)
        self._waiting.setdefault(key, []).append(entry)
        self._pixels[key] = self._pixels.get(key, 0) + pixels
        if self._pixels[key] + pixels > self.budget:
            yield self._take(key)
        while sum(self._pixels.values()) > HELD_BATCHES * self.budget:
            yield self._take(max(self._pixels, key=lambda k: self._pixels[k]))

    def rest(self) -> Iterator[tuple[Key, list[Entry]]]:
        """Everything still waiting."""
        while self._waiting:
            yield self._take(next(iter(self._waiting)))

    def _take(self, key: Key) -> tuple[Key, list[Entry]]:
        del self._pixels[key]
        return key, self._waiting.pop(key)
