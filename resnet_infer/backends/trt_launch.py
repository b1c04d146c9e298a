"""Starts an engine's runs on one stream: its contexts, the scratch memory they share, and recorded runs.

A CUDA graph keeps the addresses and the state of the context that it was recorded from, so a context that takes another
shape, other buffers or other scratch spoils it (TensorRT developer guide, CUDA graphs; NVIDIA/TensorRT#3798). Each
recorded shape has a context of its own, that is never touched again; runs that are not recorded share one a profile.
(From TensorRT 10 on, several contexts may use one profile.)
Scratch memory is one buffer, as runs follow each other on one stream. A larger one makes every recording void.

Nothing that a queued run may use is given back before the stream is idle.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resnet_infer.backends.streams import OwnStream
from resnet_infer.errors import BackendError, OutOfMemory

DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "UINT8": torch.uint8}
MAX_GRAPHS = 16
"""Input shapes whose launches are recorded; each has a context and holds buffers of its own."""


class Launcher:
    """An engine with one input and one output, `ends`, on one stream."""

    def __init__(
        self, name: str, trt: Any, engine: Any, log: Any, ends: tuple[str, str], own: OwnStream, *, record: bool
    ) -> None:
        self._name = name
        self._trt = trt
        self._engine = engine
        self._log = log
        self._input, self._output = ends
        self._own = own
        self._shared: dict[int, Any] = {}
        self._recorded: dict[tuple[int, ...], _Recorded] | None = {} if record else None
        self._scratch = self._bytes(0)
        self.dtype = DTYPES[engine.get_tensor_dtype(self._input).name]

    def __call__(self, profile: int, x: Tensor) -> Tensor:
        """The scores of a batch, in the engine's layouts and types. To be called in a turn of the stream.

        Raises BackendError for a shape or a run that TensorRT refuses, OutOfMemory without room for a context.
        """
        key = tuple(x.shape)
        if self._recorded is None or (key not in self._recorded and len(self._recorded) >= MAX_GRAPHS):
            context = self.context(profile)
            scores = self._bind(context, x)
            self._start(context, x)
            return scores
        if key not in self._recorded:
            self._recorded[key] = self._record(profile, x)
        recorded = self._recorded[key]
        recorded.x.copy_(x)
        recorded.graph.replay()
        return recorded.scores.clone()

    def context(self, profile: int) -> Any:
        """The context of this profile that runs which are not recorded share."""
        if profile not in self._shared:
            self._shared[profile] = self._new_context(profile)
        return self._shared[profile]

    def free(self) -> None:
        """Give back what recordings and scratch hold; runs go on after it."""
        self._own.synchronize()
        if self._recorded:
            self._recorded.clear()
        self._scratch = self._bytes(0)
        torch.cuda.empty_cache()

    def close(self) -> None:
        """Give back all; no run may follow."""
        self.free()
        self._shared.clear()
        del self._engine

    def _new_context(self, profile: int) -> Any:
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise OutOfMemory(f"{self._name}: no context ({self._log.last('the device is full')})")
        if not context.set_optimization_profile_async(profile, self._own.handle):
            raise BackendError(f"{self._name}: profile {profile}: {self._log.last('refused')}")
        return context

    def _bind(self, context: Any, x: Tensor) -> Tensor:
        """Give the context its shape, scratch and buffers; returns where its scores will be."""
        if not context.set_input_shape(self._input, tuple(x.shape)):
            raise BackendError(f"{self._name}: shape {tuple(x.shape)}: {self._log.last('refused')}")
        needed = context.update_device_memory_size_for_shapes()
        if needed > self._scratch.numel():
            self.free()  # first, for two buffers may not fit
            self._scratch = self._bytes(needed)
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        scores = torch.empty(
            tuple(context.get_tensor_shape(self._output)),
            dtype=DTYPES[self._engine.get_tensor_dtype(self._output).name],
            device=self._own.device,
        )
        context.set_tensor_address(self._input, x.data_ptr())
        context.set_tensor_address(self._output, scores.data_ptr())
        return scores

    def _start(self, context: Any, x: Tensor) -> None:
        if not context.execute_async_v3(self._own.handle):
            raise BackendError(
                f"{self._name}: TensorRT failed at {tuple(x.shape)}: {self._log.last('no reason given')}"
            )

    def _record(self, profile: int, x: Tensor) -> "_Recorded":
        context, still = self._new_context(profile), x.clone()
        scores = self._bind(context, still)
        self._start(context, still)  # the first run loads kernels, TensorRT-RTX compiles them: not to be recorded
        self._own.synchronize()
        if not getattr(context, "is_stream_capturable", bool)(self._own.handle):  # releases before it cannot be asked
            raise BackendError(
                f"{self._name}: a run at {tuple(x.shape)} cannot be recorded; rebuild the engine, or leave out "
                "--cuda-graph"
            )
        graph = torch.cuda.CUDAGraph()
        # Other threads decode and upload meanwhile: what they do is not this stream's, and no error.
        with torch.cuda.graph(graph, stream=self._own.stream, capture_error_mode="thread_local"):
            self._start(context, still)
        return _Recorded(context, still, scores, graph)

    def _bytes(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.uint8, device=self._own.device)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A recorded run of one input shape, and what it keeps the addresses of."""

    context: Any
    x: Tensor
    scores: Tensor
    graph: Any
