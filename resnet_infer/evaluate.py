"""Errors of a model on labelled images, under one or several protocols in one pass."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.data.classes import class_indices
from resnet_infer.data.loader import IMAGE_TIMEOUT_S, auto_workers, load
from resnet_infer.data.packing import Offload
from resnet_infer.data.sources import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.protocols import Protocol
from resnet_infer.report.console import note
from resnet_infer.report.rows import EvalRow
from resnet_infer.score import score

OnError = Literal["fail", "skip", "count-wrong"]
TOP_K = 5


def evaluate(
    model: Model,
    protocols: Sequence[Protocol],
    source: Source,
    *,
    on_error: OnError = "fail",
    batch_size: int | None = None,
    workers: int | None = None,
    offload: Offload = "nothing",
    image_timeout_s: float | None = None,
    advance: Callable[[float], None] = lambda images: None,
) -> list[EvalRow]:
    """One row a protocol, in their order.

    Unreadable images end the evaluation (`fail`), are left out of the count (`skip`) or count as errors
    (`count-wrong`); all are named on stderr and in the rows. With the last two, or an `image_timeout_s`, they are
    decoded in worker processes, which may crash. `advance` is called with 1 after every image.

    Raises DataError if the source's classes are not the model's, or images cannot be read.
    """
    if on_error not in get_args(OnError):
        raise UsageError(f"--on-error '{on_error}' is not one of {', '.join(get_args(OnError))}")
    truth = class_indices(source, model.manifest.labels, model.manifest.spec.classes)
    if on_error != "fail":
        image_timeout_s = image_timeout_s or IMAGE_TIMEOUT_S
    unreadable: dict[int, str] = {}
    top1, top5 = [0] * len(protocols), [0] * len(protocols)
    scored = 0
    begun = time.perf_counter()
    for result in score(
        model,
        protocols,
        source,
        batch_size=batch_size,
        workers=workers,
        offload=offload,
        image_timeout_s=image_timeout_s,
    ):
        if result.probs_PK is None:
            unreadable[result.index] = result.error
            if on_error == "fail":
                unreadable |= _rest_unreadable(source, protocols, result.index, workers, image_timeout_s)
                break
        else:
            scored += 1
            for number, probs_K in enumerate(result.probs_PK):
                rank = rank_of(truth[result.index], probs_K)
                top1[number] += rank >= 1
                top5[number] += rank >= TOP_K
        advance(1)
    seconds = time.perf_counter() - begun
    for index, error in sorted(unreadable.items()):
        note(f"{source.samples[index].name}: {error}")
    if unreadable and on_error == "fail":
        raise DataError(
            f"{source.name}: {len(unreadable)} of {len(source.samples)} images cannot be read (listed above). "
            "Mend or remove them, or choose --on-error skip or count-wrong"
        )
    wrong = len(unreadable) if on_error == "count-wrong" else 0
    if not scored:
        raise DataError(f"{source.name}: none of its {len(source.samples)} images can be read (listed above)")
    return [
        _row(model, protocol, source, scored + wrong, top1[i] + wrong, top5[i] + wrong, seconds, unreadable, on_error)
        for i, protocol in enumerate(protocols)
    ]


def rank_of(truth: int, probs_K: Tensor) -> int:
    """How many classes score above the true one; equal scores count against it, so a constant model earns nothing."""
    return int((probs_K >= probs_K[truth]).sum()) - 1


def wilson_interval(errors: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an error rate, in percent (Wilson 1927); honest near 0 and 100 and for few images."""
    z = 1.959963984540054
    rate = errors / images
    center = (rate + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(rate * (1 - rate) / images + z * z / (4 * images * images))
    return 100 * max(0.0, center - half), 100 * min(1.0, center + half)


def _row(
    model: Model,
    protocol: Protocol,
    source: Source,
    images: int,
    top1: int,
    top5: int,
    seconds: float,
    unreadable: dict[int, str],
    on_error: str,
) -> EvalRow:
    info = model.backend.info
    low, high = wilson_interval(top1, images)
    return EvalRow(
        model=model.name,
        architecture=model.manifest.spec.name,
        data=source.name,
        protocol=protocol.name,
        views=protocol.describe(),
        head=protocol.head,
        backend=info.name,
        device=info.device,
        precision=info.precision,
        images=images,
        top1_errors=top1,
        top5_errors=top5,
        top1_err=round(100 * top1 / images, 4),
        top5_err=round(100 * top5 / images, 4),
        top1_err_ci95=(round(low, 4), round(high, 4)),
        images_per_s=round(images / seconds, 2),
        seconds=round(seconds, 3),
        unreadable=[
            {"path": source.samples[index].name, "error": error} for index, error in sorted(unreadable.items())
        ],
        on_error=on_error,
    )


def _rest_unreadable(
    source: Source, protocols: Sequence[Protocol], after: int, workers: int | None, image_timeout_s: float | None
) -> dict[int, str]:
    """The unreadable images behind this one: rendered but not run, so that one call finds them all and ends soon."""
    rest = range(after + 1, len(source.samples))
    workers = auto_workers(len(rest), "cpu", image_timeout_s is not None) if workers is None else workers
    loaded = load(source, protocols, rest, workers, image_timeout_s or IMAGE_TIMEOUT_S)
    return {image.index: image.error for image in loaded if image.error}
