"""A part of what `inject.py` does to every command: the rest is started by hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="the library of faults is compiled by cc")
def test_an_evaluation_survives_a_full_disk_and_a_kill_at_any_call() -> None:
    script = Path(__file__).with_name("inject.py")
    done = subprocess.run(
        [sys.executable, str(script), "--what", "eval", "--modes", "full", "after", "--every", "2"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "calls, after" in done.stdout
