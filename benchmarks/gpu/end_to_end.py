"""Step `end_to_end`: from JPEG to scores: our fastest settings, how busy the network is kept, and the usual loops."""

import cProfile
import io
import pstats
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.gpu.contests import alone, contest_here
from benchmarks.gpu.context import Context, Keeping
from benchmarks.gpu.kernels import write
from benchmarks.gpu.network import AUTOCAST
from benchmarks.gpu.pictures import pictures, ready
from benchmarks.gpu.plan import Way, rescaled
from benchmarks.gpu.ways import fastest, named, options_of
from benchmarks.peers import batch1_multiscale, ours, timm_validate, torchvision_ten_crop
from benchmarks.peers.sides import Claim, Contest, Side
from resnet_infer.backends.load import Model
from resnet_infer.bench.rows import BenchRow
from resnet_infer.bench.runner import Data, image_sizes
from resnet_infer.bench.sweep import Cell, Subject
from resnet_infer.data.source import Source
from resnet_infer.evaluation.verdicts import best
from resnet_infer.pipeline.loader import cores
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.packing import Offload
from resnet_infer.pipeline.score import Member, score_groups
from resnet_infer.predictions.records import TOP_K
from resnet_infer.spec.protocols import protocol_for

BUSY = 0.9
TARGETS = {"single-crop": 2.0, "ten-crop": 3.0, "multiscale": 10.0}
ROW_S, CONTEST_S = 12.0, 25.0
REPEATS = 2
OFFLOADS: dict[Offload, str] = {"nothing": "", "rendering": "render=device", "decoding": "decode=device"}
LINES = 30


def end_to_end(context: Context) -> None:
    """Protocol by protocol: our settings, of the first a profile, the loop to beat; then files, and fewer workers."""
    ready(context)
    opener = context.opener(keep=True)
    assert isinstance(opener, Keeping)
    plan = context.plan
    counts = {"ten-crop": plan.ten_crop, "multiscale": plan.multiscale, "single-crop": plan.single_crop}
    chosen: dict[str, BenchRow] = {}
    try:
        for place, (protocol, count) in enumerate(counts.items()):
            context.results.log(f"  {protocol}: making {count} files")
            source = pictures(context, count)
            share = context.left() / (len(counts) - place)
            until = context.left() - share
            top = settings(context, opener, protocol, source, until + share / 2)
            if top:
                chosen[protocol] = top
                if not place and context.has(ROW_S, "profile of the host"):
                    host_profile(context, opener, protocol, source)
                against(context, protocol, top, source, max(1.0, context.left() - until))
        for protocol in ("single-crop", "ten-crop"):
            if protocol in chosen and context.has(2 * ROW_S, f"{protocol}, other workers"):
                others(context, opener, protocol, pictures(context, counts[protocol]), chosen[protocol])
    finally:
        opener.close()


def way_of(context: Context, protocol: str) -> Way:
    """The network in the fastest way of this run."""
    return fastest(context, dense=protocol == "multiscale")


def subject_of(context: Context, protocol: str) -> Subject:
    """The same, to be opened."""
    return context.subject(**way_of(context, protocol))


def settings(context: Context, opener: Keeping, protocol: str, source: Source, until: float) -> BenchRow | None:
    """What the device takes over, tried while more than `until` seconds are left; gives the fastest."""
    data = Data(source=source, sizes=image_sizes(source))
    rows: list[BenchRow] = []
    for offload in OFFLOADS:
        if rows and context.left() < until:
            context.results.log(f"  left out for want of time: {protocol} {OFFLOADS[offload]}")
            continue
        rows.append(end_to_end_row(context, opener, protocol, data, offload=offload))
    top = max((row for row in rows if not row.error), key=lambda row: row.images_per_s, default=None)
    if top is None:
        context.check(f"{protocol} end to end", error=rows[0].error)
        return None
    target = BUSY if protocol != "single-crop" else None
    what = f"{protocol} end to end, network kept busy ({top.options})"
    if top.network_fraction:
        energy = f", {top.joules_per_image:.3g} J an image" if top.joules_per_image else ""
        context.check(what, top.network_fraction, target, note=f"{top.images_per_s:.1f} images/s{energy}")
    else:
        context.check(what, target=target, skipped="the network alone was not measured")
    return top


def end_to_end_row(
    context: Context,
    opener: Keeping,
    protocol: str,
    data: Data,
    *,
    offload: Offload = "nothing",
    workers: int | None = None,
    measurement: str = "memory",
) -> BenchRow:
    """One row."""
    workers = max(0, cores() - 1) if workers is None else workers
    runner = context.runner(opener, data=data, workers=workers, offload=offload, repeats=REPEATS)
    subject, batch = subject_of(context, protocol), context.plan.batch
    cell = Cell(subject=subject, protocol=protocol, batch_size=batch, measurement=measurement)
    return context.measure(runner, cell, ", ".join(filter(None, [OFFLOADS[offload], f"workers={workers}"])))


