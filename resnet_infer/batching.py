"""From tiles to averaged scores: which passes a tile needs, batches by size, and images that wait for their last tile.

Shapes: B tiles, C is 3, H and W pixels, K classes, h and w positions of the score map, P protocols, S of them.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from resnet_infer.backends.base import Backend
from resnet_infer.data.batches import Buckets
from resnet_infer.data.render import distinct_tiles
from resnet_infer.data.transfer import fetch
from resnet_infer.errors import BackendError, OutOfMemory
from resnet_infer.protocols import Average, Protocol, Size, Tile
from resnet_infer.shapes import range_for
from resnet_infer.specs import Head

BEHIND = 2
"""Batches that a GPU may be ahead of the scores that are read: the host never waits for the batch just begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One image's class probabilities under every protocol, or why there are none."""

    index: int
    """Position in the source."""
    probs_PK: Tensor | None
    """float32, on the CPU; each row sums to 1. None for an image that could not be read."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One pass of a tile through the network, and where its scores go."""

    head: Head
    mirrored: bool
    shares: tuple[tuple[Average, int, float], ...]
    """(average, protocol, weight)."""


Runs = tuple[Run, ...]


@lru_cache(maxsize=4096)
def plan(protocols: tuple[Protocol, ...], height: int, width: int) -> tuple[Runs, ...]:
    """For every tile of `distinct_tiles`, the passes through the network that it needs."""
    shares: dict[object, dict[tuple[Head, bool], list[tuple[Average, int, float]]]] = {
        tile: {} for tile in distinct_tiles(protocols, height, width)
    }
    for number, protocol in enumerate(protocols):
        for view in protocol.views(height, width):
            run = shares[view.tile].setdefault((protocol.head, view.mirrored), [])
            run.append((protocol.average, number, view.weight))
    return tuple(
        tuple(Run(head, mirrored, tuple(to)) for (head, mirrored), to in runs.items()) for runs in shares.values()
    )


class Pending:
    """An image some of whose tiles have not been run yet."""

    def __init__(self, index: int, members: int, protocols: int, classes: int) -> None:
        self.index = index
        self.open = members
        """Tiles that are to be run, and members that have not yet said how many theirs are."""
        self.probs_PK = torch.zeros(protocols, classes, dtype=torch.float64)


class Arrivals:
    """Images on their way through the network, and those that are finished."""

    def __init__(self, members: int, protocols: int, classes: int) -> None:
        self.shape = (members, protocols, classes)
        self.finished: list[Pending] = []

    def expect(self, index: int) -> Pending:
        return Pending(index, *self.shape)

    def settle(self, pending: Pending) -> None:
        """One thing less to wait for."""
        pending.open -= 1
        if not pending.open:
            self.finished.append(pending)

    def complete(self) -> Iterator[Scored]:
        """The images finished since the last call."""
        while self.finished:
            pending = self.finished.pop(0)
            yield Scored(index=pending.index, probs_PK=pending.probs_PK.float())


