"""Images to rendered tiles, in worker processes: read and decode once, cut every tile of every protocol.

An image that cannot be read is a result too: its tiles are missing and its error says why.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from resnet_infer.data.packing import Offload, Prepared, Rendered, pack, prepare, unpack
from resnet_infer.data.sources import Source
from resnet_infer.data.transfer import Upload
from resnet_infer.data.workers import Allocate, Made, Task, in_workers
from resnet_infer.protocols import Protocol

CHUNK = 16
"""Images that travel together from a worker: one message, one block of shared memory."""
TOGETHER = 128
"""Images that are decoded or rendered on the device in one go: nvJPEG is several times as fast on many files."""
FEW = 64
"""Up to so many images, starting worker processes costs more than it gains."""
IMAGE_TIMEOUT_S = 60.0
"""For one image in a worker process, from its first byte read to its last tile; the largest allowed take seconds."""


def auto_workers(images: int, device: str, guarded: bool = False) -> int:
    """A number of worker processes: none for few images; a quarter of the cores where the CPU runs the network too.

    There, a worker takes a core from the network's threads, which all wait for the slowest of them. `guarded` asks
    for one at least, since only a worker may crash or hang.
    """
    return max(_fitting(images, device), int(guarded))


def _fitting(images: int, device: str) -> int:
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
    image_timeout_s: float = IMAGE_TIMEOUT_S,
    *,
    offload: Offload = "nothing",
    upload: Upload | None = None,
) -> Iterator[Rendered]:
    """Every image of `indices` in order, rendered; with no protocols, only decoded, to see whether it can be.

    In worker processes, an image that crashes its decoder or takes longer than `image_timeout_s` is a record too.
    `workers` of 0 works in this process, without that guard. `upload` takes a block of bytes to the device, where
    tiles are cut and what is `offload`ed is done. Raises DataError if worker processes cannot be kept alive.
    """
    chunks = _Chunks(source, tuple(protocols), indices, offload)
    upload = upload or Upload(torch.device("cpu"))
    size = max(1, min(CHUNK, -(-len(indices) // max(1, 2 * workers))))
    tasks = in_workers(chunks, len(indices), size, workers, image_timeout_s) if workers else chunks.all_here(size)
    for some in _together(tasks, 1 if offload == "nothing" else TOGETHER // size):
        made = unpack([task.made for task in some], chunks.protocols, upload)
        for task in some:
            for item in task.items:
                yield Rendered(index=indices[item], error=task.lost[item]) if item in task.lost else next(made)


def _together(tasks: Iterator[Task], count: int) -> Iterator[list[Task]]:
    """So many at a time."""
    while some := list(islice(tasks, max(1, count))):
        yield some


def _here(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


class _Chunks:
    """Images by their position in `indices`, several at a time, packed into one block."""

    def __init__(
        self, source: Source, protocols: tuple[Protocol, ...], indices: Sequence[int], offload: Offload
    ) -> None:
        self.source = source
        self.protocols = protocols
        self.indices = indices
        self.offload = offload

    def name(self, item: int) -> str:
        return self.source.samples[self.indices[item]].name

    def all_here(self, size: int) -> Iterator[Task]:
        """The tasks, done in this process."""
        for at in range(0, len(self.indices), size):
            items = range(at, min(len(self.indices), at + size))
            yield Task(items, made=self.make(items, lambda item: None, _here))

    def make(self, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        prepared = []
        for item in items:
            begin(item)
            prepared.append(self._prepared(self.indices[item]))
        return pack(prepared, allocate)

    def _prepared(self, index: int) -> Prepared:
        return prepare(index, lambda: self.source.read(self.source.samples[index]), self.protocols, self.offload)
