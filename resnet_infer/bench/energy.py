"""What a GPU has used, by the driver's own counter (NVML, which every driver of NVIDIA's brings).

Source: NVML API Reference, nvmlDeviceGetTotalEnergyConsumption: mJ since the driver was loaded, of the whole GPU, from
Volta on. It moves in steps of up to 100 ms, so spans shorter than a second say little.
"""

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

LIBRARY = "libnvidia-ml.so.1"


class Meter:
    """Adds up energy and time of the spans it is told of."""

    def __init__(self, device: torch.device) -> None:
        """Without a GPU, NVML or its counter, the power stays unknown."""
        self._read = _counter(device) if device.type == "cuda" else None
        self._joules = self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """A span to be measured; the caller waits for the device before it ends."""
        if self._read is None:
            yield
            return
        joules, begun = self._read(), time.perf_counter()
        yield
        self._joules += self._read() - joules
        self._seconds += time.perf_counter() - begun

    @property
    def watts(self) -> float:
        """Mean power in the spans; 0 where it is not known."""
        return self._joules / self._seconds if self._seconds else 0.0


def _counter(device: torch.device) -> Callable[[], float] | None:
    """Reads the joules that the device has used; None where that cannot be done."""
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    try:
        nvml = ctypes.CDLL(LIBRARY)
        failed = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle))
        failed = failed or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    except (OSError, AttributeError):  # no library, or one without the call
        return None

    def read() -> float:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        return millijoules.value / 1000

    return None if failed else read
