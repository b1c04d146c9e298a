"""Worker processes that may crash or hang: the item that one was at is named, everything else is done all the same.

Decoders are C code that reads what strangers wrote, and the kernel kills the largest process when memory is short. A
worker says in shared memory which item it is at. If it dies, a fresh one takes over its tasks: the item is tried once
more, since a process can be killed for no fault of the image's, and is lost if that one dies at it too. A worker that
stays at one item for longer than the limit is killed and the item is lost at once.

Results come in order. What a task makes travels as one block of shared memory, whose file descriptor goes through the
worker's own socket: nothing is left behind by a worker that is killed, and no limit of /dev/shm applies.
"""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from typing import Any, Protocol

import torch
from torch import Tensor

from resnet_infer.data.allocator import keep_freed_memory
from resnet_infer.data.blocks import Block, received
from resnet_infer.errors import DataError
from resnet_infer.report.console import note

METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How processes begin; a forked one shares the source's memory."""
AHEAD = 4
"""Tasks that a worker has been given at most, so that it need not wait for the parent."""
TRIES = 2
"""Workers that may die at one item before it is lost."""
STARTS = 5
"""Workers in a row that may die before their first item."""
START_S = 60.0
"""For a worker to come to its first item, or from one task to the next."""
POLL_S = 0.5
"""Between looks at workers that say nothing. A longer pause is a machine that slept, and counts as this much."""
ORPHANED_S = 5.0
"""Between a waiting worker's looks at whether its parent lives."""

Allocate = Callable[[int], Tensor]
"""allocate(bytes): a flat uint8 tensor that can travel."""
Made = tuple[Tensor, Any]
"""A block from `Allocate`, and plain values that can be pickled."""


