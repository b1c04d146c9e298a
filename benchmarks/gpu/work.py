"""What the worker process does: open the results, and run its steps."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import FULL, TINY
from benchmarks.gpu.results import open_results
from benchmarks.gpu.steps import run_steps
from resnet_infer.allocator import keep_freed_memory
from resnet_infer.backends.devices import torch_device
from resnet_infer.bench.rows import BenchRun
from resnet_infer.environment import environment


def work(asked: dict[str, Any]) -> None:
    """Run the steps that are asked for."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    keep_freed_memory()  # as the command line does
    device = torch_device(asked["device"])
    plan = TINY if asked["tiny"] else FULL
    fresh = BenchRun(
        command=asked["command"],
        started=asked["started"],
        environment=environment() | {"tiny": asked["tiny"]},
        data={"name": Path(asked["data"]).name if asked["data"] else "made pictures", "images": plan.distinct},
        ceilings=None,
        rows=(),
    )
    results = open_results(Path(asked["output"]), fresh)
    results.set_run()
    run_steps(
        asked["steps"], asked["ends"], results, device=device, plan=plan, scratch=Path(asked["scratch"]),
        data=asked["data"],
    )  # fmt: skip


def _end_with(parent: int) -> None:
    """End when the process that watches is gone, with all that was started here: this process leads its group."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(os.getpid(), signal.SIGKILL)
