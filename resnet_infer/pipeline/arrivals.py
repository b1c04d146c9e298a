"""Images on their way through the network: their scores add up on the device, and little of them comes to the host.

Every image has a slot of sums for all protocols. A batch adds its rows in one call, an image is finished with the batch
of its last tile, and those that finish together are read, reduced and fetched together. What is fetched is waited for
two batches later on a GPU.

Shapes: B tiles, N images, P protocols, R of them, K classes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_infer.backends.base import BackendInfo
from resnet_infer.errors import BackendError
from resnet_infer.pipeline.transfer import fetch, send
from resnet_infer.spec.protocols import Size

BEHIND = 2
"""Batches that a GPU may be ahead of the scores that are read: the host never waits for the batch just begun."""
SLOTS = 64
"""Images there is room for at first; twice as many whenever more are on their way."""

Reduce = Callable[[Sequence[int], Tensor], tuple[Tensor, ...]]
"""reduce(indices, probs_NPK): what of these images' probabilities (float32, on the device) is to come to the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Images whose scores are complete, several at a time; or one that could not be read."""

    indices: Sequence[int]
    """Positions in the source."""
    values: tuple[Tensor, ...] = ()
    """What `Reduce` made of them, on the CPU; none of an image that could not be read."""
    error: str = ""


def everything(indices: Sequence[int], probs_NPK: Tensor) -> tuple[Tensor, ...]:
    """Every class's probability."""
    return (probs_NPK,)


@dataclass(frozen=True, slots=True)
class _Running:
    """A batch whose scores the host has not seen yet."""

    numbers: Callable[[], Tensor]
    """Whether its scores are numbers."""
    info: BackendInfo
    size: Size
    indices: Sequence[int]
    """The images that it finished."""
    values: Sequence[Callable[[], Tensor]]


class Arrivals:
    """The sums of the images that are on their way, and those that are finished."""

    def __init__(self, device: torch.device, protocols: int, classes: int, reduce: Reduce) -> None:
        self._device = device
        self._protocols = protocols
        self._reduce = reduce
        self._behind = BEHIND if device.type == "cuda" else 0
        self._sums_NPK = torch.zeros(SLOTS, protocols, classes, dtype=torch.float64, device=device)
        self._free = list(range(SLOTS))
        self._index = [-1] * SLOTS
        """The image that has each slot."""
        self._due = [0] * SLOTS
        """Its tiles that have not been run."""
        self._running: deque[_Running] = deque()
        self._finished: list[Finished] = []

    def expect(self, indices: Sequence[int], tiles: int) -> list[int]:
        """Slots for images of so many tiles each."""
        while len(self._free) < len(indices):
            self._grow()
        slots = self._free[-len(indices) :]
        del self._free[-len(indices) :]
        for slot, index in zip(slots, indices, strict=True):
            self._index[slot], self._due[slot] = index, tiles
        return slots

    def add(self, slots: Sequence[int], rows: Sequence[int], probs_RBK: Tensor, info: BackendInfo, size: Size) -> None:
        """Add what a batch of tiles gives to these rows of its images, and reduce the images that it finishes.

        Raises BackendError for an earlier batch whose scores are not numbers.
        """
        places = send(torch.tensor([slot * self._protocols + row for row in rows for slot in slots]), self._device)
        sums_K = self._sums_NPK.flatten(0, 1)
        sums_K.index_put_((places,), probs_RBK.flatten(0, 1), accumulate=True)  # on CUDA too in a fixed order
        numbers = fetch(torch.isfinite(probs_RBK.sum()))
        done = []
        for slot in slots:
            self._due[slot] -= 1
            if not self._due[slot]:
                done.append(slot)
        indices, values = self._take(done) if done else ([], ())
        self._running.append(_Running(numbers, info, size, indices, [fetch(value) for value in values]))
        while len(self._running) > self._behind:
            self._settle()

    def complete(self) -> Iterator[Finished]:
        """The images finished since the last call."""
        finished, self._finished = self._finished, []
        yield from finished

    def rest(self) -> None:
        """Wait for what runs; raises what `add` does."""
        while self._running:
            self._settle()

    def _take(self, slots: list[int]) -> tuple[list[int], tuple[Tensor, ...]]:
        """Read finished images, and free their slots."""
        places = send(torch.tensor(slots), self._device)
        probs_NPK = self._sums_NPK.index_select(0, places).float()
        self._sums_NPK.index_fill_(0, places, 0)
        self._free += slots
        indices = [self._index[slot] for slot in slots]
        return indices, self._reduce(indices, probs_NPK)

    def _settle(self) -> None:
        """Take what the oldest batch brought."""
        batch = self._running.popleft()
        if not batch.numbers():
            height, width = batch.size
            raise BackendError(
                f"{batch.info.artifact} gave scores that are not numbers at {width}x{height}: {batch.info.precision} "
                "overflows, or the weights are damaged; try --precision fp32"
            )
        if batch.indices:
            self._finished.append(Finished(indices=batch.indices, values=tuple(wait() for wait in batch.values)))

    def _grow(self) -> None:
        slots = len(self._index)
        self._sums_NPK = torch.cat((self._sums_NPK, torch.zeros_like(self._sums_NPK)))
        self._free += range(slots, 2 * slots)
        self._index += [-1] * slots
        self._due += [0] * slots
