"""Part of step `network`: where its time goes, by kernel, to profile.txt."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.context import Context
from benchmarks.gpu.plan import Way
from benchmarks.gpu.ways import named

KERNELS = 25
KERNELS_S = 6.0


def kernels(context: Context, way: Way) -> None:
    """One batch, after three that do not count; says what share kernels of Triton have."""
    torch._dynamo.reset()
    with context.opener().open(context.subject(**way)) as (model, _):
        side = model.manifest.spec.native_size
        shape = (context.plan.batch, 3, side, side)
        x_BCHW = torch.randint(0, 256, shape, dtype=torch.uint8, device=context.device)
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        run = partial(model.backend.run, x_BCHW, "pooled")
        for _ in range(3):
            run()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if context.cuda else [])]
        with profile(activities=activities) as found:
            run()
            if context.cuda:
                torch.cuda.synchronize(context.device)
    order = "self_device_time_total" if context.cuda else "self_cpu_time_total"
    averages = found.key_averages()
    table = averages.table(sort_by=order, row_limit=KERNELS, max_name_column_width=90)
    write(context.results.folder / "profile.txt", f"{context.plan.network}, {named(way)}, one batch\n{table}")
    wanted = "CUDA" if context.cuda else "CPU"  # an operator's event has its kernels' time, too
    times: Mapping[str, float] = {e.key: getattr(e, order) for e in averages if e.device_type.name == wanted}
    whole = sum(times.values())
    if whole and context.cuda:
        pointwise = sum(time for key, time in times.items() if key.startswith("triton_"))
        context.check(f"share of the GPU's time in inductor's kernels, {named(way)}", pointwise / whole)


def write(path: Path, text: str) -> None:
    """Add to a text file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n\n")
