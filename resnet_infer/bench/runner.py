"""A sweep, run: every cell becomes a row, and so does every failure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from resnet_infer.backends.load import Model
from resnet_infer.bench.loaded import Loaded
from resnet_infer.bench.measure import Timing, measure_network, measure_path, peak_memory, works
from resnet_infer.bench.opener import Opener
from resnet_infer.bench.roofline import roof
from resnet_infer.bench.rows import BenchRow, Ceilings
from resnet_infer.bench.sweep import RANDOM, Cell, Subject, Sweep
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, ResnetInferError
from resnet_infer.evaluation.agreement import truth_of
from resnet_infer.evaluation.evaluate import TOP_K, evaluate
from resnet_infer.evaluation.rows import EvalRow
from resnet_infer.evaluation.verdicts import best
from resnet_infer.pipeline.decode import decode
from resnet_infer.pipeline.loader import Crew
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.packing import Offload
from resnet_infer.pipeline.score import Member, check_served, score_groups
from resnet_infer.spec.protocols import Protocol, Size, protocol_for

ABOVE_ROOF = 1.1
"""Share of the roof above which the ceilings are not what bounds a row."""
UNSTEADY_PCT = 3.0
"""Coefficient of variation above which a row is called unsteady."""
BOUND = 0.9
"""A measurement below this share of the one inside it is bound by what it adds."""
MOST_SIZES = 4
"""Images whose sizes the network is timed at, spread over the data: multiscale has five shapes for each."""
DEFAULT_SIZES: tuple[Size, ...] = ((375, 500),)
"""(height, width) in pixels without data; ImageNet's commonest size."""
ADDED = {"transfer": ("network", "the way to the device"), "memory": ("network", "decoding and rendering"),
         "files": ("memory", "reading files")}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The images of a run."""

    source: Source
    sizes: tuple[Size, ...]
    """(height, width) of a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Measures cells on one device."""

    opener: Opener
    sweep: Sweep
    data: Data | None = None
    ceilings: Ceilings | None = None
    workers: int | None = None
    offload: Offload = "nothing"
    note: Callable[[str], None] = lambda text: None
    _rates: dict[tuple[str, ...], float] = field(default_factory=dict)
    """images/s of rows so far, by key: what later rows are compared with."""
    _truth: dict[str, bool] = field(default_factory=dict)

    def know(self, rows: Sequence[BenchRow]) -> None:
        """Take rows of an earlier run as measured."""
        self._rates.update({row.key(): row.images_per_s for row in rows})

    def run(self, cells: Sequence[Cell]) -> Iterator[BenchRow]:
        """A row for every cell, in order; the subjects' cells must lie together."""
        for subject, own in _by_subject(cells):
            try:
                with self.opener.open(subject) as (model, build_s):
                    for cell in own:
                        self.note(describe(cell))
                        yield self._row(model, cell, build_s)
            except (ResnetInferError, RuntimeError) as error:
                yield from (failed(cell, _in_short(error)) for cell in own)

    def _row(self, model: Model, cell: Cell, build_s: float) -> BenchRow:
        try:
            manifest = model.manifest
            protocol = protocol_for(cell.protocol, manifest.spec, manifest.preprocessing)
            check_served(model, protocol)
            with peak_memory(torch.device(model.backend.info.device)) as peak:
                timing, errors = self._measured(model, protocol, cell)
                return self._filled(model, protocol, cell, timing, errors, build_s, peak())
        except (ResnetInferError, RuntimeError) as error:  # of the device, of a compiler that is missing
            return failed(cell, _in_short(error))

    def _measured(self, model: Model, protocol: Protocol, cell: Cell) -> tuple[Timing, EvalRow | None]:
        sweep, native = self.sweep, model.manifest.spec.native_size
        if cell.measurement in ("network", "transfer"):
            timing = measure_network(
                model.backend,
                protocol,
                self.data.sizes if self.data else DEFAULT_SIZES,
                cell.batch_size,
                native,
                repeats=sweep.repeats,
                seconds=sweep.seconds,
                upload=cell.measurement == "transfer",
            )
            return timing, None
        if self.data is None:
            raise DataError(f"the measurement {cell.measurement} needs images: give --data DATA")
        source = Loaded(self.data.source) if cell.measurement == "memory" else self.data.source
        with Crew(source) as crew:
            loading = Loading(batch_size=cell.batch_size, workers=self.workers, offload=self.offload)
            members = [Member(model, (protocol,))]

            def once() -> int:
                results = score_groups(members, source, reduce=partial(best, TOP_K), loading=loading, crew=crew)
                return sum(len(images.indices) for images in results if not images.error)

            counted = None
            if self._labelled(model, cell):
                counted = evaluate(members, source, on_error="skip", loading=loading, crew=crew)[0]
            device = torch.device(model.backend.info.device)
            return measure_path(once, repeats=sweep.repeats, device=device, warm_up=counted is None), counted

    def _labelled(self, model: Model, cell: Cell) -> bool:
        """Whether the data's classes are the model's: then errors are counted, in the warm-up."""
        name = cell.subject.model
        if name not in self._truth:
            try:
                truth = truth_of(model, self.data.source) if self.data and not name.endswith(RANDOM) else None
            except DataError:
                truth = None
            self._truth[name] = truth is not None
        return self._truth[name]

    def _filled(
        self,
        model: Model,
        protocol: Protocol,
        cell: Cell,
        timing: Timing,
        errors: EvalRow | None,
        build_s: float,
        peak_mib: float,
    ) -> BenchRow:
        info, spec = model.backend.info, model.manifest.spec
        sizes = self.data.sizes if self.data else DEFAULT_SIZES
        needed = works(protocol, sizes)
        batch_size = timing.batch_size or cell.batch_size
        rate = timing.images_per_s
        self._rates[cell.key()] = rate
        ceiling, bound = self._roof(model, protocol, cell, sizes)
        network = self._rate_of(cell, "network")
        return BenchRow(
            model=cell.subject.model,
            architecture=spec.name,
            backend=info.name,
            device=info.device,
            precision=info.precision,
            options=cell.subject.options,
            protocol=protocol.name,
            views=round(sum(work.passes_per_image for work in needed)),
            measurement=cell.measurement,  # type: ignore[arg-type]  # Sweep checked it
            batch_size=batch_size,
            batch_size_asked=cell.batch_size,
            images=round(timing.images),
            seconds=timing.seconds,
            images_per_s=rate,
            cv_pct=timing.cv_pct,
            latency_ms=timing.latency_ms,
            shapes=timing.shapes,
            peak_memory_mib=peak_mib,
            build_s=build_s,
            first_run_s=timing.first_run_s,
            gmacs=sum(work.passes_per_image * spec.macs(work.height, work.width) for work in needed) / 1e9,
            roof_images_per_s=ceiling,
            roof_fraction=rate / ceiling if ceiling else 0.0,
            bound=bound,
            network_fraction=rate / network if network else 0.0,
            joules_per_image=timing.watts / rate if rate else 0.0,
            top1_err=errors.top1_err if errors else None,
            top1_err_ci95=errors.top1_err_ci95 if errors else None,
            top1_images=errors.images if errors else 0,
            warnings=self._warnings(cell, timing, batch_size, rate / ceiling if ceiling else 0.0),
        )

    def _roof(self, model: Model, protocol: Protocol, cell: Cell, sizes: Sequence[Size]) -> tuple[float, str]:
        """Images a second that the ceilings allow, and what sets it; 0 where they are not known."""
        ceilings, info, spec = self.ceilings, model.backend.info, model.manifest.spec
        if ceilings is None or not (peak := ceilings.matmul_tflop_per_s.get(info.precision, 0.0)):
            return 0.0, ""
        seconds = {"compute": 0.0, "memory": 0.0, "transfer": 0.0, "decoding": 0.0}
        moved = 0.0
        for work in works(protocol, sizes):
            least = roof(
                spec, work.height, work.width, info.fusion, info.precision,
                tflop_per_s=peak, gb_per_s=ceilings.copy_gb_per_s, tensor_cores=info.device != "cpu",
            )  # fmt: skip
            seconds[least.bound] += work.passes_per_image * least.seconds
            moved += work.tiles_per_image * 3 * work.height * work.width
        network = seconds["compute"] + seconds["memory"]
        prepares = cell.measurement in ("memory", "files")
        if cell.measurement != "network" and ceilings.upload_gb_per_s and not (prepares and self.offload != "nothing"):
            seconds["transfer"] = moved / (ceilings.upload_gb_per_s * 1e9)  # else images or files travel, not tiles
        if prepares and ceilings.decoding and (self.offload != "decoding" or info.device == "cpu"):
            seconds["decoding"] = 1 / ceilings.decoding
        if info.device == "cpu":  # decoding and the network share the cores
            total = network + seconds["decoding"]
        else:
            total = max(network, seconds["transfer"], seconds["decoding"])
        return 1 / total, max(seconds, key=lambda name: seconds[name])

    def _rate_of(self, cell: Cell, measurement: str) -> float:
        other = Cell(subject=cell.subject, protocol=cell.protocol, batch_size=cell.batch_size, measurement=measurement)
        return self._rates.get(other.key(), 0.0) if measurement != cell.measurement else 0.0

    def _warnings(self, cell: Cell, timing: Timing, batch_size: int, roof_fraction: float) -> list[str]:
        said = []
        if batch_size < cell.batch_size:
            said.append(f"memory ran out at batch {cell.batch_size}; measured at {batch_size}")
        if timing.cv_pct > UNSTEADY_PCT:
            said.append(f"unsteady: the repeats vary by {timing.cv_pct:.1f} % (coefficient of variation)")
        if cell.measurement in ADDED:
            inner, added = ADDED[cell.measurement]
            rate = self._rate_of(cell, inner)
            if rate and timing.images_per_s < BOUND * rate:
                said.append(f"bound by {added}: {timing.images_per_s / rate:.0%} of the rate without it")
        if roof_fraction > ABOVE_ROOF:
            said.append(
                f"at {roof_fraction:.0%} of its roof: its activations stay in a cache, or a ceiling was measured too "
                "low, as happens on a busy machine"
            )
        return said


