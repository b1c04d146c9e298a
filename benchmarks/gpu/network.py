"""Step `network`: the network alone, in all ways, against its roof and against timm's."""

from typing import Any

from benchmarks.gpu.contests import contest_here
from benchmarks.gpu.context import Context
from benchmarks.gpu.kernels import KERNELS_S, kernels
from benchmarks.gpu.pictures import ready
from benchmarks.gpu.plan import Way
from benchmarks.gpu.ways import compile_s, fastest, named, options_of, row_of
from benchmarks.peers import ours, timm_benchmark
from benchmarks.peers.sides import Claim, Contest, Side
from resnet_infer.bench.roofline import roof
from resnet_infer.spec.catalogue import spec_from_name

AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
ROW_S = 8.0
"""What a row takes when all is compiled."""
CONTEST_S = 40.0
"""The least that timm's network takes with ours beside it; its compilation is in it."""
ROOF_TARGET, TIMM_TARGET, EAGER_TARGET = 0.80, 1.0, 1.4


def network(context: Context) -> None:
    """The ways in the plan's order, timm's as soon as time would be short, then profiles, batches and all else.

    Nothing that compiles is begun while the contest has not had its time.
    """
    plan = context.plan
    ready(context)
    first, *others = plan.ways
    context.network(context.subject(**first), plan.batch)
    profiled(context, first)
    for way in others:
        if context.has(compile_s(way) + ROW_S + CONTEST_S, named(way)):
            context.network(context.subject(**way), plan.batch)
    if context.has(CONTEST_S, "contest with timm"):
        contest_here(context, against_timm(context), min(context.left() * 0.7, 2 * CONTEST_S))
    summary(context)
    top = fastest(context)
    if top != first:
        profiled(context, top)
    for batch in plan.ladder:
        for way in (first, top) if top != first else (first,):
            if context.has(compile_s(way) + ROW_S, f"{named(way)}, batch {batch}"):
                context.network(context.subject(**way), batch)
    for way in plan.more:
        if context.has(compile_s(way) + ROW_S, named(way)):
            context.network(context.subject(**way), plan.batch)


def profiled(context: Context, way: Way) -> None:
    """Where the time goes, if there is time to look; what was compiled a moment ago is not compiled anew in full."""
    if context.has(KERNELS_S + compile_s(way) / 2, f"profile, {named(way)}"):
        kernels(context, way)


def summary(context: Context) -> None:
    """The fastest way against the roof of compiled kernels, and against the first one."""
    plan = context.plan
    first, top = plan.ways[0], fastest(context)
    found, plain = row_of(context, context.subject(**top)), row_of(context, context.subject(**first))
    what = f"{plan.network} {plan.precision}"
    if found is None:
        context.check(f"{what}, of the roof of compiled kernels", target=ROOF_TARGET, error="no row was measured")
        return
    energy = f", {found.joules_per_image:.3g} J an image" if found.joules_per_image else ""
    note = f"{found.images_per_s:.1f} images/s{energy}, {named(top)}, batch {found.batch_size}"
    if ceiling := compiled_roof(context):
        context.check(f"{what}, of the roof of compiled kernels", found.images_per_s / ceiling, ROOF_TARGET, note=note)
    else:
        why = "the ceilings are not known: step machine has not run"
        context.check(f"{what}, of the roof of compiled kernels", target=ROOF_TARGET, skipped=why, note=note)
    if plain and top != first:
        context.check(f"{what}, {named(top)} over {named(first)}", found.images_per_s / plain.images_per_s)


def compiled_roof(context: Context) -> float:
    """Images a second if every kernel that inductor makes ran at the machine's ceilings; 0 where they are not known."""
    ceilings, plan = context.results.run.ceilings, context.plan
    spec = spec_from_name(plan.network)
    if ceilings is None or not (peak := ceilings.matmul_tflop_per_s.get(plan.precision, 0.0)):
        return 0.0
    least = roof(
        spec, spec.native_size, spec.native_size, "compiled", plan.precision,  # type: ignore[arg-type]
        tflop_per_s=peak, gb_per_s=ceilings.copy_gb_per_s, tensor_cores=context.cuda,
    )  # fmt: skip
    return 1 / least.seconds


def network_side(context: Context, way: Way, batch: int, images: int) -> Side:
    """Our torch backend on tiles that are on the device."""
    plan = context.plan
    settings = {
        "file": f"{plan.network}.pth", "batch": batch, "images": images, "device": str(context.device),
        "precision": plan.precision, "options": options_of(way),
    }  # fmt: skip
    return Side(name=f"ours: {named(way)}", start=ours.network, settings=settings, keep_freed_memory=True)


def against_timm(context: Context) -> Contest:
    """timm's benchmark.py --amp --channels-last, eager and compiled, with cuDNN's kernels chosen by trial as its script
    sets it, against our fastest way."""
    plan = context.plan
    batch = plan.batch
    images = batch * (64 if context.cuda else 1)
    common: dict[str, Any] = {
        "arch": plan.network, "images": images, "batch": batch, "channels_last": True,
        "device": str(context.device), "autocast": AUTOCAST[plan.precision],
    }  # fmt: skip
    eager = Side(name="timm, eager NHWC, amp", start=timm_benchmark.start, settings=common)
    compiled = Side(name="timm, compiled, amp", start=timm_benchmark.start, settings={**common, "compile": "default"})
    return Contest(
        peer="timm_benchmark",
        what=f"{plan.network}, network only, {plan.precision}, batch {batch}, {context.device}",
        theirs=[compiled, eager],
        ours=[network_side(context, fastest(context), batch, images)],
        claims=[
            Claim(name="timm compiled", among=[compiled.name], target=TIMM_TARGET),
            Claim(name="timm eager NHWC", among=[eager.name], target=EAGER_TARGET),
        ],
        images=images,
        tolerance=0.15,
        files=["tiles.npy", f"{plan.network}.pth"],
        packages=["timm"],
    )
