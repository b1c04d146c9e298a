"""Every call that changes a file goes wrong once: it fails, is cut short, or the process is killed before or after it.

    python tests/faults/inject.py --what all
    python tests/faults/inject.py --what eval --modes full after

As SQLite tests itself: in run N the Nth call goes wrong, until a run comes to its end without meeting its fault. After
each, the command is given again without faults; then its numbers and files are those of one that nothing happened to,
and nothing else is left. Runs are children forked from this process, which has imported everything.
"""

import argparse
import contextlib
import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import operations
import shim
from durability import undurable
from operations import Operation
from shim import KINDS, ON_FILES, Fault

SPACE = KINDS["open"] | KINDS["write"] | KINDS["mkdir"] | KINDS["sync"] | KINDS["truncate"]
MODES = {
    "enospc": Fault(SPACE | KINDS["rename"], shim.FAIL, errno.ENOSPC),
    "full": Fault(SPACE | KINDS["rename"], shim.FAIL_ON, errno.ENOSPC),
    "efbig": Fault(KINDS["write"] | KINDS["truncate"], shim.FAIL, errno.EFBIG),
    "eio": Fault(ON_FILES - KINDS["lock"], shim.FAIL, errno.EIO),
    "nolock": Fault(KINDS["lock"], shim.FAIL, errno.ENOLCK),
    "eintr": Fault(KINDS["open"] | KINDS["write"] | KINDS["sync"] | KINDS["truncate"], shim.FAIL, errno.EINTR),
    "short": Fault(KINDS["write"], shim.SHORT),
    "before": Fault(ON_FILES, shim.KILL_BEFORE),
    "after": Fault(ON_FILES, shim.KILL_AFTER),
    "memory": Fault(KINDS["allocate"], shim.FAIL, errno.ENOMEM, least=2**20),
}
HARMLESS = ("eintr", "short")
"""Modes that an operation gets through without failing."""
KILLS = ("before", "after")
TEMPORARY = "temporary"
"""What is $TMPDIR, below the watched folder."""


@dataclass
class Ended:
    """How a run ended."""

    code: int
    output: str
    errors: str


@dataclass
class Injected:
    """What was tried, and what was wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)


class Injector:
    """Runs commands in children of this process."""

    def __init__(self, folder: Path) -> None:
        self._shim = shim.Shim()
        self._base = folder
        self.folder = folder / "watched"
        self.found = Injected()

    def run(self, arguments: Sequence[str], fault: Fault | None) -> Ended:
        """One command in a child, with a fault or without."""
        out, err = self._base / "stdout", self._base / "stderr"
        self._shim.prepare(fault or Fault(0))
        child = os.fork()
        if not child:
            self._command(arguments, out, err)
        status = os.waitpid(child, 0)[1]
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return Ended(code, out.read_text(), err.read_text())

    def _command(self, arguments: Sequence[str], out: Path, err: Path) -> None:
        code: Any = 99
        try:
            for descriptor, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            from resnet_infer.cli.app import main

            sys.argv = ["resnet-infer", *arguments]
            tempfile.tempdir = str(self.folder / TEMPORARY)
            self._shim.arm(self.folder)
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
                code = 98
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
        finally:
            os._exit(code)

    def fresh(self) -> None:
        """An empty folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / TEMPORARY).mkdir(parents=True)

    def reference(self, operation: Operation) -> tuple[Any, set[str]]:
        """What an operation makes, and the names of its files."""
        self.fresh()
        ended = self.run(operation.command(self.folder), Fault(ON_FILES))
        assert ended.code == 0, f"{operation.name}: {ended}"
        for problem in undurable(self._shim.log(), operation.durable, self.folder):
            self.found.problems.append(f"{operation.name}: {problem}")
        return operation.content(self.folder, ended.output), names(self.folder)

    def inject(self, operation: Operation, mode: str, every: int = 1) -> None:
        """Let every call go wrong once, or every so many."""
        expected, files = self.reference(operation)
        number = 1
        while True:
            fault = replace(MODES[mode], at=number)
            self.fresh()
            ended = self.run(operation.command(self.folder), fault)
            if not (kind := self._shim.hit):
                return
            log = self._shim.log()
            last = log[-1] if log else ("", "", "")
            where = f"{operation.name}, {mode}, call {number} ({kind}, last done: {' '.join(last)})"
            self.found.counts[f"{mode} {kind}"] += 1
            for problem in self._judge(operation, mode, ended, kind, expected, files):
                self.found.problems.append(f"{where}: {problem}")
            number += every

    def _judge(
        self, operation: Operation, mode: str, ended: Ended, kind: str, expected: Any, files: set[str]
    ) -> Sequence[str]:
        """What is wrong with a run that met a fault, and with the one after it."""
        problems = []
        if mode in KILLS:
            if ended.code != -signal.SIGKILL:
                problems.append(f"not killed: {ended}")
        elif ended.code == 0:
            problems += self._wrong(operation, ended, expected, files, swept=kind not in ("unlink", "chmod"))
        elif mode in HARMLESS:
            problems.append(f"failed: {ended.errors[-500:]}")
        else:
            problems += unclear(ended, mode, self.folder)
        if ended.errors:
            line = re.sub(r"/\S*/(\S)", r"\1", ended.errors.splitlines()[-1])
            self.found.said[f"{operation.name} {mode} {kind}: {re.sub(r'[0-9]+', 'N', line)}"] += 1
        again = self.run(operation.again(self.folder), None)
        if again.code == 2 and "already exists" in again.errors and ended.code != 0:
            again = Ended(0, ended.output, "")  # all was done before the kill
        if again.code:
            return [*problems, f"does not go on: {again.errors[-500:]}"]
        return [*problems, *self._wrong(operation, again, expected, files, swept=True, killed=mode in KILLS)]

    def _wrong(
        self,
        operation: Operation,
        ended: Ended,
        expected: Any,
        files: set[str],
        *,
        swept: bool,
        killed: bool = False,
    ) -> Sequence[str]:
        """What differs from a run without faults."""
        problems = []
        try:
            if operation.content(self.folder, ended.output) != expected:
                problems.append("other numbers or files")
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        there = names(self.folder)
        if killed:  # the operating system empties $TMPDIR
            there = {name for name in there if not name.startswith(TEMPORARY)}
        if swept and there != files:
            problems.append(f"left behind: {sorted(there - files)}, missing: {sorted(files - there)}")
        return problems


