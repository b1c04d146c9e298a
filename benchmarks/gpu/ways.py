"""The ways to run the network: which have been measured in this run, which is fastest, and what one takes to start."""

from typing import Any

from benchmarks.gpu.context import Context
from benchmarks.gpu.plan import Way
from benchmarks.gpu.results import best
from resnet_infer.bench.rows import BenchRow
from resnet_infer.bench.sweep import Subject

COMPILE_S: dict[str, float] = {"none": 0.0, "default": 12.0, "cuda-graphs": 3.0, "max-autotune": 200.0}
"""Of a network that was not compiled, or recorded, on this machine before, at a guess on the safe side."""
NO_DENSE = ("cuda-graphs",)
"""What is not for whole images: they come in too many sizes to record each."""


def compile_s(way: Way) -> float:
    """Seconds that opening it and its first batch may take."""
    return COMPILE_S[way.get("compile", "none")]


def row_of(
    context: Context, subject: Subject, protocol: str = "single-crop", batch: int | None = None
) -> BenchRow | None:
    """The network's own rate, measured in this run."""
    return best(
        context.rows, model=subject.model, precision=subject.precision, options=subject.options, protocol=protocol,
        measurement="network", batch_size_asked=batch or context.plan.batch,
    )  # fmt: skip


def fastest(context: Context, *, dense: bool = False) -> Way:
    """Of the plan's ways, the fastest measured in this run on single crops; the plan's first if none was."""
    ways = [way for way in context.plan.ways if not (dense and way.get("compile") in NO_DENSE)]
    rows = [(row_of(context, context.subject(**way)), way) for way in ways]
    measured = [(row.images_per_s, way) for row, way in rows if row]
    return max(measured, key=lambda pair: pair[0])[1] if measured else ways[0]


def options_of(way: Way) -> dict[str, Any]:
    """Of RunOptions, for a side of a contest."""
    return {name: value for name, value in way.items() if name != "precision"}


def named(way: Way) -> str:
    """In a few words."""
    return ", ".join(f"{name}={value}" for name, value in way.items()) or "as it comes"
