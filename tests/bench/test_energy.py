"""Energy as the driver counts it, on a library that stands in for NVML; a GPU's own counter where there is one."""

import ctypes
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from resnet_infer.bench import energy
from resnet_infer.bench.energy import Meter
from resnet_infer.bench.measure import measure_path

WATTS = 300.0


def nvml(known: bytes, clock: SimpleNamespace, *, supported: bool = True) -> SimpleNamespace:
    """A library that knows one GPU, which draws WATTS on the clock of the test."""

    def by_uuid(uuid: bytes, handle: Any) -> int:
        handle._obj.value = 7
        return 0 if uuid == known else 6

    def total(handle: ctypes.c_void_p, millijoules: Any) -> int:
        assert handle.value == 7
        millijoules._obj.value = 5_000_000_000 + round(1000 * WATTS * clock.now)
        return 0 if supported else 3

    return SimpleNamespace(
        nvmlInit_v2=lambda: 0, nvmlDeviceGetHandleByUUID=by_uuid, nvmlDeviceGetTotalEnergyConsumption=total
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    stopped = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: stopped.now)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="one"))
    return stopped


def test_the_power_is_that_of_the_timed_passes_alone(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.ctypes, "CDLL", lambda name: nvml(b"GPU-one", clock))

    def run() -> int:
        clock.now += 2.0
        return 30

    def before() -> None:
        clock.now += 100.0

    timing = measure_path(run, repeats=3, device=torch.device("cuda"), before=before)
    assert timing.watts == pytest.approx(WATTS)
    assert timing.watts / timing.images_per_s == pytest.approx(WATTS * 2 / 30)
    assert measure_path(run, repeats=1).watts == 0  # a CPU does not tell


def test_what_is_not_told_is_unknown(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    for library in (
        missing,
        lambda name: nvml(b"GPU-other", clock),
        lambda name: nvml(b"GPU-one", clock, supported=False),
        lambda name: SimpleNamespace(nvmlInit_v2=lambda: 0),
    ):
        monkeypatch.setattr(energy.ctypes, "CDLL", library)
        meter = Meter(torch.device("cuda"))
        with meter.running():
            clock.now += 1
        assert meter.watts == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_this_gpu_draws_what_gpus_draw() -> None:
    meter = Meter(torch.device("cuda"))
    with meter.running():
        x = torch.randn(4096, 4096, device="cuda")
        end = time.perf_counter() + 1.5
        while time.perf_counter() < end:
            x = torch.tanh(x @ x)
            torch.cuda.synchronize()
    assert 20 < meter.watts < 2000
