"""Images to rendered tiles, in worker processes: read and decode once, cut every tile of every protocol.

An image that cannot be read is a result too: its tiles are missing and its error says why.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_infer.data.allocator import keep_freed_memory
from resnet_infer.data.packing import Offload, Prepared, Record, Rendered, pack, prepare, unpack
from resnet_infer.data.sources import Source
from resnet_infer.errors import DataError
from resnet_infer.protocols import Protocol

CHUNK = 16
"""Images that travel together from a worker: one message, one block of shared memory."""
FEW = 64
"""Up to so many images, starting worker processes costs more than it gains."""


def auto_workers(images: int, device: str) -> int:
    """A number of worker processes: none for few images; a quarter of the cores where the CPU runs the network too.

    There, a worker takes a core from the network's threads, which all wait for the slowest of them.
    """
    if images <= FEW:
        return 0
    return cores() // 4 if device == "cpu" else max(1, cores() - 1)


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load(
    source: Source,
    protocols: Sequence[Protocol],
    indices: Sequence[int],
    workers: int,
    *,
    offload: Offload = "nothing",
    upload: Callable[[Tensor], Tensor] = lambda block: block,
) -> Iterator[Rendered]:
    """Every image of `indices` in order, rendered; with no protocols, only decoded, to see whether it can be.

    `workers` of 0 works in this process. `upload` takes a block of bytes to the device, where tiles are cut and what
    is `offload`ed is done. Raises DataError if a worker process dies.
    """
    size = max(1, min(CHUNK, -(-len(indices) // max(1, 2 * workers))))
    chunks = [indices[at : at + size] for at in range(0, len(indices), size)]
    loader: DataLoader[Any] = DataLoader(
        _Chunks(source, tuple(protocols), chunks, offload),
        batch_size=None,
        collate_fn=_as_it_is,
        worker_init_fn=_in_worker,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # its seed draw would otherwise disturb the caller's random numbers
    )
    try:
        for block, records in loader:
            yield from unpack(block, records, tuple(protocols), upload)
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


class _Chunks(Dataset[tuple[Tensor, list[Record]]]):
    """Chunks of images, each read and prepared and packed into one block."""

    def __init__(
        self, source: Source, protocols: tuple[Protocol, ...], chunks: Sequence[Sequence[int]], offload: Offload
    ) -> None:
        self.source = source
        self.protocols = protocols
        self.chunks = chunks
        self.offload = offload

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, chunk: int) -> tuple[Tensor, list[Record]]:
        return pack([self._prepared(index) for index in self.chunks[chunk]])

    def _prepared(self, index: int) -> Prepared:
        return prepare(index, lambda: self.source.read(self.source.samples[index]), self.protocols, self.offload)
