"""Steps `suite` and `training`: the repository's GPU tests, and a short training, as commands of their own."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.context import Context, Skipped

ROOT = Path(__file__).resolve().parents[2]
PYTEST_TXT = "pytest.txt"
MOST_TAIL = 12


def command(context: Context, words: Sequence[str]) -> tuple[int, str]:
    """Exit code and output; ended when the step's time is over, which is code -1."""
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=max(1.0, context.left()), errors="replace",
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return -1, said.decode(errors="replace") if isinstance(said, bytes) else said
    return done.returncode, done.stdout


def suite(context: Context) -> None:
    """pytest -m gpu; its output goes to pytest.txt."""
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("pytest is not installed")
    if context.cuda:
        words = ["-m", "pytest", "-m", "gpu", "-vv", "-rs", "-p", "no:cacheprovider", "tests"]
    else:
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_shapes.py"]
    code, text = command(context, words)
    (context.results.folder / PYTEST_TXT).write_text(text, "utf-8")
    for line in text.strip().splitlines()[-MOST_TAIL:]:
        context.results.log(f"  {line}")
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", text)}
    note = ", ".join(f"{number} {word}" for word, number in found.items())
    wrong = found.get("failed", 0) + found.get("error", 0) + found.get("errors", 0)
    if code == -1:
        context.check("GPU tests that fail", target=0, at_most=True, error=f"not done in time; {note}")
    elif code not in (0, 1):
        context.check(
            "GPU tests that fail", target=0, at_most=True, error=f"exit code {code}; {note}; see {PYTEST_TXT}"
        )
    else:
        context.check("GPU tests that fail", wrong, 0, at_most=True, note=note)


def training(context: Context) -> None:
    """benchmarks/training.py: our loop, captured in a CUDA graph, against a plain one."""
    output = context.scratch / "training.json"
    words = ["-m", "benchmarks.training", "--device", str(context.device), "-o", str(output)]
    size = ["--iterations", "100", "--repeats", "3"] if context.cuda else ["--batch", "4", "--iterations", "1"]
    code, text = command(context, [*words, *size, *([] if context.cuda else ["--repeats", "1"])])
    if code or not output.exists():
        context.results.log(text[-2000:])
        context.check("training, ours over a plain loop", error=f"exit code {code}: {' '.join(text[-200:].split())}")
        return
    found = json.loads(output.read_text("utf-8"))
    context.results.contest({"peer": "training"} | found)
    for side in ("ours", "ours_compiled"):
        note = f"{found['images_per_s'][side]:.0f} against {found['images_per_s']['plain']:.0f} images/s"
        context.check(f"{found['what']}: {side} over plain", found["ratio"][side], found["target_ratio"], note=note)
