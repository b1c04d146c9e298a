"""CUDA graphs without a GPU: what is done within `torch.cuda.graph` is recorded, and done again by `replay`.

As on a device: recording does nothing by itself, a replay reads and writes the memory that was recorded, numbers that
Python held are frozen, and what needs the host is an error. Operations are recorded only on a stream of the device
that the tensors are on, which here is the CPU; a stream that names no device belongs to another one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

HOST = ("lift_fresh", "_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2")
"""Operations that copy from the host, or whose result the host must see."""


class Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda", 0)

    def wait_stream(self, other: "Stream") -> None:
        assert self.device == other.device


class Graph:
    """torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, results in self.calls:
            for result, value in zip(results, tensors_in(operation(*args, **kwargs)), strict=True):
                if result.data_ptr() != value.data_ptr():
                    result.copy_(value)


class Recording(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[Any, Any]] = {}
        """The memory of everything that is read or written, as it was."""
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in HOST:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        given = tensors_in((args, kwargs))
        for tensor in given:
            if address(tensor) not in self.made and address(tensor) not in self.before:
                self.before[address(tensor)] = tensor.untyped_storage(), tensor.untyped_storage().clone()
        returned = func(*args, **(kwargs or {}))
        results = tensors_in(returned)
        new = {address(tensor) for tensor in results} - {address(tensor) for tensor in given}
        self.made |= new
        if new or func._schema.is_mutable:  # a view is no work
            self.graph.calls.append((func, args, kwargs or {}, results))
        return returned

    def undo(self) -> None:
        for storage, value in self.before.values():
            storage.copy_(value)


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tensors_in(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


@contextmanager
def record(graph: Graph, stream: Stream | None = None) -> Iterator[None]:
    """torch.cuda.graph."""
    if (stream or Stream()).device.type != "cpu":
        yield
        return
    with Recording(graph) as recording:
        yield
    recording.undo()


@contextmanager
def current(stream: Stream) -> Iterator[None]:
    yield


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give torch.cuda the graphs of this module."""
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
