"""Bytes to a device, through pinned memory on a stream of their own, and scores back, which are waited for later.

On a CPU both ways are the identity.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

STAGES = 2
"""Pinned buffers: one is filled by the host while the other travels."""


class Upload:
    """Blocks of bytes to a device. The device's current stream waits for the copy, the host does not."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pinned: list[Tensor] = []
        self._copied: list[torch.cuda.Event] = []
        self._turn = 0
        self._stream = _stream(device) if device.type == "cuda" else None
        self._aside: torch.cuda.Stream | None = None

    def __call__(self, block: Tensor) -> Tensor:
        """uint8, one dimension, to the device; the block itself on a CPU."""
        if self._stream is None:
            return block
        if not len(block):
            return block.to(self.device)
        staged = self._stage(len(block))
        copy_bytes(block, staged)
        with torch.cuda.stream(self._stream):
            sent = staged.to(self.device, non_blocking=True)
            self._copied[self._turn].record(self._stream)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self._copied[self._turn])
        sent.record_stream(current)
        return sent

    @contextmanager
    def aside(self) -> Iterator[Callable[[Sequence[Tensor]], None]]:
        """Have the body's work run on a stream beside the current one, which waits for it at the end.

        The call that is yielded is for results: their memory is not given away before the current stream has used it.
        """
        if self._stream is None:
            yield lambda results: None
            return
        self._aside = self._aside or _stream(self.device)
        current = torch.cuda.current_stream(self.device)

        def hand_over(results: Sequence[Tensor]) -> None:
            for result in results:
                result.record_stream(current)

        with torch.cuda.stream(self._aside):
            yield hand_over
        current.wait_stream(self._aside)

    def _stage(self, length: int) -> Tensor:
        """The next pinned buffer, free to be filled: what it held last has arrived."""
        self._turn = (self._turn + 1) % STAGES
        if not self._pinned:
            self._pinned = [torch.empty(0, dtype=torch.uint8) for _ in range(STAGES)]
            self._copied = [_event() for _ in range(STAGES)]
        self._copied[self._turn].synchronize()
        if len(self._pinned[self._turn]) < length:
            self._pinned[self._turn] = torch.empty(length * 5 // 4, dtype=torch.uint8, pin_memory=True)
        return self._pinned[self._turn][:length]


def copy_bytes(source: Tensor, target: Tensor) -> None:
    """Copy uint8 on the CPU, on this thread alone.

    PyTorch would give a part to every core's thread and wait for the last of them, and worker processes have the cores.
    """
    np.copyto(target.numpy(), source.numpy())


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def send(x: Tensor, device: torch.device) -> Tensor:
    """A small tensor to the device; the host does not wait for what the device is at."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def fetch(x: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the host; the call that is returned waits for it and gives it."""
    if x.device.type != "cuda":
        return lambda: x
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    arrived = _event()
    arrived.record(torch.cuda.current_stream(x.device))

    def wait() -> Tensor:
        arrived.synchronize()
        return host

    return wait
