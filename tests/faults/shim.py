"""The library that makes a chosen call go wrong: built from shim.c, preloaded, and armed in a forked child."""

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

KINDS = {
    name: 1 << bit
    for bit, name in enumerate(
        ("open", "write", "sync", "rename", "unlink", "mkdir", "truncate", "lock", "chmod", "allocate")
    )
}
"""The calls, as in shim.c: `open` for writing, `chmod`, locks and allocations of `least` bytes and more."""
ON_FILES = sum(KINDS.values()) - KINDS["allocate"]
COUNT, FAIL, FAIL_ON, SHORT, KILL_BEFORE, KILL_AFTER = range(6)
"""What happens: nothing, an error, an error from then on (of what needs space), half of it, SIGKILL before or after."""


@dataclass(frozen=True)
class Fault:
    """Which call goes wrong, and how."""

    kinds: int
    action: int = COUNT
    error: int = 0
    at: int = 0
    least: int = 0


class Plan(ctypes.Structure):
    """`struct plan` of shim.c; the counters are the child's."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("kinds", "at", "action", "error", "least", "seen", "hit", "logged")),
        ("log", ctypes.c_char * 2**20),
    ]


def unavailable() -> str:
    """Why the library cannot be built or preloaded here; nothing if it can."""
    if sys.platform != "linux" or not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return "faults are injected by a preloaded library, which needs Linux with glibc"
    return "" if shutil.which("cc") else "needs a C compiler, cc, for the library that injects faults"


def build(folder: Path) -> Path:
    """Compile the library into a folder."""
    library = folder / "shim.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    return library


class Shim:
    """The library in this process, which was started with it in LD_PRELOAD."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._memory = mmap.mmap(-1, ctypes.sizeof(Plan))
        self.plan = Plan.from_buffer(self._memory)

    def prepare(self, fault: Fault) -> None:
        """In the parent: what is to happen in the child that comes."""
        ctypes.memset(ctypes.byref(self.plan), 0, ctypes.sizeof(Plan))
        for name in ("kinds", "at", "action", "error", "least"):
            setattr(self.plan, name, getattr(fault, name))

    def arm(self, folder: Path) -> None:
        """In the child: from now on calls below the folder are met."""
        self._library.faults_arm(os.fsencode(folder), ctypes.byref(self.plan))

    @property
    def hit(self) -> str:
        """The kind of the call that went wrong; nothing if none did."""
        return next((name for name, bit in KINDS.items() if bit == self.plan.hit), "")

    def log(self) -> Sequence[tuple[str, str, str]]:
        """What was done: (call, path, target of a rename)."""
        text = ctypes.string_at(ctypes.addressof(self.plan) + Plan.log.offset, self.plan.logged).decode()
        return [(call, path, target) for call, path, target in (line.split("\t") for line in text.splitlines())]
