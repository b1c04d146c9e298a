"""Step `protocols`: the network alone under ten crops, and under five scales with a mix of image sizes."""

from benchmarks.gpu.context import Context
from benchmarks.gpu.pictures import pictures, ready
from benchmarks.gpu.plan import Way
from benchmarks.gpu.ways import compile_s, fastest, named, row_of
from resnet_infer.bench.measure import WARM_UP_S, works
from resnet_infer.bench.runner import Data
from resnet_infer.spec.protocols import multi_scale

TEN_CROP_TARGET, SCALES_TARGET = 0.95, 0.70
SIZES = 6
"""Pictures whose sizes are timed; each distinct one has five shapes."""
ROW_S = 8.0
"""Of ten crops."""
SHAPE_S = WARM_UP_S + 1.0
"""Of a shape of whole images: its tiles are made and its kernels chosen, it is warmed up, and repeated a few times."""
COMPILES = 10
"""Of whole images: most sizes are compiled anew before one network serves the rest."""
REPEATS = 3
"""Of whole images: with a batch of each shape, one is long enough."""


def protocols(context: Context) -> None:
    """The fastest way first, then the plan's first; no others, since whole images are compiled size by size."""
    ready(context)
    data = Data(source=pictures(context), sizes=tuple(context.plan.sizes[:SIZES]))
    top, dense = fastest(context), fastest(context, dense=True)
    first = context.plan.ways[0]
    ten_crop(context, top, data)
    five_scales(context, dense, data)
    if top != first:
        ten_crop(context, first, data)
    if dense != first:
        five_scales(context, first, data)


def ten_crop(context: Context, way: Way, data: Data) -> None:
    """Ten crops over a tenth of a single crop, which is measured here if it was not: compiling again is quicker."""
    subject, batch = context.subject(**way), context.plan.batch
    known = row_of(context, subject) is not None
    if not context.has(compile_s(way) / (1 + known) + ROW_S * (2 - known), f"ten-crop, {named(way)}"):
        return
    if not known:
        context.network(subject, batch)
    context.network(subject, batch, protocol="ten-crop", data=data)
    row, single = row_of(context, subject, "ten-crop"), row_of(context, subject)
    what = f"{subject.model} ten-crop, {named(way)}, over a tenth of single-crop"
    if row is None or single is None:
        context.check(what, target=TEN_CROP_TARGET, error=context.rows[-1].error)
        return
    note = f"{row.images_per_s:.1f} against {single.images_per_s:.1f} / 10 images/s"
    context.check(what, 10 * row.images_per_s / single.images_per_s, TEN_CROP_TARGET, note=note)


def five_scales(context: Context, way: Way, data: Data) -> None:
    """Five scales and their mirror images; of the tiny plan's own small network, where a large one is not for a CPU."""
    plan = context.plan
    if plan.dense != plan.network:
        data = Data(source=data.source, sizes=((40, 56), (56, 40)))
    subject = context.subject(plan.dense, **way)
    shapes = len({(work.height, work.width) for work in works(multi_scale(), data.sizes)})
    if not context.has(COMPILES * compile_s(way) + shapes * SHAPE_S, f"multiscale, {named(way)}, {shapes} shapes"):
        return
    context.network(subject, plan.batch, protocol="multiscale", data=data, repeats=REPEATS)
    row = row_of(context, subject, "multiscale")
    what = f"{subject.model} five scales and mirror, {named(way)}"
    if row is None:
        context.check(f"{what}, of its roof", target=SCALES_TARGET, error=context.rows[-1].error)
    else:
        context.check_roof(what, row, SCALES_TARGET)
