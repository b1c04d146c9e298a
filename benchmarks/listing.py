"""Memory and time of a long listing: a million tiny images listed and the first scored, against as few as are scored.

For a folder, a zip, a tar and WebDataset shards, images are generated (8x8 PNGs in ten class folders) in both numbers.
A fresh process lists them, matches their classes, and scores the first of them by resnet20 with one worker process,
as `resnet-infer eval` does. It notes the time until the first score and the peak resident memory of itself and of its
worker. Bytes for each image are the growth of the resident memory over the listing, between the two numbers.
"""

import argparse
import io
import json
import resource
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_infer.environment import environment
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member
from resnet_infer.spec.labels import CIFAR10_NAMES

DISTINCT = 200
"""Pictures; each is many images."""
PER_SHARD = 10_000
MODEL = "resnet20.cifar10"


def main() -> None:
    """Generate, measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description="Memory and time of a long listing.")
    parser.add_argument("--many", type=int, default=1_000_000, help="images of the long listing (default 1,000,000)")
    parser.add_argument("--few", type=int, default=20_000, help="images scored, and of the short one (default 20,000)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--folder", type=Path, help="where to generate: up to 4 GB (default: temporary)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "what": "memory and time of a long listing",
        "command": f"python -m benchmarks.listing --many {args.many} --few {args.few}",
        "environment": environment(),
        "kinds": {},
    }
    print(f"{'':8}{'images':>10}{'listed s':>10}{'first score s':>15}{'peak MiB':>10}{'worker MiB':>12}")
    for kind in args.kinds:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            runs = {}
            for count in (args.few, args.many):
                where = in_process(KINDS[kind], Path(folder) / f"{count}", count)
                runs[count] = in_process(measure, where, count, args.few)
        few, many = runs[args.few], runs[args.many]
        row = {
            "runs": runs,
            "peak_ratio": (many["peak_mib"] + many["worker_peak_mib"]) / (few["peak_mib"] + few["worker_peak_mib"]),
            "bytes_per_image": 2**20 * (many["listing_mib"] - few["listing_mib"]) / (args.many - args.few),
        }
        result["kinds"][kind] = row
        for count, run in runs.items():
            print(
                f"{kind:8}{count:10,}{run['listed_s']:10.1f}{run['first_score_s']:15.1f}{run['peak_mib']:10.0f}"
                f"{run['worker_peak_mib']:12.0f}"
            )
        print(
            f"{'':8}{row['peak_ratio']:.3f} times the memory, {row['bytes_per_image']:.0f} bytes an image", flush=True
        )
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# generated images


def images(count: int) -> Iterator[tuple[str, int, bytes]]:
    """(path, class, PNG) of every image."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(DISTINCT):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
        encoded.append(file.getvalue())
    for label, name in enumerate(CIFAR10_NAMES):
        for number in range(label * count // 10, (label + 1) * count // 10):
            yield f"{name}/{name}_{number:08}.png", label, encoded[number % DISTINCT]


def write_folder(root: Path, count: int) -> str:
    for name in CIFAR10_NAMES:
        (root / name).mkdir(parents=True)
    for path, _, data in images(count):
        (root / path).write_bytes(data)
    return str(root)


def write_zip(root: Path, count: int) -> str:
    with zipfile.ZipFile(f"{root}.zip", "w") as archive:
        for path, _, data in images(count):
            archive.writestr(path, data)
    return f"{root}.zip"


def write_tar(root: Path, count: int) -> str:
    with tarfile.open(f"{root}.tar", "w") as archive:
        for path, _, data in images(count):
            _add(archive, path, data)
    return f"{root}.tar"


def write_shards(root: Path, count: int) -> str:
    root.mkdir()
    archive: Any = None
    last = 0
    for number, (path, label, data) in enumerate(images(count)):
        if number % PER_SHARD == 0:
            if archive:
                archive.close()
            last = number // PER_SHARD
            archive = tarfile.open(root / f"val-{last:06}.tar", "w")  # noqa: SIM115, the next shard closes it
        key = path.rpartition("/")[2].removesuffix(".png")
        _add(archive, f"{key}.png", data)
        _add(archive, f"{key}.cls", b"%d" % label)
    archive.close()
    return f"{root}/val-{{000000..{last:06}}}.tar"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
    archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps a list of all


KINDS = {"folder": write_folder, "zip": write_zip, "tar": write_tar, "shards": write_shards}


# measuring


def measure(where: str, count: int, scored: int) -> dict[str, float]:
    """List and score."""
    from resnet_infer.allocator import keep_freed_memory
    from resnet_infer.backends.load import open_model
    from resnet_infer.data.classes import class_indices
    from resnet_infer.data.open import open_source
    from resnet_infer.pipeline.score import score
    from resnet_infer.spec.protocols import protocol_for

    keep_freed_memory()
    model = open_model(MODEL, device="cpu")
    protocol = protocol_for("single-crop", model.manifest.spec, model.manifest.preprocessing)
    before = resident_mib()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    source = open_source(where)
    listed, listed_cpu = time.perf_counter() - begun, time.process_time() - cpu_begun
    truth = class_indices(source, model.manifest.labels, model.manifest.spec.classes)
    assert len(truth) == len(source.samples) == count
    listing = resident_mib() - before
    first = 0.0
    for done, result in enumerate(
        score([Member(model, (protocol,))], source, indices=range(scored), loading=Loading(workers=1))
    ):
        assert result.probs_PK is not None, result.error
        if not done:
            first = time.perf_counter() - begun
    return {
        "listed_s": listed,
        "listed_cpu_s": listed_cpu,
        "first_score_s": first,
        "seconds": time.perf_counter() - begun,
        "listing_mib": listing,
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
        "worker_peak_mib": peak_mib(resource.RUSAGE_CHILDREN),
    }


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_mib(who: int) -> float:
    """The most that this process, or the largest of its children, has had."""
    return resource.getrusage(who).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
