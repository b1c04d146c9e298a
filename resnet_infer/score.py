"""The one path from images to class probabilities: decode, render, batch by size, run, average.

`predict`, `evaluate`, the export check and the demo all call `score`; there is no second loop. Several protocols
share one decode, and a tile that two of them need is run once.

Shapes: B tiles, C is 3, H and W pixels, K classes, h and w positions of the score map, P protocols.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from resnet_infer.backends.base import Backend
from resnet_infer.backends.load import Model
from resnet_infer.data.batches import Buckets
from resnet_infer.data.loader import IMAGE_TIMEOUT_S, Rendered, auto_workers, distinct_tiles, load
from resnet_infer.data.sources import Source
from resnet_infer.errors import BackendError, OutOfMemory, UsageError
from resnet_infer.protocols import Average, Protocol
from resnet_infer.shapes import range_for
from resnet_infer.specs import Head

DEFAULT_BATCH = {("cpu", "imagenet"): 8, ("cpu", "cifar"): 64, ("cuda", "imagenet"): 256, ("cuda", "cifar"): 2048}
"""Tiles of the native size; batches of other sizes hold as many pixels. On a CPU more gains nothing."""


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


def score(
    model: Model,
    protocols: Sequence[Protocol],
    source: Source,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    image_timeout_s: float | None = None,
) -> Iterator[Scored]:
    """Score images (all, or those of `indices`) under every protocol; results come as they are finished.

    `batch_size` counts tiles of the model's native size and bounds every batch by the same number of pixels; it is
    halved when the device runs out of memory. No score depends on batch size, workers or order.
    An `image_timeout_s` has images decoded in worker processes, where one that crashes or hangs costs itself alone.

    Raises UsageError if the model's head or input shape cannot serve a protocol, BackendError if a score is not a
    number, OutOfMemory if a single tile does not fit.
    """
    backend = model.backend
    for protocol in protocols:
        check_served(model, protocol)
    device = "cuda" if backend.info.device.startswith("cuda") else "cpu"
    spec = model.manifest.spec
    pixels = (batch_size or DEFAULT_BATCH[device, spec.stem]) * spec.native_size**2
    indices = range(len(source.samples)) if indices is None else indices
    workers = auto_workers(len(indices), device, image_timeout_s is not None) if workers is None else workers
    bench = _Bench(model.backend, tuple(protocols), spec.classes, pixels)
    for image in load(source, protocols, indices, workers, image_timeout_s or IMAGE_TIMEOUT_S):
        if image.error:
            yield Scored(index=image.index, probs_PK=None, error=image.error)
        else:
            yield from bench.add(image)
    yield from bench.rest()


def check_served(model: Model, protocol: Protocol) -> None:
    """Raise UsageError if the model cannot run this protocol, and say which model can."""
    info, shapes = model.backend.info, model.backend.shapes
    if protocol.head == "dense" and "dense" not in info.heads:
        raise UsageError(
            f"{info.artifact} has the pooled head, and {protocol.name} by {protocol.average} needs the dense one; "
            "export with --head dense, or choose --average gap"
        )
    if protocol.head == "pooled" and "pooled" not in info.heads and protocol.crops == "whole":
        raise UsageError(
            f"{info.artifact} has the dense head, and {protocol.name} by gap needs the pooled one; "
            "export with --head pooled, or choose --average window-softmax"
        )
    if protocol.head == "dense" and min(protocol.scales) < model.manifest.spec.min_dense_side:
        raise UsageError(
            f"{protocol.name}: scale {min(protocol.scales)} is smaller than the dense head's window; "
            f"{model.manifest.spec.name} needs at least {model.manifest.spec.min_dense_side} pixels"
        )
    accepted = ", ".join(shape.describe() for shape in shapes)
    if protocol.crops == "whole" and all(shape.min[1:] == shape.max[1:] for shape in shapes):
        raise UsageError(
            f"{info.artifact} takes {accepted} pixels only, and {protocol.name} scores whole images of any shape; "
            "choose a crop protocol, or export it with dynamic sides"
        )
    sides = protocol.scales if protocol.crops == "whole" else (protocol.crop,)
    for side in sides:
        if range_for(shapes, side, side) is None:
            raise UsageError(
                f"{info.artifact} takes {accepted} pixels, and {protocol.name} needs {side}; "
                "choose another size, or export it for this one"
            )


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


class _Pending:
    """An image some of whose tiles have not been run yet."""

    def __init__(self, index: int, tiles: int, protocols: int, classes: int) -> None:
        self.index = index
        self.tiles = tiles
        self.probs_PK = torch.zeros(protocols, classes, dtype=torch.float64)


class _Bench:
    """Where tiles wait for their batch, and images for their tiles."""

    def __init__(self, backend: Backend, protocols: tuple[Protocol, ...], classes: int, budget: int) -> None:
        self.backend = backend
        self.protocols = protocols
        self.classes = classes
        self.buckets: Buckets[tuple[int, int, Runs], tuple[_Pending, Tensor]] = Buckets(budget)

    def add(self, image: Rendered) -> Iterator[Scored]:
        """Take an image's tiles; yields the images, this one or others, that they complete."""
        pending = _Pending(image.index, len(image.tiles), len(self.protocols), self.classes)
        for tile_HWC, runs in zip(image.tiles, plan(self.protocols, *image.size), strict=True):
            height, width = tile_HWC.shape[:2]
            for due, entries in self.buckets.add((height, width, runs), height * width, (pending, tile_HWC)):
                yield from self._run(due[2], entries)

    def rest(self) -> Iterator[Scored]:
        """Run what still waits."""
        for due, entries in self.buckets.rest():
            yield from self._run(due[2], entries)

    def _run(self, runs: Runs, entries: list[tuple[_Pending, Tensor]]) -> Iterator[Scored]:
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
            for protocol, probs_BK in self._shares(runs, torch.stack([tile_HWC for _, tile_HWC in batch])):
                for (pending, _), probs_K in zip(batch, probs_BK, strict=True):
                    pending.probs_PK[protocol] += probs_K
            for pending, _ in batch:
                pending.tiles -= 1
                if not pending.tiles:
                    yield Scored(index=pending.index, probs_PK=pending.probs_PK.float())

    def _shares(self, runs: Runs, tiles_BHWC: Tensor) -> list[tuple[int, Tensor]]:
        """What these tiles add to each protocol's probabilities: (protocol, (B, K) float64 on the CPU)."""
        try:
            x_BCHW = tiles_BHWC.permute(0, 3, 1, 2).to(self.backend.info.device)
            return [share for run in runs for share in self._pass(run, x_BCHW)]
        except (OutOfMemory, torch.OutOfMemoryError) as error:
            batch, height, width, _ = tiles_BHWC.shape
            if batch == 1:
                raise OutOfMemory(
                    f"one tile of {width}x{height} does not fit the memory; leave out large scales"
                ) from error
        half = batch // 2
        self.buckets.budget = min(self.buckets.budget, half * height * width)
        parts = zip(self._shares(runs, tiles_BHWC[:half]), self._shares(runs, tiles_BHWC[half:]), strict=True)
        return [(protocol, torch.cat((first, second))) for (protocol, first), (_, second) in parts]

    def _pass(self, run: Run, x_BCHW: Tensor) -> Iterator[tuple[int, Tensor]]:
        scores_BKhw = self.backend.run(x_BCHW.flip(3) if run.mirrored else x_BCHW, run.head)
        for average, protocol, weight in run.shares:
            probs_BK = reduce_map(scores_BKhw, average).double().cpu()
            if not bool(torch.isfinite(probs_BK).all()):
                info, (height, width) = self.backend.info, x_BCHW.shape[2:]
                raise BackendError(
                    f"{info.artifact} gave scores that are not numbers at {width}x{height}: {info.precision} "
                    "overflows, or the weights are damaged; try --precision fp32"
                )
            yield protocol, probs_BK * weight


def reduce_map(scores_BKhw: Tensor, average: Average) -> Tensor:
    """One view's class probabilities from its map of logits: (B, K, h, w) to (B, K).

    `window-softmax`: softmax of every window, then the mean (SPP-net 3.1.5). `map-logits`: mean logits, then softmax
    (VGG 3.2). `gap` has one position, on which they agree.
    """
    if average == "window-softmax":
        return scores_BKhw.softmax(1).mean((2, 3))
    return scores_BKhw.mean((2, 3)).softmax(1)
