"""One run of the benchmark on disk: rows are saved as they are measured, and a run that was stopped goes on."""

import json
import shlex
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from resnet_infer.backends.devices import torch_device
from resnet_infer.bench.ceilings import measure_ceilings
from resnet_infer.bench.opener import Opener, asked_for
from resnet_infer.bench.rows import BenchRow, BenchRun, load_run
from resnet_infer.bench.runner import Data, Runner, image_sizes
from resnet_infer.bench.sweep import Cell, Sweep, cells
from resnet_infer.console import note
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source, Subset
from resnet_infer.environment import environment
from resnet_infer.errors import DataError, UsageError
from resnet_infer.files import json_text
from resnet_infer.pipeline.packing import Offload
from resnet_infer.spec.registry import DEFAULT_MODEL

FILE = "benchmark.json"
BATCH_SIZES = {"cpu": (1, 8), "cuda": (1, 8, 32, 128, 256)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest:
    """A benchmark as it was asked for."""

    sweep: Sweep
    output: Path
    data: str | None = None
    calibration_data: str | None = None
    device: str = "auto"
    workers: int | None = None
    offload: Offload = "nothing"
    resume: bool = False
    ceilings: bool = True


def run(request: BenchmarkRequest) -> BenchRun:
    """Measure everything that is asked for and not there yet, saving after every row.

    Ctrl-C raises KeyboardInterrupt with all rows so far saved. Raises UsageError if the folder holds another run and
    `resume` is not given, or if it is and that run was on another machine.
    """
    device = torch_device(request.device)
    sweep = complete(request.sweep, device, request.data is not None)
    for name in sweep.models:
        asked_for(name)
    path = request.output / FILE
    before = _earlier(path, request.resume)
    request.output.mkdir(parents=True, exist_ok=True)
    data = _data(request, sweep) if request.data else None
    begun = time.monotonic()
    current = BenchRun(
        command=shlex.join(["resnet-infer", *sys.argv[1:]]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
        data=_described(data),
        ceilings=None,
        rows=(),
    )
    if before:
        current = _continued(before, current, path)
    elif request.ceilings:
        note("measuring what this machine allows")
        files = [file for file in _first_files(data.source) if isinstance(file, bytes)] if data else []
        current = replace(current, ceilings=measure_ceilings(device, files))
    wanted = list(cells(sweep))
    done = {row.key(): row for row in current.rows if not row.error}
    missing = [cell for cell in wanted if cell.key() not in done]
    if before:
        note(f"{len(wanted) - len(missing)} of {len(wanted)} rows are there already")
    kept = [row for row in current.rows if not row.error]
    runner = Runner(
        opener=Opener(
            folder=request.output / "exports",
            device=str(device),
            calibration=_calibration(request),
        ),
        sweep=sweep,
        data=data,
        ceilings=current.ceilings,
        workers=request.workers,
        offload=request.offload,
        note=_Progress(len(missing)),
    )
    runner.know(kept)
    for row in runner.run(missing):
        kept.append(row)
        if row.error:
            note(f"not measured: {row.error}")
        current = replace(
            current,
            rows=_in_order(kept, wanted),
            seconds=round((before.seconds if before else 0.0) + time.monotonic() - begun, 1),
        )
        current.save(path)
    current.save(path)
    return current


def complete(sweep: Sweep, device: torch.device, has_data: bool) -> Sweep:
    """The sweep with its open fields filled for this device and what is given."""
    measurements = sweep.measurements or (
        "network",
        *(("transfer",) if device.type == "cuda" else ()),
        *(("memory", "files") if has_data else ()),
    )
    if device.type == "cpu" and "transfer" in measurements:
        raise UsageError("the measurement transfer is for a GPU: on a CPU nothing travels; leave it out")
    if not has_data and {"memory", "files"} & set(measurements):
        raise UsageError("the measurements memory and files need images: give --data DATA")
    return replace(
        sweep,
        models=sweep.models or (DEFAULT_MODEL,),
        batch_sizes=sweep.batch_sizes or BATCH_SIZES[device.type],
        measurements=measurements,
    )


class _Progress:
    """Counts the rows on stderr, one line each."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.at = 0

    def __call__(self, text: str) -> None:
        self.at += 1
        note(f"{self.at}/{self.rows} {text}")


def _earlier(path: Path, resume: bool) -> BenchRun | None:
    if not path.exists():
        return None
    if not resume:
        raise UsageError(f"{path} already exists; continue with --resume, or choose another folder")
    return load_run(path)


def _continued(before: BenchRun, now: BenchRun, path: Path) -> BenchRun:
    """The earlier run, if it was on this machine with these versions and images: else its rows are not comparable."""
    for what in ("cpu", "cores", "gpus", "packages"):
        if before.environment.get(what) != _plain(now.environment.get(what)):
            raise UsageError(
                f"{path}: was measured with other {what} ({before.environment.get(what)}, now "
                f"{now.environment.get(what)}); choose another folder"
            )
    if before.data != _plain(now.data):
        raise UsageError(f"{path}: was measured on other images ({before.data}); choose another folder")
    return before


def _plain(value: Any) -> Any:
    """As it reads back from JSON."""
    return json.loads(json_text(value))


def _in_order(found: list[BenchRow], wanted: list[Cell]) -> list[BenchRow]:
    """Rows in the order of the sweep; those of an earlier, other sweep come first."""
    place = {cell.key(): number for number, cell in enumerate(wanted)}
    return sorted(found, key=lambda row: place.get(row.key(), -1))


def _data(request: BenchmarkRequest, sweep: Sweep) -> Data:
    source: Source = open_source(request.data or "")
    if sweep.images and sweep.images < len(source.samples):
        count = len(source.samples)
        spread = [count * number // sweep.images for number in range(sweep.images)]  # of every class, if sorted by it
        source = Subset(source.name, source, spread)
    return Data(source=source, sizes=image_sizes(source))


def _described(data: Data | None) -> dict[str, Any]:
    if data is None:
        return {}
    heights, widths = zip(*data.sizes, strict=True)
    return {
        "name": data.source.name,
        "images": len(data.source.samples),
        "mean_height": round(sum(heights) / len(heights), 1),
        "mean_width": round(sum(widths) / len(widths), 1),
    }


def _first_files(source: Source) -> list[Any]:
    files = []
    for sample in source.samples[:32]:
        try:
            files.append(source.read(sample))
        except (OSError, DataError):
            continue
    return files


def _calibration(request: BenchmarkRequest) -> Source | None:
    named = request.calibration_data or request.data
    return open_source(named) if named else None
