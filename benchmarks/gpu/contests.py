"""Contests of the peers' harness, held on this device within a step's time; their claims become checks."""

import time
from contextlib import suppress
from functools import partial
from multiprocessing import set_forkserver_preload

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.pictures import spread
from benchmarks.peers.materials import prepare
from benchmarks.peers.run import quick
from benchmarks.peers.runner import UNTRIED, NotRun, check_here, hold, not_held
from benchmarks.peers.sides import Contest, Side, set_up, timed_work
from benchmarks.timing import Method, processes
from resnet_infer.data.source import Source

IMPORTED = ("benchmarks.gpu.contests", "timm", "timm.data")
"""What sides on a CPU begin with, once for all of them."""


def contest_here(context: Context, contest: Contest, seconds: float, source: Source | None = None) -> None:
    """Hold it in about so many seconds, if its packages are here; record it and check its claims."""
    contest = quick(contest) if context.plan.quick else contest
    try:
        check_here(contest)
    except NotRun as error:
        record = not_held(contest, str(error))
    else:
        if source is not None:
            prepare(spread(source, 64), context.scratch, contest.files)
        if context.cuda:
            torch.cuda.empty_cache()  # the sides are processes of their own
        record = hold(
            contest,
            context.scratch,
            repeats=context.plan.repeats,
            seconds=seconds,
            start=partial(touch, str(context.device)),
            method=method(context),
            told=context.results.contest,
        )
        context.results.log(f"  {contest.peer}: the sides' processes were up after {record['starting_seconds']:.1f} s")
    context.results.contest(record)
    for entry in record["tried"]:
        speed = f"{entry['images_per_s']:.1f} images/s" if "images_per_s" in entry else entry.get("error", "")
        context.results.log(f"  {entry['side']}: {speed}")
    for row in record["rows"]:
        what = f"{contest.peer}, {contest.what}: ours over {row['claim']}"
        if "error" in row:
            left_out = row["error"].startswith("not run") or UNTRIED in row["error"]
            kind = "skipped" if left_out else "error"
            context.check(what, target=row["target"], **{kind: row["error"]})
            continue
        note = f"{row['ours_images_per_s']:.1f} against {row['theirs_images_per_s']:.1f} images/s"
        if row["theirs_untried"]:
            note += f"; {row['theirs_untried']} of their settings not tried, so this is no verdict"
        context.check(what, row["ratio"], None if row["theirs_untried"] else row["target"], note=note)


def method(context: Context) -> Method:
    """How sides' processes start."""
    if context.cuda:
        return "spawn"
    set_forkserver_preload(list(IMPORTED))
    return "forkserver"


def touch(device: str, side: str) -> None:
    """What a side's process starts with, all at once: having the device ready is most of what setting up takes."""
    with suppress(Exception):  # setting up says what is wrong
        torch.zeros(1, device=device)


def alone(context: Context, side: Side, repeats: int) -> list[float]:
    """Seconds of a side's work, without a contest; its first does not count."""
    with processes([side.name], partial(touch, str(context.device)), method=method(context)) as calls:
        call = calls[side.name]
        call(set_up, side, context.scratch)
        call(timed_work)
        taken: list[float] = []
        begun = time.time()
        while len(taken) < repeats and (not taken or time.time() - begun < max(1.0, context.left() / 3)):
            taken.append(call(timed_work)[0])
    return taken
