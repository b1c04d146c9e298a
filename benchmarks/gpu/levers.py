"""Step `levers`: the ways to run the network, each with its parity, on the same tiles; and what nvJPEG does.

Logits are compared with fp32 ones of the same device. levers.json has every way's rate, parity and first run.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.context import Context
from benchmarks.gpu.nvjpeg import nvjpeg
from benchmarks.gpu.pictures import ready
from benchmarks.peers.materials import checkpoint, tiles
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.exporters.parity import TOLERANCE

FILE = "levers.json"
WAYS: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("fused", 8, {}),
    ("fused, recorded", 5, {"compile": "cuda-graphs"}),
    ("eager", 5, {"fused": False}),
    ("autocast", 5, {"autocast": True}),
    ("compiled", 30, {"compile": "default"}),
    ("compiled under autocast", 30, {"compile": "default", "autocast": True}),
    ("compiled, max-autotune", 200, {"compile": "max-autotune"}),
)
"""Name, seconds that it needs, and what TorchBackend is given."""
GROUPS, LEAST_S = 5, 0.4
"""Timings of a way, whose median counts; and seconds of warming up, as long as a group takes."""


def levers(context: Context) -> None:
    """nvJPEG first, then the ways in the order of what they are expected to tell."""
    ready(context)
    nvjpeg(context)
    plan, device = context.plan, str(context.device)
    own = checkpoint(context.scratch, plan.network)
    some_BCHW = tiles(context.scratch).permute(0, 3, 1, 2).to(context.device)
    x_BCHW = some_BCHW.repeat(-(-plan.batch // len(some_BCHW)), 1, 1, 1)[: plan.batch]
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    exact = TorchBackend(own, device)
    expected_BK = exact.run(some_BCHW[: plan.batch], "pooled").flatten(1)
    exact.close()
    found: dict[str, Any] = {}
    for name, needs_s, how in WAYS:
        if how.get("compile") == "cuda-graphs" and not context.cuda:
            context.check(f"lever, {name}", skipped="CUDA graphs need a GPU")
        elif context.has(needs_s, name):
            torch._dynamo.reset()
            try:
                backend = TorchBackend(own, device, plan.precision, **how)  # type: ignore[arg-type]
                found[name] = way(context, name, backend, x_BCHW, expected_BK)
                backend.close()
            except Exception as error:  # one that this version lacks says so, and the next one is tried
                context.check(f"lever, {name}", error=" ".join(f"{type(error).__name__}: {error}".split())[:300])
            (context.results.folder / FILE).write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def way(context: Context, name: str, backend: TorchBackend, x_BCHW: Tensor, expected_BK: Tensor) -> dict[str, Any]:
    """Parity, then time."""
    count = len(expected_BK)
    begun = time.perf_counter()
    said_BK = backend.run(x_BCHW, "pooled").flatten(1)[:count].clone()
    context.finish()
    first_s = time.perf_counter() - begun
    off = float((said_BK - expected_BK).abs().max() / expected_BK.abs().max())
    same = float((said_BK.argmax(1) == expected_BK.argmax(1)).double().mean())
    rate = len(x_BCHW) / seconds_of(context, lambda: backend.run(x_BCHW, "pooled"))
    note = f"{rate:.0f} images/s at batch {len(x_BCHW)}, same best class {same:.3f}, first run {first_s:.1f} s"
    bound = TOLERANCE[context.plan.precision]  # type: ignore[index]
    context.check(f"lever, {name}: largest difference over largest logit", off, bound, at_most=True, note=note)
    return {"images_per_s": rate, "batch": len(x_BCHW), "off": off, "same": same, "first_s": first_s}


def seconds_of(context: Context, run: Callable[[], object]) -> float:
    """One run, the median of several groups by the device's clock, after clocks have risen."""
    if not context.cuda:
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun
    runs, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < LEAST_S:
        run()
        context.finish()
        runs += 1
    groups: list[float] = []
    for _ in range(GROUPS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(runs):
            run()
        end.record()
        context.finish()
        groups.append(start.elapsed_time(end) / runs / 1000)
    return statistics.median(groups)
