"""The steps in their order, and the loop that gives each its time."""

import gc
import importlib.util
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from benchmarks.gpu.architectures import architectures
from benchmarks.gpu.context import Context, OutOfTime, Skipped
from benchmarks.gpu.correctness import correctness
from benchmarks.gpu.end_to_end import end_to_end
from benchmarks.gpu.engines import engines
from benchmarks.gpu.levers import levers
from benchmarks.gpu.machine import machine
from benchmarks.gpu.network import network
from benchmarks.gpu.protocols import protocols
from benchmarks.gpu.results import Results, Status, StepRecord
from benchmarks.gpu.subprocesses import suite, training


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the run."""

    name: str
    what: str
    least_s: float
    """It is not begun with less."""
    share: float
    """Of the time left, among the shares of the steps from here on."""
    function: Callable[[Context], None]


STEPS: Sequence[Step] = (
    Step("correctness", "the device's scores and pixels against the CPU's", 20, 140, correctness),
    Step("machine", "ceilings and environment", 8, 15, machine),
    Step("levers", "ways to run the network, with parity; nvJPEG", 20, 75, levers),
    Step("network", "the network alone, its roof, timm's", 30, 110, network),
    Step("protocols", "ten crops and five scales, alone", 20, 70, protocols),
    Step("end_to_end", "JPEG to scores, and the usual loops", 30, 200, end_to_end),
    Step("engines", "ONNX Runtime and TensorRT", 15, 5, engines),
    Step("architectures", "latency, other networks", 15, 35, architectures),
    Step("suite", "pytest -m gpu", 10, 35, suite),
    Step("training", "training against a plain loop", 20, 20, training),
)
ENGINES_SHARE = 120.0
"""Of step engines, where they are installed for a GPU."""
OVER = 1.5
"""A step is cut at so many times its budget."""
RESERVE_S = 6.0
"""For the end of the run."""


def shares() -> dict[str, float]:
    """Of every step, on this machine."""
    installed = any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx"))
    with suppress(metadata.PackageNotFoundError):
        installed |= bool(metadata.version("onnxruntime-gpu"))
    own = {step.name: step.share for step in STEPS}
    return own | ({"engines": ENGINES_SHARE} if installed and torch.cuda.is_available() else {})


def run_steps(names: Sequence[str], ends: float, results: Results, **surroundings: Any) -> None:
    """These steps, in the order of STEPS, until Unix time `ends`; whatever one raises, the next goes on."""
    signal.signal(signal.SIGALRM, _out_of_time)
    own = shares()
    todo = [step for step in STEPS if step.name in names]
    for place, step in enumerate(todo):
        left = ends - RESERVE_S - time.time()
        if left < step.least_s:
            why = f"needs {step.least_s:.0f} s, and {max(0.0, left):.0f} s are left"
            results.log(f"{step.name}: skipped, {why}")
            results.step(record(step, "skipped", why=why))
            continue
        budget = max(step.least_s, left * own[step.name] / sum(own[later.name] for later in todo[place:]))
        run_step(step, budget, min(left, OVER * budget + 10), results, surroundings)
        release()


def run_step(step: Step, budget: float, limit: float, results: Results, surroundings: dict[str, Any]) -> None:
    """One step in about `budget` seconds, cut after `limit`."""
    began = time.time()
    results.log(f"{step.name}: {step.what}, about {budget:.0f} s")
    results.step(record(step, "running", began=began, until=began + limit))
    status: Status = "done"
    why = ""
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        step.function(Context(step=step.name, results=results, ends=began + budget, **surroundings))
    except OutOfTime:
        status, why = "cut", f"took longer than {limit:.0f} s"
    except Skipped as error:
        status, why = "skipped", str(error)
    except Exception as error:
        status, why = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        results.log(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.time() - began
    results.step(record(step, status, began=began, seconds=seconds, why=why))
    results.log(f"{step.name}: {status} after {seconds:.1f} s{': ' + why if why else ''}")


def record(step: Step, status: Status, *, began: float = 0.0, **more: Any) -> StepRecord:
    """What is written of a step."""
    return StepRecord(name=step.name, what=step.what, status=status, began=began or time.time(), **more)


def release() -> None:
    """Let go of what a step leaves behind on the device."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # a broken context shows in the next step, by its own words
            torch.cuda.empty_cache()


def _out_of_time(number: int, frame: Any) -> None:
    raise OutOfTime
