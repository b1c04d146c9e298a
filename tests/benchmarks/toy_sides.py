"""Sides whose work is a sleep of known length, for the tests of the runner; their processes import this module."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.sides import Running

START_S = 6.0


def slow_start(device: str, side: str) -> None:
    """What a process may begin with on a machine that is busy with other things."""
    time.sleep(START_S)


def start(folder: Path, *, seconds: float = 0.01, shift: float = 0.0, does: str = "work") -> Running:
    """Five photos' outputs for two classes, all `shift` away from what they should be."""
    if does == "raise":
        raise ValueError("no such setting")
    if does == "die":
        os._exit(1)

    def work() -> Mapping[str, Any]:
        time.sleep(seconds)
        return {"top1_errors": 2}

    return Running(outputs=lambda: np.eye(2, dtype=np.float32)[[0, 1, 0, 0, 1]] + np.float32(shift), work=work)
