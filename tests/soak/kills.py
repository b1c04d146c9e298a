"""Evaluations killed at random moments and resumed, until so many kills are reached; any lost record ends it.

    python tests/soak/kills.py --kills 500 --images 2000 --seed 1

Most evaluations run in a child forked from this process, which has imported everything; some are the real command.
After every kill: what was saved before is still there, and no more images are lost than a part holds. After every
evaluation that came to its end: its counts and its file are those of one that was never interrupted.
"""

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member
from resnet_infer.predictions import recorder
from resnet_infer.predictions.files import format_of, read_predictions
from resnet_infer.predictions.recorder import Recording
from resnet_infer.predictions.records import Record
from resnet_infer.spec.protocols import Protocol, single_crop, ten_crop

MODEL = "resnet20.cifar10"
CROPS = {"single-crop": single_crop(32, 32), "ten-crop": ten_crop(36, 32)}
UNREADABLE = 3
TRIGGERS = {"time": 5, "part": 3, "merge": 1, "start": 1}
"""What a kill waits for, and how often: a time, a part being written, the last merge, or nothing at all."""


@dataclass
class Run:
    """One evaluation, begun as often as it takes."""

    path: Path
    protocols: tuple[str, ...]
    part_images: int
    by_command: bool

    @property
    def parts(self) -> Path:
        return self.path.with_name(self.path.name + ".parts")

    def images_saved(self) -> set[int]:
        """Those in whole parts, or in the finished file."""
        files = [self.path] if self.path.exists() else sorted(self.parts.glob(f"*-*-*{self.path.suffix}"))
        saved: Counter[int] = Counter()
        for file in files:
            saved.update(record.index for record in format_of(file).open(file)[1] if not record.error)
        assert all(count % len(self.protocols) == 0 for count in saved.values()), f"{self.path}: half an image"
        return set(saved)