def others(context: Context, opener: Keeping, protocol: str, source: Source, top: BenchRow) -> None:
    """The fastest setting from files, and with half the workers."""
    data = Data(source=source, sizes=image_sizes(source))
    offload = offload_of(top)
    end_to_end_row(context, opener, protocol, data, offload=offload, measurement="files")
    if cores() > 2 and context.has(ROW_S, "half the workers"):
        end_to_end_row(context, opener, protocol, data, offload=offload, workers=cores() // 2)


def offload_of(row: BenchRow) -> Offload:
    """What a row of ours left to the device."""
    return next((offload for offload, said in OFFLOADS.items() if said and said in row.options), "nothing")


def against(context: Context, protocol: str, top: BenchRow, source: Source, seconds: float) -> None:
    """The usual loop at the same work."""
    if protocol == "multiscale":
        one_at_a_time(context, top)
    elif context.has(CONTEST_S, f"contest, {protocol}"):
        contest_here(context, contest_of(context, protocol, top, len(source.samples)), seconds)


def common(context: Context, images: int) -> dict[str, Any]:
    """Settings of every loop."""
    plan = context.plan
    return {
        "arch": plan.network, "images": images, "channels_last": True, "device": str(context.device),
        "autocast": AUTOCAST[plan.precision],
    }  # fmt: skip


def own_side(context: Context, protocol: str, top: BenchRow, images: int) -> Side:
    """Our `evaluate` with the fastest settings."""
    plan = context.plan
    offload = offload_of(top)
    settings: dict[str, Any] = {
        "file": f"{plan.network}.pth", "protocol": protocol, "images": images, "batch": plan.batch,
        "workers": max(0, cores() - 1), "options": options_of(way_of(context, protocol)),
        "device": str(context.device), "precision": plan.precision, "offload": offload,
    }  # fmt: skip
    return Side(
        name=f"ours: {', '.join(filter(None, (named(way_of(context, protocol)), OFFLOADS[offload])))}",
        start=ours.evaluation,
        settings=settings,
        keep_freed_memory=True,
    )


def contest_of(context: Context, protocol: str, top: BenchRow, images: int) -> Contest:
    """timm's validate.py, or TenCrop in a DataLoader, with all cores, under autocast, eager and compiled."""
    workers = cores()
    theirs: Sequence[Side]
    if protocol == "single-crop":
        loop, batch, peer = timm_validate.start, context.plan.batch, "timm_validate"
    else:
        loop, batch, peer = torchvision_ten_crop.start, max(1, context.plan.batch // 8), "torchvision_ten_crop"
    given = {**common(context, images), "batch": batch, "workers": workers}
    theirs = [
        Side(name=f"eager, amp, batch {batch}, workers {workers}", start=loop, settings=given),
        Side(
            name=f"compiled, amp, batch {batch}, workers {workers}", start=loop,
            settings={**given, "compile": "default"},
        ),
    ]  # fmt: skip
    return Contest(
        peer=peer,
        what=f"{context.plan.network}, {protocol}, {images} files, {context.device}",
        theirs=theirs,
        ours=[own_side(context, protocol, top, images)],
        claims=[Claim(name="the loop, best settings", target=TARGETS[protocol])],
        images=images,
        tolerance=0.3,
        files=[f"photos-{images}", f"{context.plan.network}.pth"],
        packages=["timm"] if protocol == "single-crop" else [],
    )


def one_at_a_time(context: Context, top: BenchRow) -> None:
    """The loop of one image and one scale at a time is slow, so it runs on a few files; rates are compared."""
    images = context.plan.naive_multiscale
    what = "multiscale end to end: ours over the loop of one image at a time"
    if not context.has(CONTEST_S / 2, what):
        return
    pictures(context, images)
    given = {**common(context, images), "decode_once": False, **rescaled(context.plan)}
    side = Side(name="eager, amp, decode per scale", start=batch1_multiscale.start, settings=given)
    seconds = alone(context, side, REPEATS)
    rate = images / statistics.median(seconds)
    context.results.contest({"peer": "batch1_multiscale", "settings": given, "images": images, "seconds": seconds})
    note = f"{top.images_per_s:.1f} on {top.images} files against {rate:.2f} images/s on {images}"
    context.check(what, top.images_per_s / rate, TARGETS["multiscale"], note=note)


def host_profile(context: Context, opener: Keeping, protocol: str, source: Source) -> None:
    """What the host's own thread does during a pass, to profile.txt: it feeds the device. Workers decode and render."""
    with opener.open(subject_of(context, protocol)) as (model, _), cProfile.Profile() as profiler:
        scored = one_pass(model, protocol, source, context.plan.batch, max(0, cores() - 1))
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(LINES)
    heading = f"host, {protocol} end to end, {scored} images"
    write(context.results.folder / "profile.txt", f"{heading}\n{text.getvalue()}")


def one_pass(model: Model, name: str, source: Source, batch: int, workers: int) -> int:
    """Score everything once; gives the number of images."""
    protocol = protocol_for(name, model.manifest.spec, model.manifest.preprocessing)
    members = [Member(model, (protocol,))]
    results = score_groups(
        members, source, reduce=partial(best, TOP_K), loading=Loading(batch_size=batch, workers=workers)
    )
    return sum(len(images.indices) for images in results)
