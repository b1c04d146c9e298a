"""Step 3: the network alone, in all ways, against its roof and against timm's."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.contests import contest_here
from benchmarks.gpu.context import Context
from benchmarks.gpu.pictures import ready
from benchmarks.gpu.results import best
from benchmarks.peers import ours, timm_benchmark
from benchmarks.peers.sides import Claim, Contest, Side

AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
COMPILED_S, AUTOTUNED_S, EAGER_S, CONTEST_S = 20.0, 90.0, 6.0, 40.0
"""What a row takes, compilation included, at a guess on the safe side."""
ROOF_TARGET, TIMM_TARGET, EAGER_TARGET = 0.80, 1.0, 1.4
KERNELS = 25


def network(context: Context) -> None:
    """The compiled network first, then who it is measured against, then all else."""
    plan = context.plan
    ready(context)
    plain, compiled = context.subject(), context.subject(compile="default")
    context.network(plain, plan.batch)
    context.network(compiled, plan.batch)
    if context.has(COMPILED_S + CONTEST_S, f"compiled, batch {plan.ladder[1]}"):
        context.network(compiled, plan.ladder[1])
    top = best(context.rows, options="compile=default", measurement="network", model=plan.network)
    batch = top.batch_size if top else plan.batch
    if context.has(CONTEST_S, "contest with timm"):
        contest_here(context, against_timm(context, batch), context.left() * 0.6)
    for batch in plan.ladder[1:]:
        if context.has(EAGER_S, f"eager, batch {batch}"):
            context.network(plain, batch)
    for subject, words in (
        (context.subject(compile="cuda-graphs"), "CUDA graphs"),
        (context.subject(compile="default", autocast=True), "compiled under autocast"),
        (context.subject(autocast=True), "autocast"),
        (context.subject(precision="fp16", compile="default"), "fp16 compiled"),
    ):
        if context.has(COMPILED_S, words):
            context.network(subject, plan.batch)
    if context.has(COMPILED_S, "profile"):
        kernels(context)
    for batch in plan.ladder[2:]:
        if context.has(COMPILED_S, f"compiled, batch {batch}"):
            context.network(compiled, batch)
    if context.has(AUTOTUNED_S, "max-autotune"):
        context.network(context.subject(compile="max-autotune"), plan.batch)
    summary(context)


def summary(context: Context) -> None:
    """The best compiled row against its roof."""
    name, precision = context.plan.network, context.plan.precision
    rows = [row for row in context.rows if "compile=" in row.options and row.precision == precision]
    top = best(rows, model=name, measurement="network", protocol="single-crop")
    if top is None:
        context.check(f"{name} {precision} compiled", target=ROOF_TARGET, error="no compiled row was measured")
        return
    context.check_roof(f"{name} {precision} compiled", top, ROOF_TARGET)
    if eager := best(context.rows, model=name, measurement="network", protocol="single-crop", options=""):
        context.check(f"{name} {precision}, compiled over eager", top.images_per_s / eager.images_per_s)


def network_side(context: Context, name: str, batch: int, images: int, **how: Any) -> Side:
    """Our torch backend on tiles that are on the device."""
    plan = context.plan
    common = {"file": f"{plan.network}.pth", "batch": batch, "images": images, "precision": plan.precision}
    return Side(
        name=f"ours: {name}",
        start=ours.network,
        settings={**common, "device": str(context.device), **how},
        keep_freed_memory=True,
    )


def against_timm(context: Context, batch: int) -> Contest:
    """timm's benchmark.py --amp --channels-last, eager and compiled, against ours at our best batch, and with cuDNN's
    kernels chosen by trial, as timm's script sets it."""
    plan = context.plan
    images = batch * (64 if context.cuda else 1)
    common = {
        "arch": plan.network, "images": images, "batch": batch, "channels_last": True,
        "device": str(context.device), "autocast": AUTOCAST[plan.precision],
    }  # fmt: skip
    eager = Side(name="timm, eager NHWC, amp", start=timm_benchmark.start, settings=common)
    compiled = Side(name="timm, compiled, amp", start=timm_benchmark.start, settings={**common, "compile": "default"})
    return Contest(
        peer="timm_benchmark",
        what=f"{plan.network}, network only, {plan.precision}, batch {batch}, {context.device}",
        theirs=[compiled, eager],
        ours=[
            network_side(context, "compiled", batch, images, options={"compile": "default"}),
            network_side(context, "eager", batch, images),
        ],
        claims=[
            Claim(name="timm compiled", among=[compiled.name], target=TIMM_TARGET),
            Claim(name="timm eager NHWC", among=[eager.name], target=EAGER_TARGET),
        ],
        images=images,
        tolerance=0.15,
        files=["tiles.npy", f"{plan.network}.pth"],
        packages=["timm"],
    )


def kernels(context: Context) -> None:
    """Where the compiled network's time goes, by kernel, to profile.txt; says what share the convolutions have."""
    with context.opener().open(context.subject(compile="default")) as (model, _):
        side = model.manifest.spec.native_size
        shape = (context.plan.batch, 3, side, side)
        x_BCHW = torch.randint(0, 256, shape, dtype=torch.uint8, device=context.device)
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        run = partial(model.backend.run, x_BCHW, "pooled")
        for _ in range(3):
            run()
        activities = [ProfilerActivity.CUDA] if context.cuda else [ProfilerActivity.CPU]
        with profile(activities=[ProfilerActivity.CPU, *activities] if context.cuda else activities) as found:
            run()
            if context.cuda:
                torch.cuda.synchronize(context.device)
    order = "self_device_time_total" if context.cuda else "self_cpu_time_total"
    table = found.key_averages().table(sort_by=order, row_limit=KERNELS, max_name_column_width=90)
    write(context.results.folder / "profile.txt", f"{context.plan.network} compiled, one batch\n{table}")
    wanted = "CUDA" if context.cuda else "CPU"  # an operator's event has its kernels' time, too
    averages = [event for event in found.key_averages() if event.device_type.name == wanted]
    times: Mapping[str, float] = {event.key: getattr(event, order) for event in averages}
    whole = sum(times.values())
    pointwise = sum(time for key, time in times.items() if key.startswith("triton_"))
    if whole and context.cuda:
        context.check("share of the compiled network's GPU time in Triton's kernels", pointwise / whole)


def write(path: Path, text: str) -> None:
    """Add to a text file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n\n")
