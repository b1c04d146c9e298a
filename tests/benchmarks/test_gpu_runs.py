"""The GPU command's two calls, in their small form on the CPU, to the end; and one that is killed on its way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import run
from resnet_infer.bench.rows import BenchRun, load_run

FILES = {
    "benchmark.json", "checks.json", "contests.json", "log.txt", "gpu.csv", "profile.txt", "pytest.txt", "levers.json",
}  # fmt: skip
"""All that any step leaves: what takes results away may take eight files."""


def words(steps: Sequence[str], out: Path) -> list[str]:
    how = ["--device", "cpu", "--tiny", "--minutes", "30", "--steps", ",".join(steps), "--out", str(out)]
    return [sys.executable, "-m", "benchmarks.gpu", *how]


def to_the_end(steps: Sequence[str], out: Path) -> tuple[list[dict[str, Any]], BenchRun, str]:
    done = subprocess.run(words(steps, out), capture_output=True, text=True, cwd=run.ROOT, check=False)
    saved = json.loads((out / "checks.json").read_text())
    assert [(step["name"], step["status"]) for step in saved["steps"]] == [(name, "done") for name in steps], (
        done.stdout
    )
    assert not [check for check in saved["checks"] if check["error"]]
    assert {path.name for path in out.iterdir()} <= FILES
    bench = load_run(out / "benchmark.json")
    assert str(out.parent) not in bench.command
    assert " missed, 0 with an error" in done.stdout
    return saved["checks"], bench, done.stdout


@pytest.mark.slow
def test_the_first_call(tmp_path: Path) -> None:
    checks, bench, _ = to_the_end(["correctness", "machine", "levers"], tmp_path / "out")
    assert bench.ceilings is not None
    sure = [check for check in checks if check["what"].startswith("logits, torch fp32") or "busy" in check["what"]]
    assert len(sure) >= 6
    assert all(check["met"] for check in sure)


@pytest.mark.slow
def test_the_second_call(tmp_path: Path) -> None:
    checks, bench, _ = to_the_end(["machine", "network", "protocols", "end_to_end"], tmp_path / "out")
    assert {row.protocol for row in bench.rows if row.measurement == "network"} == {
        "single-crop", "ten-crop", "multiscale",
    }  # fmt: skip
    assert {row.protocol for row in bench.rows if row.measurement == "memory"} == {
        "single-crop", "ten-crop", "multiscale",
    }  # fmt: skip
    rows = [row for row in bench.rows if "cuda-graphs" not in row.options]  # which are not for a CPU
    assert all(row.images_per_s > 0 and row.roof_fraction > 0 and not row.error for row in rows)
    assert all(row.top1_err is None for row in rows)  # of made weights
    over = [check for check in checks if "ours over" in check["what"] and check["measured"]]
    assert {check["what"].split(",")[0].split(" ")[0] for check in over} >= {"torchvision_ten_crop", "multiscale"}


@pytest.mark.slow
def test_what_a_killed_run_leaves(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(words(["correctness"], out), stdout=subprocess.DEVNULL, cwd=run.ROOT)
    try:
        checks = wait_for(lambda: json.loads((out / "checks.json").read_text())["checks"])
        (worker,) = [pid for pid in children(process.pid) if b"gpu.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    saved = json.loads((out / "checks.json").read_text())
    assert saved["checks"][: len(checks)] == checks
    assert [step["status"] for step in saved["steps"]] == ["running"]
    assert load_run(out / "benchmark.json").environment
    assert (out / "log.txt").read_text().count("\n") >= len(checks)
    wait_for(lambda: not alive(worker))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(what: Any) -> Any:
    """As long as it takes, on a machine that may be slow."""
    ends = time.monotonic() + 900
    while time.monotonic() < ends:
        try:
            if found := what():
                return found
        except (OSError, ValueError):
            pass
        time.sleep(0.2)
    raise AssertionError("did not happen")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
