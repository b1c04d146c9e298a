"""One worker process: how it begins, what it does all its life, and its end.

It is told what to do through a pipe, says in shared memory which item it is at, and sends back blocks of memory.
"""

import gc
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Protocol

import torch
from torch import Tensor

from resnet_infer.allocator import keep_freed_memory
from resnet_infer.pipeline.shared_blocks import SharedBlock

METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How processes begin; a forked one shares the source's memory."""
ORPHANED_S = 5.0
"""Between a waiting worker's looks at whether its parent lives."""

Allocate = Callable[[int], Tensor]
"""allocate(bytes): a flat uint8 tensor that can travel."""
Made = tuple[Tensor, Any]
"""A block from `Allocate`, and plain values that can be pickled."""


class Handler(Protocol):
    """What the workers do; it travels to them once."""

    def make(self, how: Any, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        """Do these items, announcing each with `begin`; what is wrong with an item is part of its result.

        `how` is what `Pool.run` was given.
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
    made: Made = field(default_factory=lambda: (torch.empty(0, dtype=torch.uint8), []))
    """Of the items that are not lost, in order."""

    @property
    def left(self) -> list[int]:
        """The items still to be done."""
        return [item for item in self.items if item not in self.lost]


class Worker:
    """A process, and the tasks it has been given, oldest first."""

    def __init__(self, work: Handler, slot: int, at: Any, others: Sequence["Worker"]) -> None:
        context: Any = get_context(METHOD)
        self.connection, theirs = context.Pipe()
        # a forked process has the parent's ends as well, and would keep its siblings from noticing that they are gone
        inherited = [self.connection, *(w.connection for w in others)] if METHOD == "fork" else []
        self.process = context.Process(
            target=_serve, args=(work, theirs, inherited, at, slot, os.getpid()), daemon=True, name=f"decoder {slot}"
        )
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


def _serve(
    work: Handler, parent: Any, inherited: Sequence[Any], at: Any, slot: int, parent_id: int
) -> None:  # pragma: no cover, in another process
    """A worker's life: take items, do them, send what came of them."""
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
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            while not parent.poll(ORPHANED_S):
                if os.getppid() != parent_id:
                    return
            block = SharedBlock()
            try:
                told, items = parent.recv()
                how = how if told is None else told
                pixels, values = work.make(how, items, begin, block.allocate)
            except EOFError:
                return
            except Exception as error:
                at[slot] = 0
                parent.send((None, 0, error))
                continue
            at[slot] = 0
            parent.send((values, pixels.numel(), None))
            block.send(parent, pixels)
