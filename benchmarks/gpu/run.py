"""All GPU figures and checks in one command: `python -m benchmarks.gpu --minutes 9 --out DIR`.

The steps (steps.py) run in the order of their worth, each within its share of the time; a step that fails is recorded
and the next goes on. Everything is in DIR the moment it is known (results.py), so the run may be killed at any time.
It runs from a checkout with the package's dependencies, and uses onnxruntime-gpu, tensorrt, tensorrt_rtx, timm and
pytest where they are installed. `--device cpu --tiny` sees in a few minutes that every step runs; its figures mean
nothing.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.clocks import between, sampled
from benchmarks.gpu.results import Results, open_results
from benchmarks.gpu.steps import STEPS
from benchmarks.gpu.table import text
from resnet_infer.backends.devices import torch_device
from resnet_infer.bench.rows import BenchRun
from resnet_infer.environment import environment
from resnet_infer.errors import ResnetInferError, UnknownNameError, UsageError

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 20.0
"""A step that does not end by itself when it is cut is ended with its process."""
END_S = 30.0
"""The run is over so long before its limit: to end what runs, for the table, and for the results to be taken away."""
BLANK = BenchRun(command="", started="", environment={}, data={}, ceilings=None, rows=())


class Ended(Exception):
    """SIGTERM."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; gives the exit code: 1 if a step failed or a target with a measurement is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9, help="for the whole run (default 9)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--data", help="labelled photos, ImageNet synsets; made pictures by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", default="", metavar="A,B", help=f"of {', '.join(step.name for step in STEPS)}")
    parser.add_argument("--tiny", action="store_true", help="a trial: small work, nothing compiled in earnest")
    parser.add_argument("--compile", action="store_true", help="with --tiny: compile nevertheless")
    args = parser.parse_args(arguments)
    try:
        return run(args, sys.argv[1:] if arguments is None else arguments)
    except ResnetInferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Watch over the steps, then print the table; SIGTERM and Ctrl-C end the run with its table, too."""
    ends = time.time() + 60 * args.minutes - END_S
    torch_device(args.device)
    if not 60 * args.minutes > END_S:
        raise UsageError(f"--minutes must be above {END_S / 60:g}; got {args.minutes:g}")
    names = [name for name in args.steps.split(",") if name] or [step.name for step in STEPS]
    for name in names:
        if name not in {step.name for step in STEPS}:
            raise UnknownNameError("step", name, [step.name for step in STEPS])
    if (args.out / "checks.json").exists() or (args.out / "benchmark.json").exists():
        raise UsageError(f"{args.out}: holds a run already; choose another folder")
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _terminated)
    code = 0
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as scratch:
        asked = {
            "steps": names, "ends": ends, "output": str(args.out), "scratch": scratch, "device": args.device,
            "tiny": args.tiny, "compile": args.compile, "data": args.data,
            "command": shlex.join(["python", "-m", "benchmarks.gpu", *shown(words)]),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        try:
            with sampled(args.out):
                watch(asked, ends)
        except (Ended, KeyboardInterrupt) as error:
            code = 143 if isinstance(error, Ended) else 130
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return finish(args.out, asked, code)


def watch(asked: dict[str, Any], ends: float) -> None:
    """A worker for all steps; another one for the rest if it dies or hangs."""
    folder, todo = Path(asked["output"]), list(asked["steps"])
    surroundings = os.environ | {"PYTHONPATH": _python_path()}
    if asked["tiny"] and not asked["compile"]:
        surroundings["TORCHDYNAMO_DISABLE"] = "1"  # compiling takes minutes on a CPU; the sides' processes inherit it
    while todo and time.time() < ends:
        worker = subprocess.Popen(
            [sys.executable, "-u", "-m", "benchmarks.gpu.worker", json.dumps(asked | {"steps": todo})],
            cwd=ROOT, process_group=0, env=surroundings,
        )  # fmt: skip
        try:
            why = wait(worker, folder, ends)
        finally:
            end(worker)
        results = open_results(folder, BLANK)
        ended = {step.name for step in results.steps if step.status != "running"}
        ended |= close_running(results, why or "its process ended")
        if not why or not ended & set(todo):
            break  # all done, or not even the first one began
        todo = [name for name in todo if name not in ended]


def close_running(results: Results, why: str) -> set[str]:
    """Have no step stand as running whose process is gone; gives their names."""
    left = [step for step in results.steps if step.status == "running"]
    for step in left:
        results.step(replace(step, status="failed", seconds=time.time() - step.began, why=why))
        results.log(f"{step.name}: {why}")
    return {step.name for step in left}


def wait(worker: "subprocess.Popen[bytes]", folder: Path, ends: float) -> str:
    """Until the worker is done; gives why it is not, or nothing."""
    while True:
        try:
            code = worker.wait(timeout=1)
            return "" if code == 0 else f"its process ended with code {code}"
        except subprocess.TimeoutExpired:
            pass
        if time.time() > ends:
            return "the run's time was over"
        running = [step for step in open_results(folder, BLANK).steps if step.status == "running"]
        if any(time.time() > step.until + GRACE_S for step in running):
            return "it hung, and was ended"


def end(worker: "subprocess.Popen[bytes]") -> None:
    """The worker and the processes that it started: asked first, then made to."""
    for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
        try:
            os.killpg(worker.pid, number)
        except ProcessLookupError:
            break
        try:
            worker.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def finish(folder: Path, asked: dict[str, Any], code: int) -> int:
    """Complete the files and print the table."""
    fresh = replace(BLANK, command=asked["command"], started=asked["started"], environment=environment())
    results = open_results(folder, fresh)
    close_running(results, "the run was ended")
    spans = {step.name: (step.began, step.began + step.seconds) for step in results.steps}
    if clocks := between(folder, spans):
        results.set_run(environment={**results.run.environment, "clocks": clocks})
    started = datetime.fromisoformat(asked["started"]).timestamp()
    results.set_run(seconds=round(time.time() - started, 1))
    table = text(results)
    print(table, flush=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as file:
        file.write(table + "\n")
    missed = [check for check in results.checks if check.met is False or check.error]
    failed = [step for step in results.steps if step.status in ("failed", "cut")]
    return code or int(bool(missed or failed))


def shown(words: Sequence[str]) -> list[str]:
    """The command's words, paths by their last part."""
    return [Path(word).name if "/" in word else word for word in words]


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _terminated(number: int, frame: Any) -> None:
    raise Ended
