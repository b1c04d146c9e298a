"""Images to rendered tiles, in worker processes: read and decode once, cut every tile of every protocol.

An image that cannot be read is a result too: its tiles are missing and its error says why.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from resnet_infer.data.decode import decode
from resnet_infer.data.render import render
from resnet_infer.data.sources import Source
from resnet_infer.data.workers import Allocate, Made, in_workers
from resnet_infer.errors import DataError
from resnet_infer.protocols import Protocol, Size, Tile

CHUNK = 16
"""Images that travel together from a worker: one message, one block of shared memory."""
FEW = 64
"""Up to so many images, starting worker processes costs more than it gains."""
IMAGE_TIMEOUT_S = 60.0
"""For one image in a worker process, from its first byte read to its last tile; the largest allowed take seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One image's tiles, or why there are none."""

    index: int
    """Position in the source."""
    size: Size = (0, 0)
    """(height, width) in pixels of the decoded image."""
    tiles: tuple[Tensor, ...] = ()
    """uint8, (height, width, 3), in the order of `distinct_tiles`."""
    error: str = ""


@lru_cache(maxsize=4096)
def distinct_tiles(protocols: tuple[Protocol, ...], height: int, width: int) -> tuple[Tile, ...]:
    """The tiles that all the protocols need of an image of this size, each once, in a fixed order."""
    return tuple(dict.fromkeys(view.tile for p in protocols for view in p.views(height, width)))


def auto_workers(images: int, device: str, guarded: bool = False) -> int:
    """A number of worker processes: none for few images; a quarter of the cores where the CPU runs the network too.

    There, a worker takes a core from the network's threads, which all wait for the slowest of them. `guarded` asks
    for one at least, since only a worker may crash or hang.
    """
    return max(_fitting(images, device), int(guarded))


def _fitting(images: int, device: str) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if images <= FEW:
        return 0
    return cores // 4 if device == "cpu" else max(1, cores - 1)


def load(
    source: Source,
    protocols: Sequence[Protocol],
    indices: Sequence[int],
    workers: int,
    image_timeout_s: float = IMAGE_TIMEOUT_S,
) -> Iterator[Rendered]:
    """Every image of `indices` in order, rendered; with no protocols, only decoded, to see whether it can be.

    All protocols of one pass share their interpolation. In worker processes, an image that crashes its decoder or
    takes longer than `image_timeout_s` is a record too. `workers` of 0 works in this process, without that guard.
    Raises DataError if worker processes cannot be kept alive.
    """
    if len({p.interpolation for p in protocols}) > 1:
        raise ValueError("protocols of one pass share their interpolation")
    chunks = _Chunks(source, tuple(protocols), indices)
    size = max(1, min(CHUNK, -(-len(indices) // max(1, 2 * workers))))
    if not workers:
        for at in range(0, len(indices), size):
            items = range(at, min(len(indices), at + size))
            yield from _unpacked(*chunks.make(items, lambda item: None, _here))
        return
    for task in in_workers(chunks, len(indices), size, workers, image_timeout_s):
        made = _unpacked(*task.made)
        for item in task.items:
            yield Rendered(index=indices[item], error=task.lost[item]) if item in task.lost else next(made)


def _here(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


Record = tuple[int, Size, tuple[tuple[int, int], ...], str]
"""(index, image size, tile sizes, error): a rendered image whose pixels lie in the chunk's block."""


class _Chunks:
    """Images by their position in `indices`, several at a time, with one block of pixels."""

    def __init__(self, source: Source, protocols: tuple[Protocol, ...], indices: Sequence[int]) -> None:
        self.source = source
        self.protocols = protocols
        self.indices = indices

    def name(self, item: int) -> str:
        return self.source.samples[self.indices[item]].name

    def make(self, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        rendered = []
        for item in items:
            begin(item)
            rendered.append(self._image(self.indices[item]))
        tiles = [tile for image in rendered for tile in image.tiles]
        pixels = allocate(sum(tile.numel() for tile in tiles))
        offset = 0
        for tile in tiles:  # straight from the resized image into the block: the only copy on this side
            pixels[offset : offset + tile.numel()].view(tile.shape).copy_(tile)
            offset += tile.numel()
        records = [
            (image.index, image.size, tuple((t.shape[0], t.shape[1]) for t in image.tiles), image.error)
            for image in rendered
        ]
        return pixels, records

    def _image(self, index: int) -> Rendered:
        try:
            x_CHW = decode(self.source.read(self.source.samples[index]))
            height, width = x_CHW.shape[1:]
            tiles = distinct_tiles(self.protocols, height, width)
            rendered = render(x_CHW, tiles, self.protocols[0].interpolation) if tiles else ()
        except OSError as error:
            return Rendered(index=index, error=error.strerror or str(error))
        except DataError as error:
            return Rendered(index=index, error=str(error))
        return Rendered(index=index, size=(height, width), tiles=tuple(rendered))


def _unpacked(pixels: Tensor, records: list[Record]) -> Iterator[Rendered]:
    offset = 0
    for index, size, tile_sizes, error in records:
        tiles = []
        for height, width in tile_sizes:
            count = 3 * height * width
            tiles.append(pixels[offset : offset + count].view(height, width, 3))
            offset += count
        yield Rendered(index=index, size=size, tiles=tuple(tiles), error=error)
