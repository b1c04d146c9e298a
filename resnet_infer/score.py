"""The one path from images to class probabilities: decode, render, batch by size, run, average.

`predict`, `evaluate`, the export check and the demo all call `score`; there is no second loop. Several protocols
share one decode, and a tile that two of them need is run once.

Shapes: B tiles, C is 3, H and W pixels, K classes, h and w positions of the score map, P protocols.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from resnet_infer.backends.load import Model
from resnet_infer.batching import Arrivals, Batcher, Scored
from resnet_infer.data.loader import IMAGE_TIMEOUT_S, auto_workers, load
from resnet_infer.data.packing import Offload
from resnet_infer.data.render import distinct_tiles
from resnet_infer.data.sources import Source
from resnet_infer.data.transfer import Upload
from resnet_infer.errors import UsageError
from resnet_infer.protocols import Protocol
from resnet_infer.shapes import range_for

__all__ = ["Member", "Scored", "check_served", "score", "score_together"]

DEFAULT_BATCH = {("cpu", "imagenet"): 8, ("cpu", "cifar"): 64, ("cuda", "imagenet"): 256, ("cuda", "cifar"): 2048}
"""Tiles of the native size; batches of other sizes hold as many pixels. On a CPU more gains nothing."""


@dataclass(frozen=True, slots=True)
class Member:
    """A model and the protocols it is tested under, in its own preprocessing."""

    model: Model
    protocols: tuple[Protocol, ...]


def score(
    model: Model,
    protocols: Sequence[Protocol],
    source: Source,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    offload: Offload = "nothing",
    image_timeout_s: float | None = None,
) -> Iterator[Scored]:
    """Score images (all, or those of `indices`) under every protocol; results come as they are finished.

    `batch_size` counts tiles of the model's native size and bounds every batch by the same number of pixels; it is
    halved when the device runs out of memory. `offload` says what of preparing the images the device does; pixels
    may then differ by a level. An `image_timeout_s` has images decoded in worker processes, where one that crashes or
    hangs costs itself alone. No score depends on batch size, workers or order.

    Raises UsageError if the model's head or input shape cannot serve a protocol, BackendError if a score is not a
    number, OutOfMemory if a single tile does not fit.
    """
    return score_together(
        [Member(model, tuple(protocols))],
        source,
        indices=indices,
        batch_size=batch_size,
        workers=workers,
        offload=offload,
        image_timeout_s=image_timeout_s,
    )


def score_together(
    members: Sequence[Member],
    source: Source,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    offload: Offload = "nothing",
    image_timeout_s: float | None = None,
) -> Iterator[Scored]:
    """Score every image with several models over one decode; see `score`.

    The rows of `Scored.probs_PK` are the members' protocols, one member after another. Members have equally many
    classes and run on one device; UsageError if not.
    """
    for member in members:
        for protocol in member.protocols:
            check_served(member.model, protocol)
    device = _common("run on one device", {member.model.backend.info.device for member in members})
    classes = _common("have equally many classes", {member.model.manifest.spec.classes for member in members})
    indices = range(len(source.samples)) if indices is None else indices
    kind = "cuda" if device.startswith("cuda") else "cpu"
    workers = auto_workers(len(indices), kind, image_timeout_s is not None) if workers is None else workers
    protocols = tuple(protocol for member in members for protocol in member.protocols)
    arrivals = Arrivals(len(members), len(protocols), classes)
    batchers = []
    for number, member in enumerate(members):
        spec = member.model.manifest.spec
        pixels = (batch_size or DEFAULT_BATCH[kind, spec.stem]) * spec.native_size**2
        first = sum(len(earlier.protocols) for earlier in members[:number])
        batchers.append(Batcher(member.model.backend, member.protocols, first, arrivals, pixels))
    upload = Upload(torch.device(device))
    limit_s = image_timeout_s or IMAGE_TIMEOUT_S
    for image in load(source, protocols, indices, workers, limit_s, offload=offload, upload=upload):
        if image.error:
            yield Scored(index=image.index, probs_PK=None, error=image.error)
            continue
        tiles = dict(zip(distinct_tiles(protocols, *image.size), image.tiles, strict=True))
        pending = arrivals.expect(image.index)
        for batcher in batchers:
            batcher.add(pending, image.size, tiles)
        yield from arrivals.complete()
    for batcher in batchers:
        batcher.rest()
    yield from arrivals.complete()


Common = TypeVar("Common", int, str)


def _common(what: str, values: set[Common]) -> Common:
    if len(values) != 1:
        raise UsageError(f"models that are scored together {what}; got {', '.join(sorted(map(str, values)))}")
    return values.pop()


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
