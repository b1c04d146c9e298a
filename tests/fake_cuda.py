"""A GPU for code that drives one, on a CPU: streams, recorded graphs and memory that is given back, with their faults.

Work is done at once, so numbers are real. What a GPU would have been free to do in another order is found by vector
clocks: every access of memory must come after the last write to it, and a write after all reads, by what streams wait
for. Faults are kept, not raised, as a GPU would not raise them.
"""

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Clock = dict[int, int]
Access = tuple[int, int]
"""(stream, its time)."""


class Stream:
    """As torch.cuda.Stream."""

    def __init__(self, gpu: "Gpu") -> None:
        self._gpu = gpu
        self.cuda_stream = gpu.new_stream(self)
        self.clock: Clock = {}
        self.recording: list[Callable[[], None]] | None = None

    def wait_stream(self, other: "Stream") -> None:
        merge(self.clock, other.clock)

    def synchronize(self) -> None:
        merge(self._gpu.host, self.clock)


class Graph:
    """As torch.cuda.CUDAGraph."""

    def __init__(self, gpu: "Gpu") -> None:
        self._gpu = gpu
        self.recorded: list[Callable[[], None]] = []
        self.last: Access | None = None

    def replay(self) -> None:
        for work in self.recorded:
            work()
        self.last = self._gpu.now()

    def __del__(self) -> None:
        self._gpu.must_be_idle(self.last, "a recorded graph")


@dataclass
class Memory:
    storage: StorageWeakRef
    size: int
    home: Stream
    """The stream that it was allocated on, which may have it again as soon as it is given back."""
    shared: set[int] = field(default_factory=set)
    """Streams that record_stream named: the allocator waits for their use."""
    held: Access | None = None
    """The last use by who wants it kept until the host knows that the use is over."""
    written: Access | None = None
    read: Clock = field(default_factory=dict)


class Gpu:
    """The device; `faults` is what went wrong, in words."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.limit = math.inf
        """Bytes that one tensor may have."""
        self.broken = False
        """Engines fail."""
        self.host: Clock = {}
        self._streams: dict[int, Stream] = {}
        self._memory: dict[int, Memory] = {}
        self.current = [Stream(self)]

    def new_stream(self, stream: Stream) -> int:
        self._streams[len(self._streams) + 1] = stream
        return len(self._streams)

    def stream(self, handle: int) -> Stream:
        return self._streams[handle]

    def now(self) -> Access:
        stream = self.current[-1]
        return stream.cuda_stream, stream.clock.get(stream.cuda_stream, 0)

    def launch(
        self, handle: int, reads: Sequence[int], writes: Sequence[int], work: Callable[[], None], held: int = 0
    ) -> Access:
        """Do `work`, which reads and writes memory at these addresses, as a kernel on this stream would."""
        stream = self._streams[handle]
        self.notice()
        merge(stream.clock, self.host)
        stream.clock[handle] = time = stream.clock.get(handle, 0) + 1
        used = [(self._at(address), write) for write in (False, True) for address in (writes if write else reads)]
        for memory, write in used:
            self._check(memory, stream, write)
            if memory is not None and write:
                memory.written, memory.read = (handle, time), {}
            elif memory is not None:
                memory.read[handle] = time
        if held and (memory := self._at(held)) is not None:
            memory.held = handle, time
        if all(memory is not None and not memory.storage.expired() for memory, _ in used):
            work()
        return handle, time

    def know(self, tensor: Tensor) -> int:
        """The address of a tensor's memory, which the device knows from now on."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        self.notice()
        if address not in self._memory:
            self._memory[address] = Memory(StorageWeakRef(storage), storage.nbytes(), self.current[-1])
        return address

    def notice(self) -> None:
        """Look for memory that was given back before its use was over."""
        for address, memory in list(self._memory.items()):
            if memory.storage.expired():
                del self._memory[address]
                seen = dict(self.host)
                merge(seen, memory.home.clock)
                uses = dict([memory.written] if memory.written else []) | memory.read
                if any(seen.get(stream, 0) < time for stream, time in uses.items() if stream not in memory.shared):
                    self.faults.append("memory was given back before its use was over")
                self.must_be_idle(memory.held, "memory of an engine")

    def record_stream(self, tensor: Tensor, stream: Stream) -> None:
        self._memory[self.know(tensor)].shared.add(stream.cuda_stream)

    def must_be_idle(self, last: Access | None, what: str) -> None:
        if last and self.host.get(last[0], 0) < last[1]:
            self.faults.append(f"{what} was given back while its work was queued")

    def _at(self, address: int) -> Memory | None:
        return next((m for at, m in self._memory.items() if at <= address < at + max(m.size, 1)), None)

    def _check(self, memory: Memory | None, stream: Stream, write: bool) -> None:
        if memory is None or memory.storage.expired():
            self.faults.append("memory that was given back is used")
            return
        before = dict([memory.written] if memory.written else []) | (memory.read if write else {})
        if any(stream.clock.get(other, 0) < time for other, time in before.items()):
            self.faults.append(f"memory is {'written' if write else 'read'} out of order")


class _Ordered(TorchDispatchMode):
    """Every operation of torch's is a launch on the current stream."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [self._gpu.know(t) for t in tree_leaves(result) if isinstance(t, Tensor)]
        inputs = [self._gpu.know(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if sum(t.nbytes for t in tree_leaves(result) if isinstance(t, Tensor)) > self._gpu.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if not (func.is_view and set(outputs) <= set(inputs)) and "empty" not in str(func):
            self._gpu.launch(self._gpu.current[-1].cuda_stream, inputs, outputs, lambda: None)
        return result


class _OnCpu(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def moved(value: Any) -> Any:
            return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value

        return func(*tree_map(moved, args), **tree_map(moved, kwargs or {}))


@contextlib.contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """torch.cuda on a device of the imagination; tensors on cuda are on the CPU in truth."""
    gpu = Gpu()

    @contextlib.contextmanager
    def stream(wanted: Stream) -> Iterator[None]:
        gpu.current.append(wanted)
        yield
        gpu.current.pop()

    @contextlib.contextmanager
    def graph(made: Graph, stream: Stream, **options: Any) -> Iterator[None]:
        stream.synchronize()
        stream.recording = made.recorded
        yield
        stream.recording = None

    for name, value in (
        ("Stream", lambda device=None: Stream(gpu)),
        ("current_stream", lambda device=None: gpu.current[-1]),
        ("stream", stream),
        ("CUDAGraph", lambda: Graph(gpu)),
        ("graph", graph),
        ("empty_cache", gpu.notice),
        ("set_device", lambda device: None),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: gpu.record_stream(tensor, stream))
    with _OnCpu(), _Ordered(gpu):
        yield gpu


def merge(clock: Clock, other: Clock) -> None:
    """Let what `other` has seen be seen by `clock`."""
    clock.update({stream: max(time, clock.get(stream, 0)) for stream, time in other.items()})


def array(address: int, shape: Sequence[int], dtype: str) -> Any:
    """What lies at an address."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * count).from_address(address), dtype).reshape(shape)
