"""Step `architectures`: latency of one image, and the other networks alone."""

from collections.abc import Sequence

from benchmarks.gpu.context import Context
from benchmarks.gpu.pictures import ready
from benchmarks.gpu.results import best

ROW_S = 25.0


def architectures(context: Context) -> None:
    """The network's latency as it comes, recorded and compiled; then the others compiled, as they come, at batch 1."""
    ready(context)
    plan = context.plan
    ways: Sequence[dict[str, str]] = ({}, {"compile": "cuda-graphs"}, {"compile": "default"})
    for how in ways:
        if context.has(ROW_S, f"latency {how}"):
            context.network(context.subject(**how), 1)
    latency(context, plan.network)
    for name in plan.others:
        model = f"{name}.random"
        for how, batch in (({"compile": "default"}, plan.batch), ({}, plan.batch), ({"compile": "cuda-graphs"}, 1)):
            if context.has(ROW_S, f"{name} {how}, batch {batch}"):
                context.network(context.subject(model, **how), batch)
        if row := best(context.rows, model=model, options="compile=default", measurement="network"):
            context.check_roof(f"{name} compiled", row)
        latency(context, model)


def latency(context: Context, model: str) -> None:
    """The best 90th percentile of batch 1."""
    rows = [row for row in context.rows if row.model == model and row.batch_size == 1 and row.latency_ms]
    if rows:
        top = min(rows, key=lambda row: row.latency_ms["p90"])
        note = f"{top.options or 'as it comes'}; median {top.latency_ms['p50']:.3f}"
        context.check(f"{model} {top.precision}, batch 1: 90th percentile, ms", top.latency_ms["p90"], note=note)
