"""What a contest is made of: two camps of settings, the work they are given, and what is claimed of the best ones."""

import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.allocator import keep_freed_memory

if TYPE_CHECKING:  # a side that needs no torch starts without it
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A side that is set up in this process."""

    outputs: "Callable[[], Tensor | NDArray[np.float32]]"
    """(N, K): what it says of the contest's photos, in the order of their names."""
    work: Callable[[], Mapping[str, Any]]
    """The work of one timing; gives what there is to tell of it, such as `top1_errors`."""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way to do the work."""

    name: str
    """Its settings in a few words, unique in its contest."""
    start: Callable[..., Running]
    """start(folder of materials, **settings); a function of a module, for it runs in a process of its own."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    keep_freed_memory: bool = False
    """The allocator setting that resnet-infer's own processes have (data/allocator.py)."""
    compiled: bool = False
    """Whether it is slow to set up; `--quick` leaves it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Our best side against the best of some of theirs."""

    name: str
    among: Sequence[str] = ()
    """Names of theirs; all of them if empty."""
    target: float | None = None
    """How many times as fast ours should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The same work for two camps."""

    peer: str
    what: str
    """Network, protocol and precision in a few words."""
    theirs: Sequence[Side]
    """Likely winners first: the later ones are left out where time is short."""
    ours: Sequence[Side]
    claims: Sequence[Claim]
    images: int
    """Images in the work of one timing."""
    tolerance: float
    """Largest difference of an output allowed, over the largest output."""
    files: Sequence[str]
    """Materials it needs; see materials.py."""
    packages: Sequence[str] = ()
    """Distributions that the peer needs."""
    weight: float = 1.0
    """Its share of the run's time, among the others'."""
    gpu: bool = False
    """Needs a CUDA device."""

    def sides(self) -> dict[str, Side]:
        """All sides by name, theirs first."""
        return {side.name: side for side in (*self.theirs, *self.ours)}


_running: Running | None = None


def nothing(side: str) -> None:
    """What a process starts with: setting up is a call, whose errors come back."""


def set_up(side: Side, folder: Path) -> tuple[float, dict[str, str]]:
    """Make this process the side's; gives the seconds it took, and versions."""
    global _running
    started = time.perf_counter()
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # a peer's default is its default
    if side.keep_freed_memory:
        keep_freed_memory()
    _running = side.start(folder, **side.settings)
    return time.perf_counter() - started, dict(_running.versions)


def outputs() -> NDArray[np.float32]:
    """What this process's side says of the photos."""
    assert _running, "set_up comes first"
    return np.asarray(_running.outputs(), np.float32)


def timed_work() -> tuple[float, dict[str, Any]]:
    """Seconds of this process's work, and what it tells."""
    assert _running, "set_up comes first"
    started = time.perf_counter()
    told = _running.work()
    return time.perf_counter() - started, dict(told)


def let_go() -> None:
    """Drop the side, whose worker processes end in order then."""
    global _running
    _running = None
    gc.collect()