def draw(path: Path, images: int, labels: list[str]) -> None:
    """Small soft random pictures with random classes, and a few files that are none."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(images):
            file = f"{labels[rng.integers(len(labels))]}/{number:05}.png"
            picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32))
            broken = number in (1, images // 2, images - 2)
            with archive.open(file, "w") as member:
                member.write(b"broken") if broken else picture.save(member, "PNG", compress_level=1)


def counts_of(
    model: Model, source: Source, run: Run, advance: Callable[[float], None] = lambda images: None
) -> list[list[int]]:
    """Evaluate once, in this process."""
    tests: list[Protocol] = [CROPS[name] for name in run.protocols]
    recording = Recording(path=run.path, resume=True)
    rows = evaluate(
        [Member(model, tuple(tests))],
        source,
        on_error="skip",
        recording=recording,
        advance=advance,
        loading=Loading(workers=0),
    )
    return [[row.images, row.top1_errors, row.top5_errors] for row in rows]


def forked(model: Model, source: Source, run: Run, counter: mmap.mmap, out: Path) -> int:
    """Evaluate in a child of this process; its id. `counter` tells the images that it has counted."""
    counter[:8] = struct.pack("q", 0)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        recorder.PART_IMAGES = run.part_images

        def advance(images: float) -> None:
            counter[:8] = struct.pack("q", struct.unpack("q", counter[:8])[0] + int(images))

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        counts = counts_of(model, source, run, advance)
        out.write_text(json.dumps(counts))
        code = 0
    finally:
        os._exit(code)


def commanded(data: Path, run: Run, out: Path) -> int:
    """Evaluate by the command line, with a decoding process; its id."""
    arguments = ["eval", str(data), "-m", MODEL, "--predictions", str(run.path), "--resume", "--on-error", "skip"]
    arguments += ["--resize", "32", "--format", "json", "--workers", "1", "--device", "cpu"]
    with out.open("wb") as file:
        command = [sys.executable, "-m", "resnet_infer", *arguments]
        quiet = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), 1), quiet]
        return os.posix_spawn(command[0], command, os.environ, file_actions=actions)


def wait_for(trigger: str, run: Run, rng: random.Random, longest_s: float, alive: Callable[[], bool]) -> None:
    """Return at the moment of the kill, or when the evaluation has ended."""
    begun = time.monotonic()
    until = begun + (rng.uniform(0, longest_s) if trigger == "time" else rng.uniform(0, 0.03))
    seen = trigger in ("time", "start")
    while alive():
        now = time.monotonic()
        if not seen and any(run.parts.glob("merged.tmp" if trigger == "merge" else "*.tmp")):
            seen, until = True, now + rng.uniform(0, 0.004)
        if (seen and now >= until) or now > begun + 60:
            return
        time.sleep(0.0002)


def soak(
    kills: int, images: int, seed: int, share_by_command: float, folder: Path, say: Callable[[str], None] = print
) -> None:
    """Raise AssertionError at the first difference."""
    rng = random.Random(seed)
    model = open_model(MODEL, device="cpu")
    assert model.manifest.labels
    data = folder / "data.zip"
    draw(data, images, list(model.manifest.labels.names))
    source = open_source(data)
    references = {}
    for suffix in (".jsonl", ".parquet"):
        for names in (("single-crop",), ("single-crop", "ten-crop")):
            run = Run(folder / f"reference-{len(names)}{suffix}", names, 1024, False)
            references[suffix, names] = (counts_of(model, source, run), read_predictions(run.path).records)
    print(f"seed {seed}; {images} images, {UNREADABLE} unreadable; uninterrupted: {references['.jsonl', names][0]}")
    counter = mmap.mmap(-1, 8)
    done, finished, by_command, lost_most = Counter[str](), 0, 0, 0
    while sum(done.values()) < kills:
        names = rng.choice([("single-crop",), ("single-crop", "ten-crop")])
        suffix = rng.choice([".jsonl", ".parquet"])
        command = rng.random() < share_by_command
        run = Run(
            folder / f"run-{finished}{suffix}",
            ("single-crop",) if command else names,
            1024 if command else rng.choice([16, 64, 250]),
            command,
        )
        spare, here = rng.randint(1, 4) if command else rng.randint(3, 40), 0
        out, saved = folder / "counts.json", set[int]()
        while True:
            trigger = rng.choices([*TRIGGERS], [*TRIGGERS.values()])[0] if here < spare else "never"
            child = commanded(data, run, out) if command else forked(model, source, run, counter, out)

            def alive(child: int = child) -> bool:
                return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

            if trigger == "never":
                while alive():
                    time.sleep(0.01)
            else:
                wait_for(trigger, run, rng, 15 if command else 1.2, alive)
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            if status == 0:
                break
            assert status == signal.SIGKILL, f"{run}: ended with {status}"
            here += 1
            done["command " * command + trigger] += 1
            now = run.images_saved()
            assert saved <= now, f"{run}: images {sorted(saved - now)[:5]} were saved and are gone"
            if not command:
                lost = struct.unpack("q", counter[:8])[0] - UNREADABLE - len(now)
                assert lost <= run.part_images, f"{run}: {lost} images lost"
                lost_most = max(lost_most, lost)
            saved = now
        text = json.loads(out.read_text())
        counts = [[row["images"], row["top1_errors"], row["top5_errors"]] for row in text["rows"]] if command else text
        expected, records = references[run.path.suffix, run.protocols]
        assert counts == expected, f"{run}: {counts} instead of {expected}"
        found = read_predictions(run.path).records
        for name in run.protocols:
            pairs = zip(found[name], records[name], strict=True)
            assert all(same(mine, theirs) for mine, theirs in pairs), f"{run}: other records under {name}"
        assert not run.parts.exists(), f"{run}: {run.parts} is still there"
        run.path.unlink()
        finished, by_command = finished + 1, by_command + command
        kind = f"{', '.join(run.protocols)}, {suffix[1:]}{', by command' * command}"
        print(
            f"{sum(done.values()):4} kills; evaluation {finished} ({kind}): {here} kills, as uninterrupted", flush=True
        )
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()))
    print(f"{sum(done.values())} kills ({kinds}) in {finished} evaluations, {by_command} by the command line")
    print(f"all counts and records equal; most images lost to one kill: {lost_most}")


def same(mine: Record, theirs: Record) -> bool:
    """Equal records; a probability may differ by rounding, since other images shared its batch."""
    keys = ("index", "protocol", "name", "label", "truth", "rank", "error")
    equal = all(getattr(mine, key) == getattr(theirs, key) for key in keys)
    return equal and np.allclose(mine.top_probs, theirs.top_probs, atol=1e-5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by-command", type=float, default=0.2, help="share of evaluations by the command line")
    given = parser.parse_args()
    torch.set_num_threads(1)
    where = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        soak(given.kills, given.images, given.seed, given.by_command, where)
    except (AssertionError, DataError) as problem:
        sys.exit(f"FAILED: {problem} (files kept in {where})")
    shutil.rmtree(where)
