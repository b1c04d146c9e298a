"""Images to rendered tiles, in worker processes: read and decode once, cut every tile of every protocol.

An image that cannot be read is a result too: its tiles are missing and its error says why.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor

from resnet_infer.console import note
from resnet_infer.data.source import Source, held_bytes
from resnet_infer.errors import OutOfMemory
from resnet_infer.pipeline.loading import IMAGE_TIMEOUT_S
from resnet_infer.pipeline.packing import (
    Chunk,
    How,
    ImageRecord,
    Offload,
    Prepared,
    Rendered,
    pack,
    prepare,
    unpack,
    weight,
)
from resnet_infer.pipeline.transfer import Upload
from resnet_infer.pipeline.worker import Allocate, Made, Task
from resnet_infer.pipeline.workers import Pool
from resnet_infer.spec.protocols import Protocol

CHUNK = 16
"""Images that travel together from a worker: one message, one block of shared memory."""
BLOCK_BYTES = 2**27
"""Of the images that travel together: with one that reaches it, on the CPU or on the device, a block is full."""
READERS_BYTES = 2**31
"""That all worker processes together may keep of what their source unpacks; where parts are large, fewer work."""
TOGETHER = 128
"""Images that are decoded or rendered on the device in one go: nvJPEG is several times as fast on many files."""
PIXELS = 2**27
"""Of images that are in one go, decoded or rendered; a block that has more goes alone."""
FEW = 64
"""Up to so many images, starting worker processes costs more than it gains."""


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


class Crew:
    """The worker processes of a source, for as many passes over it as are made `with` it.

    They start with the first pass that wants them and wait between passes, whatever the protocols. A pass that ends
    early, as by an error, ends them; the next one starts anew, as does one that asks for another number.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._pool: Pool | None = None

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool:
            self._pool.stop()
            self._pool = None

    def work(
        self, how: How, indices: Sequence[int], size: int, workers: int, limit_s: float
    ) -> Generator[Task, None, None]:
        """See `Pool.run`; raises RuntimeError while another pass is under way."""
        if (held := held_bytes(self.source)) and workers > (most := max(1, READERS_BYTES // held)):
            if not self._pool:
                note(f"{self.source.name}: a worker process keeps up to {held / 2**20:.0f} MiB of it; {most} at work")
            workers = most
        if self._pool and self._pool.workers != workers and not self._pool.running:
            self.close()
        self._pool = self._pool or Pool(_Chunks(self.source), workers)
        return self._pool.run(how, indices, size, limit_s)


def load(
    source: Source,
    protocols: Sequence[Protocol],
    indices: Sequence[int],
    workers: int,
    image_timeout_s: float = IMAGE_TIMEOUT_S,
    *,
    offload: Offload = "nothing",
    strict: bool = False,
    upload: Upload | None = None,
) -> Iterator[Rendered]:
    """Every image of `indices` in order, rendered; with no protocols, only decoded, to see whether it can be.

    See `load_chunks`.
    """
    with Crew(source) as crew:
        for chunk in load_chunks(
            crew, protocols, indices, workers, image_timeout_s, offload=offload, strict=strict, upload=upload
        ):
            yield from chunk.images()


def load_chunks(
    crew: Crew,
    protocols: Sequence[Protocol],
    indices: Sequence[int],
    workers: int,
    image_timeout_s: float = IMAGE_TIMEOUT_S,
    *,
    offload: Offload = "nothing",
    hashed: bool = False,
    strict: bool = False,
    upload: Upload | None = None,
) -> Generator[Chunk, None, None]:
    """The images of `indices` in order, several at a time.

    In worker processes, an image that crashes its decoder or takes longer than `image_timeout_s` is a record too.
    `workers` of 0 works in this process, without that guard. `hashed` has the records hold a hash of each image's
    bytes; with `strict` an image that its decoder warns of is unreadable. `upload` takes a block of bytes to the
    device, where tiles are cut and what is `offload`ed is done. Raises DataError if worker processes cannot be kept
    alive, OutOfMemory if the device has no room for the images.
    """
    how = How(tuple(protocols), offload, hashed, strict)
    upload = upload or Upload(torch.device("cpu"))
    size = max(1, min(CHUNK, -(-len(indices) // max(1, 2 * workers))))
    if workers:
        tasks = crew.work(how, indices, size, workers, image_timeout_s)
    else:
        tasks = _Chunks(crew.source).all_here(how, indices, size)
    at_once = 1 if offload == "nothing" else max(1, TOGETHER // size)
    with closing(tasks):
        while some := list(_so_many(tasks, at_once, how.protocols)):
            try:
                chunk = unpack([_with_lost(task) for task in some], how.protocols, upload)
            except torch.OutOfMemoryError as error:
                raise OutOfMemory(
                    f"{upload.device} has no room for the next images beside the network; give a smaller --batch-size, "
                    "or leave decoding and rendering to the CPU"
                ) from error
            yield chunk


def _so_many(tasks: Iterator[Task], at_once: int, protocols: tuple[Protocol, ...]) -> Iterator[Task]:
    """The next tasks to be unpacked in one go."""
    held = 0
    for task in islice(tasks, at_once):
        yield task
        held += sum(weight(record, protocols) for record in task.values)
        if held >= 3 * PIXELS:
            return


def _with_lost(task: Task) -> tuple[Tensor, list[ImageRecord]]:
    """What a task made, with records of the images that cost a worker process."""
    if not task.lost:
        return task.block, task.values
    found = iter(task.values)
    return task.block, [ImageRecord(i, error=task.lost[i]) if i in task.lost else next(found) for i in task.items]


def _here(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


class _Chunks:
    """Images by their position in the source, several at a time, packed into one block."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def name(self, item: int) -> str:
        return self.source.samples[item].name

    def all_here(self, how: How, indices: Sequence[int], size: int) -> Generator[Task, None, None]:
        """The tasks, done in this process."""
        for at in range(0, len(indices), size):
            items = indices[at : at + size]
            while items:
                block, records, count = self.make(how, items, lambda item: None, _here)
                yield Task(items[:count], block=block, values=records)
                items = items[count:]

    def make(self, how: How, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        prepared: list[Prepared] = []
        held = 0
        for item in items:
            begin(item)
            prepared.append(self._prepared(item, how))
            held += weight(prepared[-1].record, how.protocols)
            if held >= BLOCK_BYTES:
                break
        return Made(*pack(prepared, allocate), len(prepared))

    def _prepared(self, index: int, how: How) -> Prepared:
        return prepare(index, lambda: self.source.read(self.source.samples[index]), how)
