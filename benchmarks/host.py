"""What scoring costs the host: the path from packed chunks to an evaluation's counts, without decoding and network.

Chunks are packed beforehand, as worker processes send them, from images of the sizes that photographs have. The
backend gives logits that are there already. What is left is what one process must do for every image: cut, batch,
average, judge, count. On a GPU it is what the rate cannot exceed.

Every protocol is measured with crops of 224 pixels, where the CPU also copies and mirrors the pixels (on a GPU, the
device's work), and with crops of 32, where there are as many tiles and a fiftieth of the pixels. CPU seconds of the
process are measured, since other processes may share the machine. `--against REV` measures another revision of this
repository too, each side in a process of its own, in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_infer.allocator import keep_freed_memory
from resnet_infer.backends.base import BackendInfo
from resnet_infer.backends.load import Model
from resnet_infer.data.samples import Sample
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.pipeline import loader
from resnet_infer.pipeline.loader import CHUNK
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.packing import How, pack, prepare
from resnet_infer.pipeline.score import Member
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import Protocol, multi_scale, single_crop, ten_crop
from resnet_infer.spec.shapes import ANY, ShapeRange

ROOT = Path(__file__).parents[1]
CLASSES = 1000
BATCH = 256
"""Crops in a batch."""
DISTINCT = 256
"""Images packed; they come again until there are enough."""
SHARES = {(375, 500): 0.4, (500, 375): 0.1, (333, 500): 0.15, (500, 333): 0.1}
"""Of images of the commonest sizes; the others differ."""


Run = Callable[[str], float]
"""CPU seconds an image of a case by its name."""


@dataclass(frozen=True)
class Case:
    """One thing measured."""

    protocol: str
    crop: int
    images: int

    @property
    def name(self) -> str:
        """As it is asked for."""
        return f"{self.protocol}/{self.crop}"


CASES = (
    Case("single-crop", 32, 8192),
    Case("ten-crop", 32, 4096),
    Case("single-crop", 224, 4096),
    Case("ten-crop", 224, 512),
    Case("multiscale", 32, 1024),
)


def main() -> None:
    """Measure this revision, and another beside it; print the table, write the result."""
    parser = argparse.ArgumentParser(description="What scoring costs the host, without decoding and network.")
    parser.add_argument("--against", help="another git revision, measured in turns with this one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES], choices=[c.name for c in CASES])
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    from resnet_infer.environment import environment

    with ExitStack() as stack:
        sides = {"ours": stack.enter_context(_side(ROOT))}
        if args.against:
            sides[args.against] = stack.enter_context(_side(stack.enter_context(_revision(args.against))))
        cases = {name: _compared(name, sides, args.repeats, args.against) for name in args.cases}
    result = {
        "what": "CPU time of the host for an image, without decoding and network",
        "command": "python -m benchmarks.host" + (f" --against {args.against}" if args.against else ""),
        "environment": environment(),
        "batch": BATCH,
        "classes": CLASSES,
        "cases": cases,
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


def _compared(name: str, sides: dict[str, Run], repeats: int, against: str | None) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for run in sides.values():
        run(name)
    for _ in range(repeats):
        for side, run in sides.items():
            seconds[side].append(run(name))
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    found: dict[str, Any] = {
        "cpu_us_per_image": {side: round(1e6 * value, 2) for side, value in medians.items()},
        "images_per_s": {side: round(1 / value) for side, value in medians.items()},
        "repeats_us": {side: [round(1e6 * value, 2) for value in values] for side, values in seconds.items()},
    }
    line = "   ".join(f"{side} {1e6 * value:7.1f} us {1 / value:8.0f}/s" for side, value in medians.items())
    if against:
        found["ratio"] = round(medians[against] / medians["ours"], 2)
        line += f"   ratio {found['ratio']:.2f}"
    print(f"{name:16}{line}", flush=True)
    return found


@contextmanager
def _revision(name: str) -> Iterator[Path]:
    """A work tree of another revision, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", tree, name], cwd=ROOT, check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True, capture_output=True)


