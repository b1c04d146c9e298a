"""The images of a source that can be read, found before any is used, for work that every image is a fixed part of.

A training run's order and a gate's verdict are functions of the set of images. So with `--on-error skip` the set is
settled first: every image is decoded once in worker processes, and those that cannot be are named and left out.
"""

from collections.abc import Callable

from resnet_infer.console import note
from resnet_infer.data.source import Source, Subset
from resnet_infer.errors import DataError
from resnet_infer.pipeline.loader import auto_workers, load
from resnet_infer.pipeline.loading import IMAGE_TIMEOUT_S


def readable(
    source: Source,
    *,
    workers: int | None = None,
    image_timeout_s: float | None = None,
    advance: Callable[[float], None] = lambda images: None,
) -> Source:
    """The source, or as much of it as can be decoded; `advance` is called with 1 after every image.

    Raises DataError if nothing can.
    """
    count = len(source.samples)
    workers = auto_workers(count, "cpu", guarded=True) if workers is None else workers
    bad: set[int] = set()
    for image in load(source, (), range(count), workers, image_timeout_s or IMAGE_TIMEOUT_S):
        if image.error:
            bad.add(image.index)
            note(f"{source.samples[image.index].name}: {image.error}; left out")
        advance(1)
    if len(bad) == count:
        raise DataError(f"{source.name}: none of its {count} images can be read (listed above)")
    return Subset(source.name, source, [index for index in range(count) if index not in bad]) if bad else source