class Batcher:
    """Where one member's tiles wait for their batch, and its batches for their scores."""

    def __init__(
        self, backend: Backend, protocols: tuple[Protocol, ...], first: int, arrivals: Arrivals, budget: int
    ) -> None:
        self.backend = backend
        self.protocols = protocols
        self.first = first
        """Row of the member's first protocol."""
        self.arrivals = arrivals
        self.buckets: Buckets[tuple[int, int, Runs], tuple[Pending, Tensor]] = Buckets(budget)
        self.behind = BEHIND if self.backend.info.device.startswith("cuda") else 0
        self.running: deque[tuple[list[Pending], Size, list[int], Callable[[], Tensor]]] = deque()

    def add(self, pending: Pending, size: Size, tiles: Mapping[Tile, Tensor]) -> None:
        """Take this member's tiles of an image; runs the batches that they fill."""
        needed = distinct_tiles(self.protocols, *size)
        pending.open += len(needed)
        self.arrivals.settle(pending)
        for tile, runs in zip(needed, plan(self.protocols, *size), strict=True):
            key = (tile.height, tile.width, runs)
            for due, entries in self.buckets.add(key, tile.height * tile.width, (pending, tiles[tile])):
                self._run(due[2], entries)

    def rest(self) -> None:
        """Run what still waits, and wait for what runs."""
        for due, entries in self.buckets.rest():
            self._run(due[2], entries)
        while self.running:
            self._finish()

    def _run(self, runs: Runs, entries: list[tuple[Pending, Tensor]]) -> None:
        height, width = entries[0][1].shape[:2]
        shapes = self.backend.shapes
        profile = range_for(shapes, height, width)
        if profile is None:
            raise BackendError(
                f"{self.backend.info.artifact}: a view of {width}x{height} pixels is outside of what it accepts "
                f"({', '.join(shape.describe() for shape in shapes)}); build it with a larger --max-aspect, or leave "
                "out the image"
            )
        limit = shapes[profile].max[0]
        for at in range(0, len(entries), limit):
            batch = entries[at : at + limit]
            protocols, probs_SBK = self._shares(runs, [tile_HWC for _, tile_HWC in batch])
            self.running.append(([pending for pending, _ in batch], (height, width), protocols, fetch(probs_SBK)))
            while len(self.running) > self.behind:
                self._finish()

    def _finish(self) -> None:
        """Hand the oldest batch's scores to its images."""
        batch, (height, width), protocols, arrive = self.running.popleft()
        probs_SBK = arrive()
        if not bool(torch.isfinite(probs_SBK).all()):
            info = self.backend.info
            raise BackendError(
                f"{info.artifact} gave scores that are not numbers at {width}x{height}: {info.precision} overflows, or "
                "the weights are damaged; try --precision fp32"
            )
        for protocol, probs_BK in zip(protocols, probs_SBK, strict=True):
            for pending, probs_K in zip(batch, probs_BK, strict=True):
                pending.probs_PK[self.first + protocol] += probs_K
        for pending in batch:
            self.arrivals.settle(pending)

    def _shares(self, runs: Runs, tiles: list[Tensor]) -> tuple[list[int], Tensor]:
        """What these tiles add to protocols' probabilities: S protocols and (S, B, K) float64 on the device."""
        try:
            x_BCHW = torch.stack(tiles).permute(0, 3, 1, 2)
            shares = [share for run in runs for share in self._pass(run, x_BCHW)]
            return [protocol for protocol, _ in shares], torch.stack([probs_BK for _, probs_BK in shares])
        except (OutOfMemory, torch.OutOfMemoryError) as error:
            height, width = tiles[0].shape[:2]
            if len(tiles) == 1:
                raise OutOfMemory(
                    f"one tile of {width}x{height} does not fit the memory; leave out large scales"
                ) from error
        half = len(tiles) // 2
        self.buckets.budget = min(self.buckets.budget, half * height * width)
        protocols, first_SBK = self._shares(runs, tiles[:half])
        return protocols, torch.cat((first_SBK, self._shares(runs, tiles[half:])[1]), 1)

    def _pass(self, run: Run, x_BCHW: Tensor) -> Iterator[tuple[int, Tensor]]:
        scores_BKhw = self.backend.run(x_BCHW.flip(3) if run.mirrored else x_BCHW, run.head)
        for average, protocol, weight in run.shares:
            yield protocol, reduce_map(scores_BKhw, average).double() * weight


def reduce_map(scores_BKhw: Tensor, average: Average) -> Tensor:
    """One view's class probabilities from its map of logits: (B, K, h, w) to (B, K).

    `window-softmax`: softmax of every window, then the mean (SPP-net 3.1.5). `map-logits`: mean logits, then softmax
    (VGG 3.2). `gap` has one position, on which they agree.
    """
    if average == "window-softmax":
        return scores_BKhw.softmax(1).mean((2, 3))
    return scores_BKhw.mean((2, 3)).softmax(1)
