"""From tiles to shares of scores: which passes a tile needs, and batches by size.

Shapes: B tiles, C is 3, H and W pixels, K classes, h and w positions of the score map, P protocols, R of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from resnet_infer.backends.base import Backend
from resnet_infer.errors import BackendError, OutOfMemory
from resnet_infer.pipeline.arrivals import Arrivals
from resnet_infer.pipeline.buckets import Buckets, parted
from resnet_infer.pipeline.render import distinct_tiles
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.protocols import Average, Protocol, Size
from resnet_infer.spec.shapes import range_for


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


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """What tiles must have in common to share a batch; compared by identity, as every group of tiles asks for it."""

    height: int
    width: int
    runs: Runs


lane_of = lru_cache(maxsize=4096)(Lane)
"""The one of these values."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of one size, and the slots of their images."""

    x_BHWC: Tensor
    slots: Sequence[int]

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, part: slice, /) -> "Tiles":
        return Tiles(self.x_BHWC[part], self.slots[part])

    def alone(self) -> "Tiles":
        """The same without the rest of the block that they are cut from."""
        if self.x_BHWC.untyped_storage().nbytes() == self.x_BHWC.numel():
            return self
        return Tiles(self.x_BHWC.clone(memory_format=torch.contiguous_format), self.slots)


class Batcher:
    """Where one member's tiles wait for their batch."""

    def __init__(
        self,
        backend: Backend,
        protocols: tuple[Protocol, ...],
        together: tuple[Protocol, ...],
        first: int,
        arrivals: Arrivals,
        budget: int,
    ) -> None:
        """`together` are the protocols of all members, and `first` is the row of this one's first."""
        self.backend = backend
        self.first = first
        self.arrivals = arrivals
        self.buckets: Buckets[Lane, Tiles] = Buckets(budget)

        def lanes(height: int, width: int) -> list[tuple[int, Lane]]:
            number = {tile: place for place, tile in enumerate(distinct_tiles(together, height, width))}
            needed = zip(distinct_tiles(protocols, height, width), plan(protocols, height, width), strict=True)
            return [(number[tile], lane_of(tile.height, tile.width, runs)) for tile, runs in needed]

        self.lanes = lru_cache(maxsize=4096)(lanes)
        """Of an image of (height, width) pixels, this member's tiles: position among all, and where it waits."""

    def add(self, slots: Sequence[int], size: Size, tiles: Sequence[Tensor]) -> None:
        """Take this member's tiles of a group of images; runs the batches that they fill."""
        for place, lane in self.lanes(*size):
            piece = Tiles(tiles[place], slots)
            for due, pieces in self.buckets.add(lane, lane.height * lane.width, piece):
                self._run(due, pieces)

    def let_go_of_blocks(self) -> None:
        """Keep no block in memory for the sake of a few tiles that wait."""
        self.buckets.change(Tiles.alone)

    def rest(self) -> None:
        """Run what still waits."""
        for due, pieces in self.buckets.rest():
            self._run(due, pieces)

    def _run(self, lane: Lane, pieces: list[Tiles]) -> None:
        shapes = self.backend.shapes
        profile = range_for(shapes, lane.height, lane.width)
        if profile is None:
            raise BackendError(
                f"{self.backend.info.artifact}: a view of {lane.width}x{lane.height} pixels is outside of what it "
                f"accepts ({', '.join(shape.describe() for shape in shapes)}); build it with a larger --max-aspect, or "
                "leave out the image"
            )
        while pieces:
            batch, pieces = parted(pieces, shapes[profile].max[0])
            self._score(lane, batch)

    def _score(self, lane: Lane, pieces: list[Tiles]) -> None:
        """Run a batch, in halves where memory runs out."""
        slots = [slot for piece in pieces for slot in piece.slots]
        try:
            numbers, probs_RBK = batch_shares(self.backend, lane.runs, [piece.x_BHWC for piece in pieces])
        except (OutOfMemory, torch.OutOfMemoryError) as error:
            if len(slots) == 1:
                raise OutOfMemory(
                    f"one tile of {lane.width}x{lane.height} does not fit the memory; leave out large scales"
                ) from error
        else:
            rows = [self.first + number for number in numbers]
            self.arrivals.add(slots, rows, probs_RBK, self.backend.info, (lane.height, lane.width))
            return
        half = len(slots) // 2
        self.buckets.budget = min(self.buckets.budget, half * lane.height * lane.width)
        for part in parted(pieces, half):
            self._score(lane, part)


def batch_shares(backend: Backend, runs: Runs, parts: list[Tensor]) -> tuple[list[int], Tensor]:
    """What a batch of tiles, in parts, adds to R protocols' probabilities: their numbers, and (R, B, K) float64.

    The benchmark times this very function.
    """
    x_BHWC = parts[0]
    if len(parts) > 1 or x_BHWC.device.type != "cpu" or not x_BHWC.is_contiguous():  # engines want aligned input
        x_BHWC = torch.cat(parts)
    x_BCHW = x_BHWC.permute(0, 3, 1, 2)
    sums: dict[int, Tensor] = {}
    for run in runs:
        scores_BKhw = backend.run(x_BCHW.flip(3) if run.mirrored else x_BCHW, run.head)
        for average, protocol, weight in run.shares:
            probs_BK = reduce_map(scores_BKhw, average).double() * weight
            sums[protocol] = sums[protocol].add_(probs_BK) if protocol in sums else probs_BK
    first, *others = sums.values()
    return list(sums), torch.stack((first, *others)) if others else first[None]


def reduce_map(scores_BKhw: Tensor, average: Average) -> Tensor:
    """One view's class probabilities from its map of logits: (B, K, h, w) to (B, K).

    `window-softmax`: softmax of every window, then the mean (SPP-net 3.1.5). `map-logits`: mean logits, then softmax
    (VGG 3.2). `gap` has one position, on which they agree.
    """
    if scores_BKhw.shape[2:] == (1, 1):
        return scores_BKhw[:, :, 0, 0].softmax(1)
    if average == "window-softmax":
        return scores_BKhw.softmax(1).mean((2, 3))
    return scores_BKhw.mean((2, 3)).softmax(1)
