"""One worker process: how it begins, what it does all its life, and its end.

It is told what to do through a pipe, says in shared memory which item it is at, and sends back blocks of memory.
"""

import ctypes
import gc
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from resnet_infer.allocator import keep_freed_memory
from resnet_infer.pipeline.shared_blocks import SharedBlock

METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How processes begin; a forked one shares the source's memory."""
ORPHANED_S = 5.0
"""Between a waiting worker's looks at whether its parent lives."""

PR_SET_PDEATHSIG = 1
WAITING = -1
"""What a worker is at while it waits for the parent to take what it has made."""
CREDIT_POLL_S = 0.005

Allocate = Callable[[int], Tensor]
"""allocate(bytes): a flat uint8 tensor that can travel."""


class Made(NamedTuple):
    """What came of the first items of a task."""

    block: Tensor
    """From `Allocate`."""
    values: Any
    """Plain ones that can be pickled."""
    done: int
    """How many items."""


class Handler(Protocol):
    """What the workers do; it travels to them once."""

    def make(self, how: Any, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        """Do the first of these items, one at least, announcing each with `begin`, until a block is large enough.

        What is wrong with an item is part of its result. `how` is what `Pool.run` was given.
        """
        ...

    def name(self, item: int) -> str:
        """What a user calls an item."""
        ...


@dataclass(slots=True)
class Task:
    """Items that travel together."""

    items: Sequence[int]
    lost: dict[int, str] = field(default_factory=dict)
    """Why there is no result, for each item that has none."""
    block: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    values: Any = field(default_factory=list)
    """What was made of the items that are not lost, in order."""
    last: bool = True
    """Whether no more is to come of the task that it was a part of."""
    maker: "Worker | None" = None

    @property
    def left(self) -> list[int]:
        """The items still to be done."""
        return [item for item in self.items if item not in self.lost]

    def parted(self, made: Made, maker: "Worker") -> tuple["Task", "Task | None"]:
        """What is done now, and what is still to be done."""
        left = self.left
        if made.done >= len(left):
            return replace(self, block=made.block, values=made.values, maker=maker), None
        cut = self.items.index(left[made.done])
        done = Task(self.items[:cut], self.lost, made.block, made.values, False, maker)
        return done, Task(self.items[cut:], self.lost)


class Worker:
    """A process, and the tasks it has been given, oldest first."""

    def __init__(self, work: Handler, slot: int, at: Any, credit: Any, others: Sequence["Worker"]) -> None:
        """`credit` says of every slot how many bytes its worker may make in all: more as they are taken."""
        context: Any = get_context(METHOD)
        self.connection, theirs = context.Pipe()
        # a forked process has the parent's ends as well, and would keep its siblings from noticing that they are gone
        inherited = [self.connection, *(w.connection for w in others)] if METHOD == "fork" else []
        told = (work, theirs, inherited, at, credit, slot, os.getpid())
        self.process = context.Process(target=_serve, args=told, daemon=True, name=f"decoder {slot}")
        with frozen():
            self.process.start()
        theirs.close()
        self.told: Any = None
        """How it has been told to work."""
        self.tasks: deque[tuple[int, Task]] = deque()
        self.seen = (0, 0)
        self.waited_s = 0.0
        self.exitcode: int | None = None

    def end(self) -> None:
        """Kill it, if it has not ended; its exit code stays."""
        if self.exitcode is None:
            self.process.kill()
            self.process.join()
            self.exitcode = self.process.exitcode
            self.process.close()
            self.connection.close()


@contextmanager
def frozen() -> Iterator[None]:
    """A process forked in the body never collects what was here before: finalizers of CUDA objects are not for it."""
    mine = METHOD == "fork" and not gc.get_freeze_count()
    if mine:
        gc.freeze()
    try:
        yield
    finally:
        if mine:
            gc.unfreeze()


def end_with_parent(parent_id: int) -> None:
    """Have the kernel kill this process with its parent, whatever it is at. Only Linux can.

    Strictly, it is with the thread that started it. Every thread of ours that starts workers outlives its pass.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_id:  # it went before that was said
        os._exit(1)


def _serve(
    work: Handler, parent: Any, inherited: Sequence[Any], at: Any, credit: Any, slot: int, parent_id: int
) -> None:  # pragma: no cover, in another process
    """A worker's life: take items, do them, send what came of them."""
    end_with_parent(parent_id)
    for end in inherited:
        end.close()
    for name in ("SIGINT", "SIGHUP"):  # a terminal's go to all; the parent ends its workers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what the parent does then
    torch.set_num_threads(1)
    keep_freed_memory()

    def begin(item: int) -> None:
        at[slot] = item + 1

    how: Any = None
    made_bytes = 0
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            while not parent.poll(ORPHANED_S):
                if os.getppid() != parent_id:
                    return
            told, items = parent.recv()
            how = how if told is None else told
            while items:
                while made_bytes > credit[slot]:
                    at[slot] = WAITING
                    time.sleep(CREDIT_POLL_S)
                    if os.getppid() != parent_id:
                        return
                at[slot] = 0
                block = SharedBlock()
                try:
                    made = work.make(how, items, begin, block.allocate)
                except Exception as error:
                    at[slot] = 0
                    parent.send((None, 0, 0, error))
                    break
                at[slot] = 0
                parent.send((made.values, made.block.numel(), made.done, None))
                block.send(parent, made.block)
                made_bytes += made.block.numel()
                items = items[made.done :]