@contextmanager
def _side(tree: Path) -> Iterator[Run]:
    """Run cases on the package in `tree`: CPU seconds an image."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    def run(case: str) -> float:
        print(case, file=process.stdin, flush=True)
        return float(process.stdout.readline())  # type: ignore[union-attr]

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()


def serve() -> None:
    """Answer the names of cases by their CPU seconds an image, one a line, until there are no more."""
    torch.set_num_threads(1)
    keep_freed_memory()
    made: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        (case,) = (case for case in CASES if case.name == line.strip())
        if case.name not in made:
            made = {case.name: _prepared(case)}
        print(made[case.name](), flush=True)


def _prepared(case: Case) -> Callable[[], float]:
    protocol = _protocol(case)
    source = Numbered(case.images)
    blocks = _blocks(protocol, case)
    backend = Null(_positions(protocol, case))
    preprocessing = Preprocessing(resize=256, crop=224, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    labels = Labels(names=tuple(f"class {number}" for number in range(CLASSES)))
    spec = spec_from_name("resnet50" if case.crop == 224 else "resnet20", CLASSES)
    model = Model(
        name="null", manifest=Manifest(spec=spec, preprocessing=preprocessing, labels=labels), backend=backend
    )

    def make(work: Any, *given: Any) -> Any:
        items = next(value for value in given if isinstance(value, Sequence) and value and isinstance(value[0], int))
        made = blocks[items[0]]
        return loader.Made(*made, len(items)) if hasattr(loader.Made, "_fields") else made  # type: ignore[attr-defined]

    def run() -> float:
        begun = time.process_time()
        (row,) = evaluate([Member(model, (protocol,))], source, loading=Loading(workers=0, batch_size=BATCH))
        seconds = time.process_time() - begun
        assert row.images == case.images
        return seconds / case.images

    setattr(loader._Chunks, "make", make)  # noqa: B010
    return run


def _protocol(case: Case) -> Protocol:
    resize = round(case.crop * 256 / 224)
    if case.protocol == "multiscale":
        return multi_scale((32, 36, 40, 44, 48), average="gap")
    return single_crop(resize, case.crop) if case.protocol == "single-crop" else ten_crop(resize, case.crop)


def _positions(protocol: Protocol, case: Case) -> int:
    """The largest batch in tiles."""
    return 2 * BATCH if protocol.crops != "whole" else 8 * BATCH


def _blocks(protocol: Protocol, case: Case) -> dict[int, tuple[torch.Tensor, list[Any]]]:
    """What a worker makes of every chunk, by its first image."""
    rng = np.random.default_rng(0)
    common = list(SHARES)
    left = 1 - sum(SHARES.values())
    images = []
    for number in rng.choice(len(common) + 1, DISTINCT, p=[*SHARES.values(), left]):
        height, width = common[number] if number < len(common) else rng.integers(300, 640, 2).tolist()
        shrink = 224 // case.crop  # small crops are of images that are as much smaller
        images.append(rng.integers(0, 256, (height // shrink, width // shrink, 3), dtype=np.uint8))
    blocks: dict[int, tuple[torch.Tensor, list[Any]]] = {}
    for first in range(0, case.images, CHUNK):
        at = first % DISTINCT
        if first == at:
            chunk = [prepare(n, partial(images.__getitem__, n), How((protocol,))) for n in range(at, at + CHUNK)]
            blocks[at] = pack(chunk, lambda size: torch.empty(size, dtype=torch.uint8))
        block, records = blocks[at]
        blocks[first] = block, [replace(record, index=first + place) for place, record in enumerate(records)]
    return blocks


class Numbered:
    """A source of labelled images that are never read."""

    name = "numbered"
    left_out = ()

    def __init__(self, images: int) -> None:
        self.samples = [Sample(name=f"{n}", label=f"class {n % CLASSES}", key=n) for n in range(images)]

    def read(self, sample: Sample) -> bytes:
        """See Source."""
        raise NotImplementedError


class Null:
    """A network that takes no time: the same logits for every batch."""

    def __init__(self, largest: int) -> None:
        self.info = BackendInfo(
            name="torch", device="cpu", precision="fp32", heads=("pooled", "dense"), artifact="null"
        )
        self.shapes: tuple[ShapeRange, ...] = (ShapeRange(min=(1, 1, 1), opt=(1, 224, 224), max=(ANY, ANY, ANY)),)
        self._logits = torch.randn(largest, CLASSES, 1, 1, generator=torch.Generator().manual_seed(0))

    def run(self, x_BCHW: torch.Tensor, head: str) -> torch.Tensor:
        """See Backend.run."""
        return self._logits[: len(x_BCHW)]

    def close(self) -> None:
        """Nothing is held."""


if __name__ == "__main__":
    main()