def names(folder: Path) -> set[str]:
    """All files and folders, but for TensorBoard's, which have times in their names."""
    every = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {name for name in every if "events.out" not in name and name != TEMPORARY}


def unclear(ended: Ended, mode: str, folder: Path) -> Sequence[str]:
    """What is wrong with the message of a run that failed."""
    lines = ended.errors.splitlines()
    if ended.code not in (1, 2) or "Traceback" in ended.errors or not lines or "resnet-infer: error: " not in lines[-1]:
        return [f"no clear line (exit {ended.code}): {ended.errors[-1500:]}"]
    problems = []
    if mode != "memory" and str(folder) not in lines[-1]:
        problems.append("names no file")
    if mode in ("enospc", "full", "efbig") and not re.search("free|--resume|another", lines[-1]):
        problems.append("does not say how to go on")
    if mode == "nolock" and "another process" in lines[-1]:
        problems.append("blames another process")
    return [f"{problem}: {lines[-1]}" for problem in problems]


def warm(folder: Path) -> None:
    """Import what commands import, and do once, in this process, what would cost every child time."""
    import copy

    import onnx
    import onnxruntime
    import pyarrow.parquet  # noqa: F401
    import torch

    from resnet_infer.backends.load import open_model
    from resnet_infer.cli import export_run  # noqa: F401
    from resnet_infer.environment import environment
    from resnet_infer.exporters import to_onnx
    from resnet_infer.model.checkpoints import load_checkpoint
    from resnet_infer.predictions import recorder
    from resnet_infer.report import training as report
    from resnet_infer.train import loop  # noqa: F401

    torch.set_num_threads(1)
    environment()
    open_model(operations.MODEL, device="cpu")
    recorder.PART_IMAGES, recorder.PART_S = 8, 1e9
    graph = to_onnx.float_graph(load_checkpoint(operations.MODEL), "pooled", "fp32")
    to_onnx.float_graph = lambda *arguments: copy.deepcopy(graph)
    assert onnx.checker
    assert onnxruntime.InferenceSession
    figure = report.error_figure({"net": []})
    with contextlib.suppress(Exception):
        figure.savefig(os.devnull, format="png")
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401


def main(given: argparse.Namespace, folder: Path) -> int:
    """Inject, print, and return the number of problems."""
    warm(folder)
    data, test = operations.draw(folder / "train.zip"), operations.draw(folder / "test.zip", seed=1)
    every = {
        "eval": [operations.evaluation(data, ".jsonl")],
        "parquet": [operations.evaluation(data, ".parquet")],
        "train": [operations.training(data, test)],
        "onnx": [operations.onnx_export()],
        "triton": [operations.triton_export()],
    }
    injector = Injector(folder)
    chosen = [operation for name in every if name in given.what or "all" in given.what for operation in every[name]]
    for operation in chosen:
        for mode in given.modes:
            before, begun = injector.found.counts.total(), time.monotonic()
            injector.inject(operation, mode, given.every)
            calls = injector.found.counts.total() - before
            print(f"{operation.name}: {calls} calls, {mode}, {time.monotonic() - begun:.0f} s", flush=True)
    if given.said:
        for line, count in sorted(injector.found.said.items()):
            print(f"  {count:3} {line}")
    for problem in sorted(set(injector.found.problems)):
        print(f"PROBLEM {problem}")
    print(f"{injector.found.counts.total()} faults, {len(injector.found.problems)} problems")
    for kind, count in sorted(injector.found.counts.items()):
        print(f"{count:6} {kind}")
    return len(injector.found.problems)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--what", nargs="+", default=["all"], choices=["all", "eval", "parquet", "train", "onnx", "triton"]
    )
    parser.add_argument("--modes", nargs="+", default=[*MODES], choices=[*MODES])
    parser.add_argument("--every", type=int, default=1, help="only every so many calls")
    parser.add_argument("--said", action="store_true", help="print what was said, too")
    if reason := shim.unavailable():
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="faults-") as where:
        if "LD_PRELOAD" not in os.environ:
            library = shim.build(Path(where))
            environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
            sys.exit(os.spawnve(os.P_WAIT, sys.executable, [sys.executable, *sys.argv], environment))
        sys.exit(min(1, main(parser.parse_args(), Path(where))))
