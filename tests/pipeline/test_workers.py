"""Worker processes that crash, hang or vanish: the item is named, all others are done in order, no process is left."""

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from resnet_infer.errors import DataError
from resnet_infer.pipeline import worker, workers
from resnet_infer.pipeline.worker import Allocate, Handler, Made, Task
from resnet_infer.pipeline.workers import Pool

COUNT = 41
SIZE = 4
LIMIT_S = 1.5
Accident = Callable[[], object]

ACCIDENTS: dict[str, tuple[Accident, str]] = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL, perhaps for lack of memory, twice"),
    "segfault": (lambda: [faulthandler.disable(), ctypes.string_at(0)], "killed by SIGSEGV, twice"),
    "exit": (lambda: os._exit(9), "ended with exit code 9, twice"),
    "stopped": (lambda: os.kill(os.getpid(), signal.SIGSTOP), f"longer than {LIMIT_S:g} s"),
    "deaf": (lambda: [signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep(600)], f"longer than {LIMIT_S:g} s"),
}


class Squares:
    """An item's square as eight bytes, unless it meets with an accident."""

    def __init__(self, accidents: dict[int, Accident] | None = None) -> None:
        self.accidents = accidents or {}

    def name(self, item: int) -> str:
        return f"item {item}"

    def make(self, how: object, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        block = allocate(8 * len(items))
        for place, item in enumerate(items):
            begin(item)
            if item in self.accidents:
                self.accidents[item]()
            block[8 * place : 8 * place + 8] = torch.tensor([item**2]).view(torch.uint8)
        return Made(block, list(items), len(items))


def in_workers(work: Handler, count: int, size: int, processes: int, limit_s: float) -> Iterator[Task]:
    """One pass by a pool of its own."""
    pool = Pool(work, processes)
    try:
        yield from pool.run(None, range(count), size, limit_s)
    finally:
        pool.stop()


def results(tasks: Iterator[Task]) -> dict[int, int | str]:
    """The square of every item, or why there is none; asserts their order."""
    found: dict[int, int | str] = {}
    for task in tasks:
        items = task.values
        squares = dict(zip(items, task.block.view(torch.int64).tolist(), strict=True))
        assert sorted([*squares, *task.lost]) == list(task.items)
        found |= {item: task.lost.get(item, squares.get(item, "")) for item in task.items}
    assert list(found) == list(range(len(found)))
    return found


def assert_no_processes_are_left() -> None:
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("count", [0, 1, SIZE, COUNT])
@pytest.mark.parametrize("processes", [1, 3])
def test_every_item_is_done_once_in_order(processes: int, count: int) -> None:
    expected = {item: item**2 for item in range(count)}
    assert results(in_workers(Squares(), count, SIZE, processes, 60)) == expected
    assert_no_processes_are_left()


@pytest.mark.parametrize("kind", ACCIDENTS)
def test_an_item_that_ends_or_holds_its_process_is_named_and_no_other_is_lost(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    accident, reason = ACCIDENTS[kind]
    victims = (0, COUNT - 1)
    found = results(in_workers(Squares(dict.fromkeys(victims, accident)), COUNT, SIZE, 2, LIMIT_S))
    for item, result in found.items():
        if item in victims:
            assert reason in str(result)
        else:
            assert result == item**2
    once_more = [line for line in capfd.readouterr().err.splitlines() if "trying once more" in line]
    assert len(once_more) == (len(victims) if "twice" in reason else 0)
    assert_no_processes_are_left()


def test_whole_tasks_of_fatal_items_are_lost_and_the_others_are_not() -> None:
    fatal = dict.fromkeys(range(SIZE, 2 * SIZE), lambda: os._exit(1))
    found = results(in_workers(Squares(fatal), 3 * SIZE, SIZE, 2, 60))
    assert [item for item, result in found.items() if isinstance(result, str)] == list(range(SIZE, 2 * SIZE))


def test_an_item_whose_process_is_killed_once_is_done_by_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the kernel kills whatever process it likes when memory is short."""

    def once() -> None:
        if not (tmp_path / "happened").exists():
            (tmp_path / "happened").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    found = results(in_workers(Squares({9: once}), COUNT, SIZE, 2, 60))
    assert found == {item: item**2 for item in range(COUNT)}
    assert "item 9: the process that decoded it was killed by SIGKILL" in capsys.readouterr().err


def test_workers_killed_from_outside_while_they_wait_are_replaced() -> None:
    tasks = in_workers(Squares(), COUNT, SIZE, 2, 60)
    first = next(tasks)
    time.sleep(0.3)  # they finish what they were given and wait
    for process in multiprocessing.active_children():
        process.kill()
    assert list(first.items) == list(range(SIZE))
    rest = [task.values for task in tasks]
    assert [item for items in rest for item in items] == list(range(SIZE, COUNT))


def test_a_slow_reader_of_results_is_no_fault_of_the_workers() -> None:
    tasks = in_workers(Squares(), COUNT, SIZE, 2, 0.6)
    found = 0
    for task in tasks:
        time.sleep(0.2)
        assert not task.lost
        found += len(task.items)
    assert found == COUNT


def test_slow_items_within_the_limit_are_done() -> None:
    slow = dict.fromkeys(range(8), lambda: time.sleep(0.4))
    assert results(in_workers(Squares(slow), 8, 8, 2, 2.5)) == {item: item**2 for item in range(8)}


class NeverBegins(Squares):
    """Work whose processes end before they announce anything."""

    def make(self, how: object, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        os._exit(3)


def test_processes_that_cannot_even_begin_are_an_error() -> None:
    with pytest.raises(DataError, match=r"exit code 3.*--workers 0"):
        results(in_workers(NeverBegins(), COUNT, SIZE, 2, 60))
    assert_no_processes_are_left()


def test_an_exception_in_a_worker_is_raised_here() -> None:
    def wrong() -> None:
        raise ZeroDivisionError("a mistake of ours")

    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        results(in_workers(Squares({5: wrong}), COUNT, SIZE, 2, 60))
    assert_no_processes_are_left()


def test_stopping_early_leaves_no_processes_even_if_they_hang() -> None:
    tasks = in_workers(Squares({12: lambda: time.sleep(600)}), COUNT, SIZE, 2, 60)
    next(tasks)
    tasks.close()  # type: ignore[attr-defined]
    assert_no_processes_are_left()


def test_without_anonymous_files_the_blocks_go_through_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert results(in_workers(Squares(), COUNT, SIZE, 2, 60)) == {item: item**2 for item in range(COUNT)}


def test_no_file_descriptors_are_left_open_while_the_blocks_live() -> None:
    tasks = list(in_workers(Squares({7: lambda: os._exit(1)}), COUNT, SIZE, 2, 60))
    before = len(os.listdir("/proc/self/fd"))
    more = list(in_workers(Squares({7: lambda: os._exit(1)}), 4 * COUNT, SIZE, 2, 60))
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(tasks) < len(more)


ORPHANS = """
import os, sys, time
from tests.pipeline.test_workers import SIZE, Squares, in_workers
import multiprocessing
tasks = in_workers(Squares(), 10**6, SIZE, 2, 60)
next(tasks)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
time.sleep(600)
"""


def test_workers_end_when_their_parent_is_killed() -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", ORPHANS], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    until = time.monotonic() + 20 * worker.ORPHANED_S
    while any(_runs(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Large(Squares):
    """Two items a block at most, each a megabyte; the file says which have been made."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def make(self, how: object, items: Sequence[int], begin: Callable[[int], None], allocate: Allocate) -> Made:
        block, _, done = super().make(how, items[:2], begin, allocate)
        with self.log.open("a") as file:
            file.write("+" * done)
        large = allocate(done * 2**20)
        large[: len(block)] = block
        return Made(large, list(items[:2]), done)


def test_no_more_is_made_than_may_wait_however_slow_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tasks of 15 megabytes for each of two workers, of which six may wait."""
    monkeypatch.setattr(workers, "HELD_BYTES", 6 * 2**20)
    log = tmp_path / "log"
    tasks = in_workers(Large(log), 150, 15, 2, 60)
    items: list[int] = []
    for task in tasks:
        if len(items) in (0, 60):
            time.sleep(0.5)
            waiting = len(log.read_text()) - len(items)
            assert waiting <= 2 * (3 + 2) + 2  # half of what may wait, a block in the making, and the one we have
        squares = task.block[: 8 * len(task.values)].view(torch.int64).tolist()
        assert squares == [item**2 for item in task.values]
        assert not task.lost
        items += task.values
    assert items == list(range(150))


@pytest.mark.parametrize("victim", [3, 20, 29])
def test_a_worker_that_dies_over_a_part_of_its_task_does_not_stop_those_that_wait(
    victim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "HELD_BYTES", 2**20)
    work = Large(tmp_path / "log")
    work.accidents = {victim: lambda: os._exit(1)}
    found: list[int] = []
    lost: dict[int, str] = {}
    for task in in_workers(work, 90, 15, 2, 60):
        found += task.values
        lost |= {item: why for item, why in task.lost.items() if item in task.items}
    assert found == [item for item in range(90) if item != victim]
    assert list(lost) == [victim]


BUSY = """
import multiprocessing, os, signal, sys, time
from tests.pipeline.test_workers import SIZE, Squares, in_workers
hang = lambda: [signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep(600)]
tasks = in_workers(Squares({SIZE: hang}), 10**6, SIZE, 1, 600)
next(tasks)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a busy process with its parent")
def test_a_worker_that_hangs_over_an_item_ends_with_its_parent() -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", BUSY], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        (pid,) = map(int, parent.stdout.readline().split())
        time.sleep(0.2)
        assert _runs(pid)
        parent.kill()
    until = time.monotonic() + 1
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _runs(pid)
