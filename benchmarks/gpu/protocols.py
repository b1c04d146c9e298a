"""Step 4: the network alone under ten crops, and under five scales with a mix of image sizes."""

from collections.abc import Sequence

from benchmarks.gpu.context import Context
from benchmarks.gpu.pictures import pictures, ready
from benchmarks.gpu.results import best
from resnet_infer.bench.runner import Data
from resnet_infer.bench.sweep import Subject

TEN_CROP_TARGET, SCALES_TARGET = 0.95, 0.70
SIZES = 6
"""Pictures whose sizes are timed; each distinct one has five shapes."""
ROW_S = {"ten-crop": 8.0, "multiscale": 20.0}
WAYS: Sequence[dict[str, str]] = ({"compile": "default"}, {})


def protocols(context: Context) -> None:
    """Compiled, then eager."""
    ready(context)
    data = Data(source=pictures(context), sizes=tuple(context.plan.sizes[:SIZES]))
    for how in WAYS:
        for protocol in ("ten-crop", "multiscale"):
            words = f"{protocol} {'compiled' if how else 'eager'}"
            if context.has(ROW_S[protocol], words):
                _row(context, protocol, context.subject(**how), data)
    if context.plan.dense != context.plan.network:
        small = Data(source=data.source, sizes=((40, 56), (56, 40)))
        _row(context, "multiscale", context.subject(context.plan.dense), small)


def _row(context: Context, protocol: str, subject: Subject, data: Data) -> None:
    """A row, and its check; multiscale of the plan's own network is left to GPUs, whose fraction of the roof counts."""
    if protocol == "multiscale" and subject.model != context.plan.dense:
        return
    batch = context.plan.batch
    context.network(subject, batch, protocol=protocol, data=data)
    wanted = {"model": subject.model, "options": subject.options, "batch_size_asked": batch, "measurement": "network"}
    row = best(context.rows, protocol=protocol, precision=subject.precision, **wanted)
    how = subject.options or "eager"
    if row is None:
        context.check(f"{protocol}, {how}", error=context.rows[-1].error)
        return
    if protocol == "multiscale":
        context.check_roof(f"{subject.model} five scales and mirror, {how}", row, SCALES_TARGET)
        return
    single = best(context.rows, protocol="single-crop", precision=subject.precision, **wanted)
    if single is not None:
        note = f"{row.images_per_s:.1f} against {single.images_per_s:.1f} / 10 images/s"
        what = f"{subject.model} ten-crop, {how}, over a tenth of single-crop"
        context.check(what, 10 * row.images_per_s / single.images_per_s, TEN_CROP_TARGET, note=note)
