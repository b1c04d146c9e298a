"""`--backend auto`: the fastest way to run a checkpoint on this machine, measured, not guessed, and said.

The candidates compute the same function; the export among them has passed its check against PyTorch. What was
measured is kept in the cache folder for this checkpoint, precision, head, machine and versions.
"""

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from resnet_infer.backends.devices import torch_device
from resnet_infer.backends.load import Model
from resnet_infer.bench.measure import measure_network
from resnet_infer.bench.opener import Opener
from resnet_infer.bench.sweep import EXPORTED, Subject
from resnet_infer.console import note
from resnet_infer.environment import environment
from resnet_infer.errors import ResnetInferError, UsageError
from resnet_infer.files import cache_folder, replacing
from resnet_infer.model.checkpoints import Overrides, load_checkpoint
from resnet_infer.pipeline.score import DEFAULT_BATCH
from resnet_infer.spec.protocols import single_crop

TURNS = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to run the checkpoint, and its images/s here; 0 if it does not run."""

    subject: Subject
    images_per_s: float

    @property
    def name(self) -> str:
        """As it is said."""
        return " ".join((self.subject.backend, self.subject.options)).strip()


def open_fastest(
    model: str, *, dense: bool, device: str = "auto", precision: str | None = None, overrides: Overrides | None = None
) -> Model:
    """Open the checkpoint in its fastest form; `dense` if a protocol needs the dense head.

    Raises what loading a checkpoint does, and UsageError for an exported file, which has one form.
    """
    if model.lower().endswith(EXPORTED):
        raise UsageError(f"{model}: --backend auto is for checkpoints; an exported file runs in one way only")
    checkpoint = load_checkpoint(model, overrides)
    where = torch_device(device)
    folder = cache_folder() / "fastest"
    opener = Opener(folder=folder, device=str(where))
    opener.know(model, checkpoint)
    precision = precision or "fp32"
    ways = [
        Subject(model=model, backend="torch", precision=precision, dense=dense),
        Subject(model=model, backend="torch", precision=precision, compile="default", dense=dense),
    ]
    if precision in ("fp32", "tf32") or where.type == "cuda":
        ways.append(Subject(model=model, backend="onnxruntime", precision=precision, dense=dense))
    kept = folder / f"{_key(checkpoint.manifest.source_sha256 or model, ways, str(where))}.json"
    rates = _read(kept)
    if rates is None:
        note("backend auto: measuring what is fastest here, which takes about a minute; kept for the next time")
        rates = _measure(opener, ways, str(where))
        with replacing(kept) as partial:
            partial.write_text(json.dumps(rates))
    found = sorted((Candidate(way, rates.get(way.backend + way.options, 0.0)) for way in ways), key=_slowness)
    best, *others = found
    said = ", ".join(f"{c.name} {c.images_per_s:.1f}" if c.images_per_s else f"{c.name} does not run" for c in others)
    note(f"backend auto: {best.name}, {best.images_per_s:.1f} images/s on single crops here ({said})")
    return opener.opened(best.subject)


def _slowness(candidate: Candidate) -> float:
    return -candidate.images_per_s


def _measure(opener: Opener, ways: Sequence[Subject], device: str) -> dict[str, float]:
    """images/s by name, in turns, single crops of the native size; 0 for what does not run."""
    running: dict[str, Model] = {}
    for way in ways:
        try:
            running[way.backend + way.options] = opener.opened(way)
        except (ResnetInferError, RuntimeError) as error:
            note(f"backend auto: {way.backend} {way.options}: {' '.join(str(error).split())[:200]}")
    rates: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(TURNS):
        for name, model in list(running.items()):
            spec = model.manifest.spec
            side = spec.native_size
            batch = DEFAULT_BATCH["cuda" if device.startswith("cuda") else "cpu", spec.family]
            try:
                timing = measure_network(
                    model.backend, single_crop(side, side), [(side, side)], batch, side, repeats=1, seconds=0.5
                )
            except (ResnetInferError, RuntimeError, torch.OutOfMemoryError) as error:  # a compiler that is missing
                note(f"backend auto: {name}: {' '.join(str(error).split())[:200]}")
                running.pop(name).backend.close()
                rates[name] = [0.0]
                continue
            rates[name].append(timing.images_per_s)
    for model in running.values():
        model.backend.close()
    return {name: statistics.median(values) for name, values in rates.items()}


def _key(source: str, ways: Sequence[Subject], device: str) -> str:
    machine = environment()
    said = [source, device, machine["cpu"], machine["cores"], machine["packages"], machine["gpus"], repr(ways)]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, float] | None:
    try:
        return {str(name): float(rate) for name, rate in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # not measured yet, or not readable: measured anew
