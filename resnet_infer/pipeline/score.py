"""The one path from images to class probabilities: decode, render, batch by size, run, average.

`predict`, `evaluate`, `compare`, calibration, the export gate and the benchmark all come here; `score_groups` is the
only loop, and `score` its view of one image at a time. Several protocols share one decode, and a tile that two of
them need is run once.

Shapes: B tiles, C is 3, H and W pixels, K classes, h and w positions of the score map, P protocols.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.data.source import Source
from resnet_infer.errors import UsageError
from resnet_infer.pipeline.arrivals import Arrivals, Finished, Reduce, everything
from resnet_infer.pipeline.batching import Batcher
from resnet_infer.pipeline.loader import Crew, auto_workers, load_chunks
from resnet_infer.pipeline.loading import DEFAULT, Loading
from resnet_infer.pipeline.packing import Chunk, ImageRecord, check_rendered
from resnet_infer.pipeline.transfer import Upload
from resnet_infer.spec.protocols import Protocol
from resnet_infer.spec.shapes import range_for

DEFAULT_BATCH = {("cpu", "imagenet"): 8, ("cpu", "cifar"): 64, ("cuda", "imagenet"): 256, ("cuda", "cifar"): 2048}
"""Tiles of the native size; batches of other sizes hold as many pixels. On a CPU more gains nothing."""
KEPT_BYTES = 2**30
"""Of blocks that come before the tiles that still wait are copied out of theirs, which would stay whole for them."""


@dataclass(frozen=True, slots=True)
class Member:
    """A model and the protocols it is tested under, in its own preprocessing."""

    model: Model
    protocols: tuple[Protocol, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One image's class probabilities under every protocol, or why there are none."""

    index: int
    """Position in the source."""
    probs_PK: Tensor | None
    """float32, on the CPU; each row sums to 1. None for an image that could not be read."""
    error: str = ""


def score(
    members: Sequence[Member],
    source: Source,
    *,
    indices: Sequence[int] | None = None,
    loading: Loading = DEFAULT,
    crew: Crew | None = None,
    seen: Callable[[ImageRecord], object] | None = None,
) -> Iterator[Scored]:
    """Score images (all, or those of `indices`) with every member over one decode; results come as they are finished.

    The rows of `Scored.probs_PK` are the members' protocols, one member after another. Members have equally many
    classes and run on one device. A `crew` of the source keeps its worker processes for the next pass.

    Raises UsageError if members do not go together, or a model's head or input shape cannot serve a protocol;
    BackendError if a score is not a number, OutOfMemory if a single tile does not fit.
    """
    for images in score_groups(members, source, indices=indices, loading=loading, crew=crew, seen=seen):
        if images.error:
            yield Scored(index=images.indices[0], probs_PK=None, error=images.error)
            continue
        for index, probs_PK in zip(images.indices, images.values[0], strict=True):
            yield Scored(index=index, probs_PK=probs_PK)


def score_groups(
    members: Sequence[Member],
    source: Source,
    *,
    reduce: Reduce = everything,
    indices: Sequence[int] | None = None,
    loading: Loading = DEFAULT,
    crew: Crew | None = None,
    seen: Callable[[ImageRecord], object] | None = None,
    hashed: bool = False,
) -> Generator[Finished, None, None]:
    """`score` for many images at a time: those that one batch finished, reduced to what is wanted of them.

    `reduce` is given the probabilities of each group on the device that the models run on, and only what it returns
    travels to the host. An image that could not be read comes alone. `seen` is called with the record of every image
    before it is scored; there is a hash of its bytes in it if they are to be `hashed`.
    """
    if loading.strict_decode and loading.offload == "decoding":
        raise UsageError("--strict-decode needs the CPU's decoder, which tells damage; leave out --decode device")
    for member in members:
        for protocol in member.protocols:
            check_served(member.model, protocol)
    protocols = tuple(protocol for member in members for protocol in member.protocols)
    check_rendered(protocols, loading.offload)
    device = torch.device(_common("run on one device", {member.model.backend.info.device for member in members}))
    classes = _common("have equally many classes", {member.model.manifest.spec.classes for member in members})
    indices = range(len(source.samples)) if indices is None else indices
    workers = loading.workers
    if workers is None:
        workers = auto_workers(len(indices), device.type, guarded=loading.image_timeout_s is not None)
    arrivals = Arrivals(device, len(protocols), classes, reduce)
    batchers = []
    first = 0
    for member in members:
        spec = member.model.manifest.spec
        pixels = (loading.batch_size or DEFAULT_BATCH[device.type, spec.family]) * spec.native_size**2
        batchers.append(Batcher(member.model.backend, member.protocols, protocols, first, arrivals, pixels))
        first += len(member.protocols)
    kept = 0
    with ExitStack() as stack:
        loaded = load_chunks(
            crew or stack.enter_context(Crew(source)),
            protocols,
            indices,
            workers,
            loading.limit_s,
            offload=loading.offload,
            hashed=hashed,
            strict=loading.strict_decode,
            upload=Upload(device),
        )
        for chunk in stack.enter_context(closing(loaded)):
            if seen:
                for record in chunk.records:
                    seen(record)
            for number, error in chunk.errors.items():
                yield Finished(indices=[chunk.records[number].index], error=error)
            for group in chunk.groups:
                slots = arrivals.expect(group.indices, sum(len(batcher.lanes(*group.size)) for batcher in batchers))
                for batcher in batchers:
                    batcher.add(slots, group.size, group.tiles)
                yield from arrivals.complete()
            kept += _bytes_behind(chunk)
            if kept > KEPT_BYTES:
                kept = 0
                for batcher in batchers:
                    batcher.let_go_of_blocks()
    for batcher in batchers:
        batcher.rest()
    arrivals.rest()
    yield from arrivals.complete()


def _bytes_behind(chunk: Chunk) -> int:
    """Of the blocks that a chunk's tiles are views of."""
    blocks = [tile.untyped_storage() for group in chunk.groups for tile in group.tiles]
    return sum({block.data_ptr(): block.nbytes() for block in blocks}.values())


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
    if protocol.average == "map-logits" and model.manifest.output == "probabilities":
        raise UsageError(
            f"{info.artifact} ends in a softmax, and map-logits averages what is before it, which small probabilities "
            "no longer tell; choose --average window-softmax, or export it without its softmax"
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
