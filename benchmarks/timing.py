"""Sides of a comparison, each in a process of its own, timed in turns."""

import os
import signal
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context, set_start_method
from typing import Any, Literal

Call = Callable[..., Any]
"""call(function, *arguments, timeout_s=None) in the side's process."""

Method = Literal["spawn", "forkserver"]
"""How processes start: each imports everything anew, or one imports and all are forked from it. The second is not for a
GPU, since a library that looks for one while it is imported leaves the forks without."""


class SideFailed(RuntimeError):
    """A side's process ended, or did not answer in time and was ended."""


@contextmanager
def processes(
    sides: Iterable[str], start: Callable[..., None], *arguments: Any, method: Method = "spawn"
) -> Iterator[dict[str, Call]]:
    """A fresh process for every side, each set up by start(side, *arguments); all start at once and are waited for.

    A start takes as long as it takes: only `timeout_s` seconds of a call's own function are counted. A call raises what
    its function does, and SideFailed if the process is gone, could not start or exceeds its time. The processes may
    start processes of their own.
    """
    with ExitStack() as stack:
        sides_of = {side: stack.enter_context(_process(side, start, arguments, method)) for side in sides}
        for started, _ in sides_of.values():
            with suppress(BrokenProcessPool):  # its first call says so
                started.result()
        yield {side: call for side, (_, call) in sides_of.items()}


def _begin(start: Callable[..., None], side: str, *arguments: Any) -> None:
    """Processes that the side starts itself, such as a loader's workers, start as they do elsewhere: a process that
    was spawned would spawn its own too, and have each import everything anew."""
    set_start_method(None, force=True)
    start(side, *arguments)


@contextmanager
def _process(
    side: str, start: Callable[..., None], arguments: tuple[Any, ...], method: Method
) -> Iterator[tuple[Future[int], Call]]:
    """What is done when the process is up, and the call."""
    pool = ProcessPoolExecutor(1, get_context(method), _begin, (start, side, *arguments))
    started = pool.submit(os.getpid)
    pids = list(pool._processes)

    def call(function: Callable[..., Any], *given: Any, timeout_s: float | None = None) -> Any:
        try:
            return pool.submit(function, *given).result(timeout_s)
        except TimeoutError as error:
            end()
            raise SideFailed(f"{side}: no answer within {timeout_s:.0f} s") from error
        except BrokenProcessPool as error:
            raise SideFailed(f"{side}: its process ended, perhaps for lack of memory") from error

    def end() -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    try:
        yield started, call
    except BaseException:
        end()  # whatever it is busy with would be waited for
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def compare(
    sides: Mapping[str, Callable[[], float]], repeats: int, *, images: int, reference: str, target: float | None
) -> dict[str, Any]:
    """Have the sides time themselves in turns, after one run of each that does not count.

    Gives all seconds, their medians, and how many times as fast as the reference each side is.
    """
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            seconds[name].append(run())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "images": images,
        "seconds": seconds,
        "median_seconds": medians,
        "images_per_s": {name: images / median for name, median in medians.items()},
        "ratio": {name: medians[reference] / median for name, median in medians.items()},
        "target_ratio": target,
    }


def drain(results: Iterable[object]) -> None:
    """Have every result made, and let go of it."""
    for _ in results:
        pass
