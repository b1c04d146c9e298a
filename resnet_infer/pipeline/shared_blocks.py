"""Blocks of memory that a worker process makes and its parent keeps.

On Linux a block is an anonymous file whose descriptor goes through the socket between the two: no copy, nothing to
clean up after a process that was killed, and no limit of /dev/shm, which containers keep at 64 MB.
"""

import mmap
import os
from multiprocessing import reduction
from typing import Any

import torch
from torch import Tensor


class SharedBlock:
    """Memory that another process can have: on Linux an anonymous file, elsewhere a copy through the pipe."""

    def __init__(self) -> None:
        self._file = -1

    def allocate(self, size: int) -> Tensor:
        """A flat uint8 tensor of so many bytes."""
        if not size or not hasattr(os, "memfd_create"):
            return torch.empty(size, dtype=torch.uint8)
        self._file = os.memfd_create("tiles", os.MFD_CLOEXEC)
        os.ftruncate(self._file, size)
        return _mapped(self._file, size)

    def send(self, parent: Any, pixels: Tensor) -> None:
        """The block of the message that went before."""
        if self._file >= 0:
            reduction.send_handle(parent, self._file, os.getppid())
            os.close(self._file)
        elif pixels.numel():
            parent.send_bytes(pixels.numpy())


def received(worker: Any, size: int) -> Tensor:
    """The block of so many bytes that a worker sent; raises OSError, EOFError or RuntimeError if it died over it."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    if not hasattr(os, "memfd_create"):
        return torch.frombuffer(bytearray(worker.recv_bytes()), dtype=torch.uint8)
    file = reduction.recv_handle(worker)
    try:
        return _mapped(file, size)
    finally:
        os.close(file)


def _mapped(file: int, size: int) -> Tensor:
    """The whole of an open file as a flat uint8 tensor; it stays when the file is closed. OSError if it is shorter."""
    try:
        if os.path.exists(f"/proc/self/fd/{file}"):
            return torch.from_file(f"/proc/self/fd/{file}", shared=True, size=size, dtype=torch.uint8)
        return torch.frombuffer(mmap.mmap(file, size), dtype=torch.uint8)  # keeps a descriptor for as long as it lives
    except ValueError as error:
        raise OSError(str(error)) from error
