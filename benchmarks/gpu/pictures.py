"""Pictures for the steps: made, or taken from --data, in class folders as the peers read them.

Made ones have structure at every scale, in a mix of sizes; those of one class share their coarse structure. A larger
number of files than there are different pictures is hard links to the same files.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.context import Context
from benchmarks.peers.materials import BATCH, make_weights, photos, prepare, put_photos
from resnet_infer.bench.ceilings import synthetic_jpeg
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source, Subset
from resnet_infer.pipeline.loader import cores
from resnet_infer.spec.labels import imagenet1k

CLASSES = 8
SOURCE_OF_WEIGHTS = 64


def pictures(context: Context, count: int | None = None) -> Source:
    """So many files, the same pictures over and over; every different one once by default."""
    distinct = context.plan.distinct
    folder = photos(context.scratch, distinct)
    if not folder.exists():
        unfinished = folder.with_name("unfinished")
        if context.data:
            put_photos(open_source(context.data), unfinished, distinct)
            unfinished = photos(unfinished, distinct)
        else:
            _make(context, unfinished)
        unfinished.rename(folder)
    count = count or distinct
    if not photos(context.scratch, count).exists():
        _repeat(folder, photos(context.scratch, count), count)
    return open_source(photos(context.scratch, count))


def ready(context: Context) -> Source:
    """The different pictures, with the network's weights and the contests' tiles made from them; made once."""
    source = pictures(context)
    if not (context.scratch / f"{context.plan.network}.pth").exists():
        make_weights(context.plan.network, spread(source, SOURCE_OF_WEIGHTS), context.scratch)
    prepare(spread(source, BATCH), context.scratch, ["tiles.npy"])
    return source


def spread(source: Source, count: int) -> Source:
    """So many of its images, of every class."""
    count = min(count, len(source.samples))
    positions = [len(source.samples) * place // count for place in range(count)]
    return Subset(source.name, source, positions)


def _make(context: Context, folder: Path) -> None:
    plan, ids = context.plan, imagenet1k().ids

    def make(number: int) -> None:
        size, motif = plan.sizes[number % len(plan.sizes)], number % CLASSES
        path = folder / ids[motif * 100] / f"{number:05}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(synthetic_jpeg(number, size, motif))

    with ThreadPoolExecutor(cores()) as pool:  # the work is in Pillow and NumPy, which let go of the lock
        list(pool.map(make, range(plan.distinct)))


def _repeat(folder: Path, to: Path, count: int) -> None:
    files = sorted(folder.glob("*/*"), key=lambda path: path.name)
    unfinished = to.with_name("unfinished")
    for number in range(count):
        file = files[number % len(files)]
        link = unfinished / file.parent.name / f"{number:06}-{file.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, link)
    unfinished.rename(to)
