"""All peers, one after another: `python -m benchmarks.peers --data PHOTOS.zip -o result.json`.

Ours against theirs at the same work, every side in a process of its own. For each contest both camps' settings are
tried, then the best of each are timed in turns. The result is written after every contest. A run of all peers takes at
most about `--minutes`: each contest gets its share of what is left, and tries and repeats less where that is short.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import (
    batch1_multiscale,
    onnxruntime_plain,
    openvino_cpu,
    timm_benchmark,
    timm_validate,
    torchvision_ten_crop,
    trtexec_like,
)
from benchmarks.peers.materials import prepare
from benchmarks.peers.runner import NotRun, check_here, hold, not_held, versions
from benchmarks.peers.sides import Contest
from benchmarks.peers.table import header, lines
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.environment import environment
from resnet_infer.errors import DataError, ResnetInferError, UnknownNameError, UsageError
from resnet_infer.files import replacing

PEERS = {
    "onnxruntime_plain": onnxruntime_plain,
    "openvino_cpu": openvino_cpu,
    "timm_validate": timm_validate,
    "torchvision_ten_crop": torchvision_ten_crop,
    "batch1_multiscale": batch1_multiscale,
    "timm_benchmark": timm_benchmark,
    "trtexec_like": trtexec_like,
}
PACKAGES = ("timm", "openvino", "tensorrt", "tensorrt_rtx")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; gives the exit code: 1 if a contest that could be held has no ratio."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="labelled photos: .zip, .tar or folder, ImageNet synsets")
    parser.add_argument("--only", nargs="+", default=list(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each finalist (default 5)")
    parser.add_argument("--minutes", type=float, default=15, help="for the whole run (default 15)")
    parser.add_argument("--images", type=int, help="in one timing; by default what each peer is stated for")
    parser.add_argument("--quick", action="store_true", help="one of each camp's settings, nothing compiled: a trial")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    try:
        return run(args, sys.argv[1:] if arguments is None else arguments)
    except ResnetInferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(args: argparse.Namespace, words: Sequence[str]) -> int:
    """The contests of the peers asked for, in the order of PEERS."""
    for name in args.only:
        if name not in PEERS:
            raise UnknownNameError("peer", name, PEERS, f"Peers: {', '.join(PEERS)}")
    if args.repeats < 1 or args.minutes <= 0 or (args.images is not None and args.images < 2):
        raise UsageError("--repeats must be at least 1, --minutes above 0, --images at least 2")
    source = open_source(args.data)
    contests = [c for name, peer in PEERS.items() if name in args.only for c in peer.contests(args.images)]
    if args.quick:
        contests = [quick(contest) for contest in contests]
    result: dict[str, Any] = {
        "what": "ours against other tools",
        "command": " ".join(["python -m benchmarks.peers", *shown(words)]),
        "environment": environment(),
        "threads": torch.get_num_threads(),
        "peers": versions(PACKAGES),
        "contests": [],
    }
    print(header(), flush=True)
    ends = time.monotonic() + 60 * args.minutes
    try:
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            for number, contest in enumerate(contests):
                share = contest.weight / sum(each.weight for each in contests[number:])
                seconds = max(1.0, share * (ends - time.monotonic()))
                record = prepared_and_held(contest, source, Path(folder), args.repeats, seconds)
                result["contests"].append(record)
                print("\n".join(lines(record)), flush=True)
                write(args.output, result)
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept", file=sys.stderr)
        write(args.output, result)
        return 130
    rows = [row for record in result["contests"] for row in record["rows"]]
    return int(any("error" in row and not row["error"].startswith("not run") for row in rows))


def prepared_and_held(contest: Contest, source: Source, folder: Path, repeats: int, seconds: float) -> dict[str, Any]:
    """The contest, its materials made first; their making is in its time, and not in any timing."""
    started = time.monotonic()
    try:
        check_here(contest)
        prepare(source, folder, contest.files)
    except NotRun as error:
        return not_held(contest, str(error))
    except DataError:
        raise  # the photos are no use to any contest
    except ResnetInferError as error:
        return not_held(contest, f"its files could not be made: {error}")
    preparing = time.monotonic() - started
    return hold(contest, folder, repeats=repeats, seconds=seconds - preparing) | {"preparing_seconds": preparing}


def quick(contest: Contest) -> Contest:
    """The first settings of each camp, and one claim about them."""
    theirs, ours = contest.theirs[:1], contest.ours[:1]
    return replace(contest, theirs=theirs, ours=ours, claims=[replace(contest.claims[0], among=())])


def shown(words: Sequence[str]) -> list[str]:
    """The command's words, paths by their last part."""
    return [Path(word).name if "/" in word else word for word in words]


def write(path: Path | None, result: dict[str, Any]) -> None:
    """The result so far, whole or not at all."""
    if path:
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