def failed(cell: Cell, error: str) -> BenchRow:
    """The row of a cell that could not be measured."""
    subject = cell.subject
    return BenchRow(
        model=subject.model,
        backend=subject.backend,
        precision=subject.precision,
        options=subject.options,
        protocol=cell.protocol,
        measurement=cell.measurement,  # type: ignore[arg-type]  # Sweep checked it
        batch_size=cell.batch_size,
        batch_size_asked=cell.batch_size,
        error=error or "failed without an error message",
    )


def _in_short(error: Exception) -> str:
    """Our own errors as they are; PyTorch's on one line, without their stack."""
    return str(error) if isinstance(error, ResnetInferError) else " ".join(str(error).split())[:300]


def describe(cell: Cell) -> str:
    """One line for progress."""
    subject = cell.subject
    options = f" ({subject.options})" if subject.options else ""
    return (
        f"{subject.model} {subject.backend} {subject.precision}{options}, {cell.protocol}, batch {cell.batch_size}: "
        f"{cell.measurement}"
    )


def image_sizes(source: Source) -> tuple[Size, ...]:
    """The (height, width) of images spread over the source; raises DataError if none of them can be read."""
    count = len(source.samples)
    found = []
    for position in sorted({count * place // MOST_SIZES for place in range(MOST_SIZES)}):
        try:
            x_CHW = decode(source.read(source.samples[position]))
        except (OSError, DataError):
            continue
        found.append((x_CHW.shape[1], x_CHW.shape[2]))
    if not found:
        raise DataError(f"{source.name}: none of {MOST_SIZES} images spread over it can be read")
    return tuple(found)


def _by_subject(cells: Sequence[Cell]) -> Iterator[tuple[Subject, list[Cell]]]:
    grouped: dict[Subject, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.subject, []).append(cell)
    yield from grouped.items()
