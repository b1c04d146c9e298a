"""What a step is given: the device, how large its work is, its time, and where its results go."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Check, Results
from benchmarks.peers.materials import checkpoint
from resnet_infer.backends.load import Model
from resnet_infer.bench.opener import Opener
from resnet_infer.bench.rows import BenchRow
from resnet_infer.bench.runner import Data, Runner
from resnet_infer.bench.sweep import Cell, Subject, Sweep
from resnet_infer.data.source import Source
from resnet_infer.pipeline.packing import Offload


class Skipped(Exception):
    """A step cannot run here, and why."""


class OutOfTime(BaseException):
    """A step is over its time; not an Exception, so that nothing on the way takes it for a failure of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping(Opener):
    """Opens every subject once and keeps it open until `close`."""

    _models: dict[Subject, Model] = field(default_factory=dict)

    @contextmanager
    def open(self, subject: Subject) -> Iterator[tuple[Model, float]]:
        """As Opener.open."""
        begun = time.perf_counter()
        if subject not in self._models:
            self._models[subject] = self.opened(subject)
        yield self._models[subject], time.perf_counter() - begun if subject.backend != "torch" else 0.0

    def close(self) -> None:
        """Close them all."""
        while self._models:
            self._models.popitem()[1].backend.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A step's surroundings."""

    step: str
    device: torch.device
    plan: Plan
    results: Results
    scratch: Path
    """Pictures, weights and exports; not kept."""
    ends: float
    """Unix time by which the step should be done."""
    data: str | None = None
    """Labelled photos to use in place of made pictures."""

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def rows(self) -> Sequence[BenchRow]:
        """All rows so far."""
        return self.results.run.rows

    def finish(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def left(self) -> float:
        """Seconds."""
        return self.ends - time.time()

    def has(self, seconds: float, what: str) -> bool:
        """Whether there are so many seconds left (on a GPU; elsewhere nothing is compiled in earnest); logs if not."""
        enough = self.left() >= seconds or (not self.cuda and self.left() > 0)
        if not enough:
            self.results.log(f"  left out for want of time: {what}")
        return enough

    def check(self, what: str, measured: float | None = None, target: float | None = None, **more: Any) -> None:
        """Record a check."""
        self.results.check(Check(step=self.step, what=what, measured=measured, target=target, **more))

    def check_roof(self, what: str, row: BenchRow, target: float | None = None) -> None:
        """How near a row is to its roof, where the ceilings are known."""
        note = f"{row.images_per_s:.1f} images/s, {row.options or 'as it comes'}, batch {row.batch_size}"
        if row.roof_fraction:
            self.check(f"{what}, of its roof", row.roof_fraction, target, note=note)
        else:
            self.check(f"{what}, of its roof", target=target, skipped="the ceilings are not known", note=note)

    def opener(self, *, keep: bool = False, calibration: Source | None = None) -> Opener:
        """Opens subjects; the network's weights are the peers' (benchmarks/peers/materials.py)."""
        kind = Keeping if keep else Opener
        opener = kind(folder=self.scratch / "exports", device=str(self.device), calibration=calibration)
        opener.know(self.plan.network, checkpoint(self.scratch, self.plan.network))
        return opener

    def runner(
        self,
        opener: Opener,
        *,
        data: Data | None = None,
        workers: int | None = None,
        offload: Offload = "nothing",
        repeats: int | None = None,
    ) -> Runner:
        """The library's runner on these ceilings, knowing the rows so far."""
        sweep = Sweep(repeats=repeats or self.plan.repeats, seconds=self.plan.seconds)
        ceilings = self.results.run.ceilings
        runner = Runner(opener=opener, sweep=sweep, data=data, ceilings=ceilings, workers=workers, offload=offload)
        runner.know(self.rows)
        return runner

    def measure(self, runner: Runner, cell: Cell, said: str = "") -> BenchRow:
        """One row, recorded; `said` goes to its options. The weights are made, so their errors say nothing."""
        (row,) = list(runner.run([cell]))
        row = replace(row, top1_err=None, top1_err_ci95=None, top1_images=0)
        if said:
            row = replace(row, options=", ".join(filter(None, [row.options, said])))
        self.results.row(row)
        return row

    def network(
        self,
        subject: Subject,
        batch: int,
        *,
        protocol: str = "single-crop",
        data: Data | None = None,
        repeats: int | None = None,
    ) -> None:
        """A row of the network alone, freshly opened, so that it is compiled for this batch alone."""
        torch._dynamo.reset()
        cell = Cell(subject=subject, protocol=protocol, batch_size=batch, measurement="network")
        self.measure(self.runner(self.opener(), data=data, repeats=repeats), cell)

    def subject(self, model: str | None = None, **how: Any) -> Subject:
        """The network on torch in the plan's precision, if not said otherwise."""
        return Subject(
            **{"model": model or self.plan.network, "backend": "torch", "precision": self.plan.precision, **how}
        )
