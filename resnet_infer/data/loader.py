"""Images to rendered tiles, in worker processes: read and decode once, cut every tile of every protocol.

An image that cannot be read is a result too: its tiles are missing and its error says why.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_infer.data.allocator import keep_freed_memory
from resnet_infer.data.decode import decode
from resnet_infer.data.render import render
from resnet_infer.data.sources import Source
from resnet_infer.errors import DataError
from resnet_infer.protocols import Protocol, Size, Tile

CHUNK = 16
"""Images that travel together from a worker: one message, one block of shared memory."""
FEW = 64
"""Up to so many images, starting worker processes costs more than it gains."""


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


def auto_workers(images: int, device: str) -> int:
    """A number of worker processes: none for few images; a quarter of the cores where the CPU runs the network too.

    There, a worker takes a core from the network's threads, which all wait for the slowest of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if images <= FEW:
        return 0
    return cores // 4 if device == "cpu" else max(1, cores - 1)


def load(source: Source, protocols: Sequence[Protocol], indices: Sequence[int], workers: int) -> Iterator[Rendered]:
    """Every image of `indices` in order, rendered; with no protocols, only decoded, to see whether it can be.

    All protocols of one pass share their interpolation. `workers` of 0 works in this process.
    Raises DataError if a worker process dies.
    """
    if len({p.interpolation for p in protocols}) > 1:
        raise ValueError("protocols of one pass share their interpolation")
    size = max(1, min(CHUNK, -(-len(indices) // max(1, 2 * workers))))
    chunks = [indices[at : at + size] for at in range(0, len(indices), size)]
    loader: DataLoader[Any] = DataLoader(
        _Chunks(source, tuple(protocols), chunks),
        batch_size=None,
        collate_fn=_as_it_is,
        worker_init_fn=_in_worker,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # its seed draw would otherwise disturb the caller's random numbers
    )
    try:
        for pixels, records in loader:
            yield from _unpacked(pixels, records)
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise DataError(
                f"{source.name}: a worker process died, perhaps for want of memory ({error}); try --workers 0"
            ) from error
        raise


def _in_worker(number: int) -> None:
    keep_freed_memory()


def _as_it_is(chunk: Any) -> Any:
    return chunk


Record = tuple[int, Size, tuple[tuple[int, int], ...], str]
"""(index, image size, tile sizes, error): a rendered image whose pixels lie in the chunk's block."""


class _Chunks(Dataset[tuple[Tensor, list[Record]]]):
    """Chunks of images; one block of pixels each, because every tensor sent costs a file descriptor."""

    def __init__(self, source: Source, protocols: tuple[Protocol, ...], chunks: Sequence[Sequence[int]]) -> None:
        self.source = source
        self.protocols = protocols
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, chunk: int) -> tuple[Tensor, list[Record]]:
        rendered = [self._image(index) for index in self.chunks[chunk]]
        tiles = [tile for image in rendered for tile in image.tiles]
        pixels = torch.empty(sum(tile.numel() for tile in tiles), dtype=torch.uint8)
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