class Work(Protocol):
    """What the workers do; it travels to them once."""

    def make(self, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        """Do these items, announcing each with `begin`; what is wrong with an item is part of its result."""
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


def in_workers(work: Work, count: int, size: int, workers: int, limit_s: float) -> Iterator[Task]:
    """Items 0 to `count` - 1 in tasks of `size`, in order, by `workers` processes; `limit_s` is for one item.

    Raises DataError if workers die before they begin, and whatever `make` raises.
    """
    pool = _Pool(work, workers, limit_s)
    tasks = -(-count // size)
    given = due = 0
    try:
        while due < tasks:
            while given < min(tasks, due + AHEAD * workers):
                pool.give(given, Task(range(given * size, min(count, (given + 1) * size))))
                given += 1
            while due not in pool.done:
                pool.wait()
            yield pool.done.pop(due)
            due += 1
    finally:
        pool.stop()


class _Worker:
    """A process, and the tasks it has been given, oldest first."""

    def __init__(self, work: Work, slot: int, at: Any, others: Sequence["_Worker"]) -> None:
        context: Any = get_context(METHOD)
        self.connection, theirs = context.Pipe()
        # a forked process has the parent's ends as well, and would keep its siblings from noticing that they are gone
        inherited = [self.connection, *(w.connection for w in others)] if METHOD == "fork" else []
        self.process = context.Process(
            target=_serve, args=(work, theirs, inherited, at, slot, os.getpid()), daemon=True, name=f"decoder {slot}"
        )
        self.process.start()
        theirs.close()
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


class _Pool:
    """Workers, replaced as they fall."""

    def __init__(self, work: Work, workers: int, limit_s: float) -> None:
        self.work = work
        self.limit_s = limit_s
        self.done: dict[int, Task] = {}
        """By number of the task."""
        self._at = get_context(METHOD).RawArray("q", workers)
        """One more than the item that each worker is at; 0 between items."""
        self._deaths: dict[int, int] = {}
        self._false_starts = 0
        self._workers: list[_Worker] = []
        for slot in range(workers):
            self._workers.append(_Worker(work, slot, self._at, self._workers))

    def give(self, number: int, task: Task) -> None:
        """Have a task done by whoever has the fewest."""
        if not task.left:
            self.done[number] = task
            return
        worker = min(self._workers, key=lambda w: len(w.tasks))
        worker.tasks.append((number, task))
        with suppress(OSError):  # it is dead already; wait() notices, and gives its tasks to another
            worker.connection.send(task.left)

    def wait(self) -> None:
        """Until something has happened, but not for long."""
        begun = time.monotonic()
        ready = connection.wait([x for w in self._workers for x in (w.connection, w.process.sentinel)], POLL_S)
        passed_s = min(time.monotonic() - begun, POLL_S)
        for slot, worker in enumerate(self._workers):
            if worker.connection in ready or worker.process.sentinel in ready:
                if not self._received(worker):
                    self._replace(slot)
            elif worker.tasks and self._stuck(slot, worker, passed_s):
                self._replace(slot, f"took longer than {self.limit_s:g} s to read and decode")

    def stop(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()

    def _received(self, worker: _Worker) -> bool:
        """Take one result; False if the worker is dead."""
        try:
            if not worker.connection.poll():
                return bool(worker.process.is_alive())
            values, size, error = worker.connection.recv()
            pixels = received(worker.connection, size)
        except (EOFError, OSError, RuntimeError):  # it died while it sent
            return False
        if error is not None:
            raise error
        number, task = worker.tasks.popleft()
        task.made = pixels, values
        self.done[number] = task
        self._false_starts = 0
        return True

    def _stuck(self, slot: int, worker: _Worker, passed_s: float) -> bool:
        """Whether a worker has been at the same item for too long, while we waited."""
        seen = (worker.tasks[0][0], self._at[slot])
        worker.waited_s = worker.waited_s + passed_s if seen == worker.seen else 0.0
        worker.seen = seen
        return worker.waited_s > (self.limit_s if self._at[slot] else max(self.limit_s, START_S))

    def _replace(self, slot: int, stuck: str = "") -> None:
        """A fresh worker for the tasks of one that is dead, or is to be."""
        worker = self._workers[slot]
        item = self._at[slot] - 1
        worker.end()
        fate = _fate(worker.exitcode)
        if worker.tasks and item in worker.tasks[0][1].left:
            self._deaths[item] = self._deaths.get(item, 0) + 1
            if stuck or self._deaths[item] >= TRIES:
                worker.tasks[0][1].lost[item] = stuck or f"{fate}, twice"
            else:
                note(f"{self.work.name(item)}: {fate}; trying once more")
        else:
            self._false_starts += 1
            if self._false_starts > STARTS:
                raise DataError(
                    f"worker processes end before their first image ({stuck or fate}); free some memory, or try "
                    "--workers 0"
                )
        self._at[slot] = 0
        self._workers[slot] = _Worker(self.work, slot, self._at, [w for w in self._workers if w is not worker])
        for number, task in worker.tasks:
            self.give(number, task)


def _fate(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        with suppress(ValueError):
            name = signal.Signals(-exitcode).name
            why = ", perhaps for want of memory" if name == "SIGKILL" else ""
            return f"the process that decoded it was killed by {name}{why}"
    return f"the process that decoded it ended with exit code {exitcode}"


def _serve(
    work: Work, parent: Any, inherited: Sequence[Any], at: Any, slot: int, parent_id: int
) -> None:  # pragma: no cover, in another process
    """A worker's life: take items, do them, send what came of them."""
    for end in inherited:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what the parent does then
    torch.set_num_threads(1)
    keep_freed_memory()

    def begin(item: int) -> None:
        at[slot] = item + 1

    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            while not parent.poll(ORPHANED_S):
                if os.getppid() != parent_id:
                    return
            block = Block()
            try:
                pixels, values = work.make(parent.recv(), begin, block.allocate)
            except EOFError:
                return
            except Exception as error:
                at[slot] = 0
                parent.send((None, 0, error))
                continue
            at[slot] = 0
            parent.send((values, pixels.numel(), None))
            block.send(parent, pixels)
