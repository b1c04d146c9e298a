"""TensorRT on the device of fake_cuda.py: an engine that gives the means of an image's channels.

As TensorRT's, a context keeps shape, buffers and scratch, and a graph that was recorded from it is spoilt by any change
of them (NVIDIA/TensorRT#3798); its first run cannot be recorded; neither it nor its scratch may go while its work is
queued.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import Access, Gpu, array

PLAN = b"a plan"


class Context:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._state = 0
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._last: Access | None = None

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        return stream > 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape, self._state = shape, self._state + 1
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return 4 * math.prod(self._shape)

    def set_device_memory(self, address: int, size: int) -> None:
        self._scratch, self._state = (address, size), self._state + 1

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape[:2]

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name], self._state = address, self._state + 1

    def execute_async_v3(self, handle: int) -> bool:
        stream, state, shape = self._gpu.stream(handle), self._state, self._shape
        x, scores, (scratch, size) = self._addresses["input"], self._addresses["logits"], self._scratch
        unready = stream.recording is not None and not self.is_stream_capturable(handle)
        if self._gpu.broken or size < 4 * math.prod(shape) or unready:
            return False

        def work() -> None:
            if self._state != state:
                array(scores, shape[:2], "f4")[:] = np.nan  # what it does then is not defined
                return
            kept = array(scratch, shape, "f4")
            kept[:] = array(x, shape, "f4")
            array(scores, shape[:2], "f4")[:] = kept.mean((2, 3))

        def launch() -> None:
            self._last = self._gpu.launch(handle, [x], [scratch, scores], work, held=scratch)

        if stream.recording is None:
            launch()
        else:
            stream.recording.append(launch)
        return True

    def is_stream_capturable(self, handle: int) -> bool:
        return self._last is not None

    def __del__(self) -> None:
        self._gpu.must_be_idle(self._last, "a context")


def fake_tensorrt(gpu: Gpu, profiles: int = 1) -> Any:
    """The module, as far as a backend uses it."""
    end = SimpleNamespace(INPUT="in", OUTPUT="out")
    engine = SimpleNamespace(
        num_optimization_profiles=profiles,
        num_io_tensors=2,
        get_tensor_name=("input", "logits").__getitem__,
        get_tensor_mode={"input": end.INPUT, "logits": end.OUTPUT}.__getitem__,
        get_tensor_dtype=lambda name: SimpleNamespace(name="FLOAT"),
        create_execution_context=lambda strategy: Context(gpu),
    )
    return SimpleNamespace(
        __version__="11.4",
        TensorIOMode=end,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
        ILogger=type("ILogger", (), {}),
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
    )
