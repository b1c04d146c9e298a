"""Worker processes that may crash or hang: the item that one was at is named, everything else is done all the same.

Decoders are C code that reads what strangers wrote, and the kernel kills the largest process when memory is short. A
worker says in shared memory which item it is at. If it dies, a fresh one takes over its tasks: the item is tried once
more, since a process can be killed for no fault of the image's, and is lost if that one dies at it too. A worker that
stays at one item for longer than the limit is killed and the item is lost at once.

Results come in order. What a task makes travels as one block of shared memory, whose file descriptor goes through the
worker's own socket: nothing is left behind by a worker that is killed, and no limit of /dev/shm applies.
"""

import signal
import time
from collections import defaultdict, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context
from typing import Any

from resnet_infer.console import note
from resnet_infer.errors import DataError
from resnet_infer.pipeline.shared_blocks import received
from resnet_infer.pipeline.worker import METHOD, WAITING, Handler, Made, Task, Worker

AHEAD = 4
"""Tasks that a worker has been given at most, so that it need not wait for the parent."""
HELD_BYTES = 2**30
"""Of blocks that are made and not yet taken, of all workers together; each has one more in the making."""
TRIES = 2
"""Workers that may die at one item before it is lost."""
STARTS = 5
"""Workers in a row that may die before their first item."""
START_S = 60.0
"""For a worker to come to its first item, or from one task to the next."""
POLL_S = 0.5
"""Between looks at workers that say nothing. A longer pause is a machine that slept, and counts as this much."""


class Pool:
    """Worker processes for one kind of work, replaced as they fall. They outlive a pass, and wait for the next."""

    def __init__(self, work: Handler, workers: int) -> None:
        """`stop` must be called in the end; processes start with the first pass."""
        self.work = work
        self.workers = workers
        self.done: defaultdict[int, deque[Task]] = defaultdict(deque)
        """What is there of each task, by its number."""
        self._at = get_context(METHOD).RawArray("q", workers)
        """One more than the item that each worker is at; 0 between items, WAITING where the parent has too much."""
        self._credit = get_context(METHOD).RawArray("q", workers)
        """Bytes that each worker may make before it waits, counted from its beginning."""
        self._deaths: dict[int, int] = {}
        self._false_starts = 0
        self._how: Any = None
        self._limit_s = 0.0
        self.running = False
        """Whether a pass is under way."""
        self._workers: list[Worker] = []

    def run(self, how: Any, items: Sequence[int], size: int, limit_s: float) -> Generator[Task, None, None]:
        """One pass: the items in tasks of `size` or less, in order, each done as `how` says; `limit_s` is for one item.

        A pass that is left early ends the processes. Raises DataError if workers die before they begin, RuntimeError
        while another pass is under way, and whatever `make` raises.
        """
        if self.running:
            raise RuntimeError("a pool of workers makes one pass at a time")
        self.running = True
        tasks = -(-len(items) // size)
        given = due = 0
        try:
            if tasks:
                self._begin(how, limit_s)
            while due < tasks:
                while given < min(tasks, due + AHEAD * self.workers):
                    self.give(given, Task(items[given * size : (given + 1) * size]))
                    given += 1
                while not self.done[due]:
                    self.wait()
                task = self.done[due].popleft()
                yield task
                self._take(task)
                if task.last:
                    del self.done[due]
                    due += 1
        finally:
            self.running = False
            if due < tasks:
                self.stop()

    def _begin(self, how: Any, limit_s: float) -> None:
        """Have all workers there, also in place of those that died while they had nothing to do."""
        self._how, self._limit_s = how, limit_s
        self._deaths.clear()
        self._false_starts = 0
        for slot in range(self.workers):
            if slot == len(self._workers):
                self._workers.append(self._new(slot))
            elif not self._workers[slot].process.is_alive():
                self._renew(slot)
            self._workers[slot].waited_s = 0.0

    def give(self, number: int, task: Task, worker: Worker | None = None) -> None:
        """Have a task done by one worker, else by whoever has the fewest."""
        if not task.left:
            self.done[number].append(task)
            return
        worker = worker or min(self._workers, key=lambda w: len(w.tasks))
        worker.tasks.append((number, task))
        with suppress(OSError):  # it is dead already; wait() notices, and gives its tasks to another
            worker.connection.send((None if worker.told is self._how else self._how, task.left))
            worker.told = self._how

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
                self._replace(slot, f"took longer than {self._limit_s:g} s to read and decode")

    def stop(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self.done.clear()

    def _received(self, worker: Worker) -> bool:
        """Take one result; False if the worker is dead."""
        try:
            if not worker.connection.poll():
                return bool(worker.process.is_alive())
            values, size, count, error = worker.connection.recv()
            block = received(worker.connection, size)
        except (EOFError, OSError, RuntimeError):  # it died while it sent
            return False
        if error is not None:
            raise error
        number, task = worker.tasks.popleft()
        done, rest = task.parted(Made(block, values, count), worker)
        self.done[number].append(done)
        if rest:
            worker.tasks.appendleft((number, rest))
        self._false_starts = 0
        return True

    def _take(self, task: Task) -> None:
        """The caller is done with a block; its worker may make as much again."""
        for slot, worker in enumerate(self._workers):
            if worker is task.maker:
                self._credit[slot] += task.block.numel()

    def _stuck(self, slot: int, worker: Worker, passed_s: float) -> bool:
        """Whether a worker has been at the same item for too long, while we waited."""
        seen = (worker.tasks[0][0], self._at[slot])
        worker.waited_s = worker.waited_s + passed_s if seen == worker.seen else 0.0
        worker.seen = seen
        if seen[1] == WAITING:
            worker.waited_s = 0.0
        return worker.waited_s > (self._limit_s if self._at[slot] else max(self._limit_s, START_S))

    def _replace(self, slot: int, stuck: str = "") -> None:
        """A fresh worker for the tasks of one that is dead, or is to be."""
        worker = self._workers[slot]
        item = self._at[slot] - 1  # -1 or less between items
        worker.end()  # its exit code says why
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
        self._renew(slot)
        for number, task in worker.tasks:  # all to one: who has the next task that is due must have nothing newer made
            self.give(number, task, self._workers[slot])

    def _renew(self, slot: int) -> None:
        """A fresh worker in place of one, which is ended."""
        self._workers[slot].end()
        self._at[slot] = 0
        self._workers[slot] = self._new(slot)

    def _new(self, slot: int) -> Worker:
        self._credit[slot] = HELD_BYTES // self.workers
        others = [worker for number, worker in enumerate(self._workers) if number != slot]
        return Worker(self.work, slot, self._at, self._credit, others)


def _fate(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        with suppress(ValueError):
            name = signal.Signals(-exitcode).name
            why = ", perhaps for lack of memory" if name == "SIGKILL" else ""
            return f"the process that decoded it was killed by {name}{why}"
    return f"the process that decoded it ended with exit code {exitcode}"
