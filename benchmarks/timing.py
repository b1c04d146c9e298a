"""Sides of a comparison, each in a process of its own, timed in turns."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any

Call = Callable[..., Any]
"""call(function, *arguments) in the side's process."""


@contextmanager
def processes(sides: Iterable[str], start: Callable[..., None], *arguments: Any) -> Iterator[dict[str, Call]]:
    """A fresh process for every side, set up by start(side, *arguments)."""
    with ExitStack() as stack:
        pools = {side: stack.enter_context(get_context("spawn").Pool(1, start, (side, *arguments))) for side in sides}
        yield {side: lambda function, *given, pool=pool: pool.apply(function, given) for side, pool in pools.items()}


def compare(
    sides: Mapping[str, Callable[[], float]], repeats: int, *, images: int, reference: str, target: float
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
