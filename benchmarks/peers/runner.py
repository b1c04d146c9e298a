"""One contest: set its sides up, see that they agree, try all, and time the best of each camp in turns.

Time is bounded. Trying stops at TRYING of the contest's time, so settings that come later in a list may be left out,
and the last part has as many repeats as fit, at least one. A side that fails or disagrees is recorded and left out.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.agreement import SAME_BEST, agreement
from benchmarks.peers.sides import Claim, Contest, Side, let_go, nothing, outputs, set_up, timed_work
from benchmarks.timing import Call, Method, SideFailed, compare, processes

TRYING = 0.6
"""Of a contest's time: for setting up and trying."""
SHORT_S = 2.0
"""A side whose first timing is shorter is timed twice when it is tried; the better one counts."""
UNTRIED = "not tried: out of time"
LONGEST_CALL_S = 300.0
"""A side that takes longer for one step is ended; its process's start does not count."""

Record = dict[str, Any]


class NotRun(Exception):
    """A contest that cannot be held here, and why; a row of the result."""


def hold(
    contest: Contest,
    folder: Path,
    *,
    repeats: int,
    seconds: float,
    start: Callable[[str], None] = nothing,
    method: Method = "spawn",
    told: Callable[[Record], None] = lambda record: None,
) -> Record:
    """The whole contest in about so many seconds; gives its part of the result.

    Its `rows` have a ratio each, or an `error`; it raises nothing that a side raised. Every side's process begins with
    `start`, which is waited for. `told` is given the record so far whenever a side was tried.
    """
    started = time.monotonic()
    record = about(contest)
    try:
        with processes(contest.sides(), start, method=method) as calls:
            record["starting_seconds"] = time.monotonic() - started
            best = try_sides(contest, folder, calls, record, started + TRYING * seconds, told)
            left = started + seconds - time.monotonic()
            record |= final(contest, calls, best, record["tried"], repeats, left)
            for name in best:
                with suppress(SideFailed):
                    calls[name](let_go, timeout_s=LONGEST_CALL_S)
    except NotRun as error:
        record["rows"] = [failed(contest, claim, str(error)) for claim in contest.claims]
    record["seconds"] = time.monotonic() - started
    return record


def about(contest: Contest) -> Record:
    """What is known of a contest before it is held."""
    return {
        "peer": contest.peer,
        "what": contest.what,
        "images": contest.images,
        "check": {"tolerance": contest.tolerance, "same_best_class": SAME_BEST},
        "tried": [],
    }


def not_held(contest: Contest, why: str) -> Record:
    """The part of the result of a contest that could not be held."""
    return about(contest) | {"seconds": 0.0, "rows": [failed(contest, claim, why) for claim in contest.claims]}


def check_here(contest: Contest) -> None:
    """Raise NotRun for a contest whose packages or GPU are missing."""
    missing = [package for package in contest.packages if not installed(package)]
    if missing:
        raise NotRun(f"not run: {', '.join(missing)} not installed (uv sync --group peers)")
    if contest.gpu and not torch.cuda.is_available():
        raise NotRun("not run: no CUDA device")


def installed(package: str) -> bool:
    """Whether it can be imported, as far as can be told without doing so."""
    return importlib.util.find_spec(package) is not None


def try_sides(
    contest: Contest,
    folder: Path,
    calls: Mapping[str, Call],
    record: Record,
    until: float,
    told: Callable[[Record], None],
) -> dict[str, float]:
    """Every side checked and timed; gives the seconds of those that count, and puts what happened into the record.

    The first of each camp is always tried. Sides of the two camps take turns, so that neither has all the time. The
    first that answers is what the others have to agree with.
    """
    best: dict[str, float] = {}
    reference: NDArray[np.float32] | None = None
    always = {contest.theirs[0].name, contest.ours[0].name}
    for side in in_turns(contest.theirs, contest.ours):
        told(record)
        entry: Record = {"side": side.name, "ours": side in contest.ours, "settings": settings_of(side)}
        record["tried"].append(entry)
        if time.monotonic() > until and side.name not in always:
            entry["error"] = UNTRIED
            continue
        call = partial(calls[side.name], timeout_s=LONGEST_CALL_S)
        try:
            entry["setup_seconds"], entry["versions"] = call(set_up, side, folder)
            said = call(outputs)
            if reference is None:
                reference, record["reference"] = said, side.name
            found = agreement(reference, said)
            entry["difference"], entry["same_best_class"] = found.difference, found.same_best_class
            if not found.within(contest.tolerance):
                entry["error"] = f"disagrees with {record['reference']}: {describe(entry)}"
                continue
            timings = [call(timed_work)]
            if timings[0][0] < SHORT_S:
                timings.append(call(timed_work))
        except Exception as error:  # whatever a tool raises is a row, not the end of the run
            entry["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            continue
        entry["seconds"] = [taken for taken, _ in timings]
        entry |= timings[-1][1]
        best[side.name] = min(entry["seconds"])
        entry["images_per_s"] = contest.images / best[side.name]
    told(record)
    return best


def in_turns(theirs: Sequence[Side], ours: Sequence[Side]) -> list[Side]:
    """One of theirs, one of ours, and so on; then the rest of the longer list."""
    both = [side for pair in zip(theirs, ours, strict=False) for side in pair]
    return [*both, *theirs[len(ours) :], *ours[len(theirs) :]]


def settings_of(side: Side) -> Record:
    """What JSON says of it."""
    return {**side.settings, "keep_freed_memory": side.keep_freed_memory}


def describe(entry: Record) -> str:
    """How far apart, in a few words."""
    return f"outputs differ by {entry['difference']:.2g} of the largest, same best class {entry['same_best_class']:.0%}"


def final(
    contest: Contest,
    calls: Mapping[str, Call],
    best: Mapping[str, float],
    tried: Sequence[Record],
    repeats: int,
    left: float,
) -> Record:
    """The finalists timed in turns, and a row for every claim.

    Nothing is said to be met while some of the settings that a claim is about were not tried.
    """
    own = [side.name for side in contest.ours]
    ours = fastest(best, own)
    if ours is None:
        raise NotRun(none_of("ours", own, tried))
    rivals = {claim.name: fastest(best, among(contest, claim)) for claim in contest.claims}
    finalists = list(dict.fromkeys([name for name in rivals.values() if name] + [ours]))
    if len(finalists) == 1:
        raise NotRun(none_of("theirs", [side.name for side in contest.theirs], tried))
    pass_seconds = sum(best[name] for name in finalists)
    repeats = max(1, min(repeats, int(left / pass_seconds) - 1))

    def timed(name: str) -> float:
        taken: float = calls[name](timed_work, timeout_s=LONGEST_CALL_S)[0]
        return taken

    sides = {name: partial(timed, name) for name in finalists}
    try:
        measured = compare(sides, repeats, images=contest.images, reference=finalists[0], target=None)
    except Exception as error:  # it ran when it was tried, so this is the machine's doing
        raise NotRun(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    rates = measured["images_per_s"]
    rows = []
    for claim in contest.claims:
        if rivals[claim.name] is None:
            rows.append(failed(contest, claim, none_of("theirs", among(contest, claim), tried)))
            continue
        rival = max((name for name in finalists if name in among(contest, claim)), key=lambda name: rates[name])
        ratio = rates[ours] / rates[rival]
        untried = [entry for entry in tried if entry["side"] in among(contest, claim) and entry.get("error") == UNTRIED]
        met = None if claim.target is None or untried else ratio >= claim.target
        rows.append(
            {
                "claim": claim.name,
                "theirs": rival,
                "ours": ours,
                "theirs_images_per_s": rates[rival],
                "ours_images_per_s": rates[ours],
                "ratio": ratio,
                "target": claim.target,
                "met": met,
                "theirs_untried": len(untried),
            }
        )
    return {"repeats": repeats, "seconds_in_turns": measured["seconds"], "rows": rows}


def fastest(best: Mapping[str, float], names: Sequence[str]) -> str | None:
    """Of these, the one with the fewest seconds; None if none was timed."""
    timed = [name for name in names if name in best]
    return min(timed, key=lambda name: best[name]) if timed else None


def among(contest: Contest, claim: Claim) -> Sequence[str]:
    """Names of theirs that a claim is about."""
    return claim.among or [side.name for side in contest.theirs]


def none_of(camp: str, names: Sequence[str], tried: Sequence[Record]) -> str:
    """Why no side of these was timed: the first one's reason."""
    reasons = [str(entry["error"]) for entry in tried if entry["side"] in names and "error" in entry]
    return f"none of {camp} ran and agreed: {reasons[0]}" if reasons else f"none of {camp} was tried"


def failed(contest: Contest, claim: Claim, why: str) -> Record:
    """The row of a claim that could not be tested."""
    return {"claim": claim.name, "target": claim.target, "met": None, "error": why}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of the peers' packages, where they are installed."""
    return {package: metadata.version(package) for package in packages if installed(package)}
