"""What `resnet-infer benchmark` measures: one row a measurement, and the file of a run, which holds every repeat.

The JSON file is the source; tables, CSV and pages are made from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from resnet_infer.errors import DataError, UsageError
from resnet_infer.files import json_text, replacing
from resnet_infer.spec.manifest import MAX_BYTES, checked_json

SCHEMA = 1

Measurement = Literal["network", "transfer", "memory", "files"]
"""What is inside the time. `network`: uint8 tiles on the device to averaged probabilities. `transfer`: and their way to
the device. `memory`: from encoded images in memory, decoding and rendering included. `files`: from files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeTime:
    """One input shape of a row's network."""

    height: int
    width: int
    batch: int
    """Tiles in a batch."""
    tiles_per_image: float
    """Passes through the network at this shape that an image needs; mirrored views count."""
    ms: float
    """Median time of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One model, way to run it, protocol, batch size and measurement; or why there is none (`error`)."""

    model: str
    architecture: str = ""
    backend: str
    device: str = ""
    precision: str
    options: str = ""
    """What differs from the defaults, as `compile=max-autotune`; empty for none."""
    protocol: str
    views: int = 0
    """Passes through the network for one image."""
    measurement: Measurement
    batch_size: int
    """Tiles of the native size in a batch, as run; batches of other sizes hold as many pixels."""
    batch_size_asked: int = 0
    """Larger where memory ran out and the batch was halved."""
    images: int = 0
    """Images in one repeat."""
    seconds: Sequence[float] = ()
    """Every repeat, warm-up excluded."""
    images_per_s: float = 0.0
    """Median of the repeats."""
    cv_pct: float = 0.0
    """Coefficient of variation of the repeats, percent."""
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """p50, p90, p95, p99 of a batch; network and transfer only."""
    shapes: Sequence[ShapeTime] = ()
    peak_memory_mib: float = 0.0
    """Of the device while the row ran: CUDA memory, or the process's resident memory on a CPU."""
    build_s: float = 0.0
    """Export, calibration or engine build, where this run did one."""
    first_run_s: float = 0.0
    """The first run of every shape: compilation, autotuning, warm-up of libraries."""
    gmacs: float = 0.0
    """Multiply-adds of one image under the protocol, in units of 10^9."""
    roof_images_per_s: float = 0.0
    """What the machine's measured ceilings allow; 0 where they were not measured."""
    roof_fraction: float = 0.0
    """images_per_s over the roof, 0..1."""
    bound: str = ""
    """What sets the roof: compute, memory, transfer or decoding."""
    network_fraction: float = 0.0
    """images_per_s over the same subject's network-only rate: how busy the network is kept. 0 where unknown."""
    joules_per_image: float = 0.0
    """Of the whole GPU, host excluded; 0 where there is none or it does not tell."""
    top1_err: float | None = None
    top1_err_ci95: tuple[float, float] | None = None
    top1_images: int = 0
    """Percent, from the same run's labelled images; None where they have no classes."""
    warnings: Sequence[str] = ()
    error: str = ""

    def key(self) -> tuple[str, ...]:
        """What makes it the same measurement in another run."""
        asked = self.batch_size_asked or self.batch_size
        return (
            self.model, self.backend, self.precision, self.options, self.protocol, self.measurement, str(asked),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What this machine can do at most, measured in the same run."""

    copy_gb_per_s: float
    """Bytes read and written by a large copy on the device, per second, in units of 10^9."""
    matmul_tflop_per_s: Mapping[str, float]
    """By precision; two operations for a multiply-add, in units of 10^12."""
    upload_gb_per_s: float = 0.0
    """Pinned memory to the device; 0 on a CPU, where nothing travels."""
    decode_images_per_s_per_core: float = 0.0
    """Encoded images to pixels on one core: those that are benchmarked, or a made JPEG."""
    decode_images_per_s: float = 0.0
    """The same by worker processes on all cores at once, which may share execution units; 0 where not measured."""
    cores: int = 1

    @property
    def decoding(self) -> float:
        """Images that the processor decodes in a second; 0 where it is not known."""
        return self.decode_images_per_s or self.decode_images_per_s_per_core * self.cores


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRun:
    """One run of the benchmark: where, how, and all rows in the order in which they were measured."""

    command: str
    started: str
    """ISO 8601, UTC."""
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    """"name", "images", and "mean_height", "mean_width" in pixels; empty where random shapes were used."""
    ceilings: Ceilings | None
    rows: Sequence[BenchRow]
    seconds: float = 0.0

    def to_json(self) -> str:
        """The file's text."""
        return json_text({"schema": SCHEMA} | asdict(self), indent=1)

    def save(self, path: Path) -> None:
        """Write beside and rename: a reader never sees half a file."""
        with replacing(path) as partial:
            partial.write_text(self.to_json() + "\n", "utf-8")


def load_run(path: Path) -> BenchRun:
    """The run in this file; raises DataError if it is no benchmark's result."""
    try:
        with path.open("rb") as file:
            values = checked_json(file.read(MAX_BYTES + 1).decode("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; `resnet-infer benchmark -o DIR` writes DIR/benchmark.json") from error
    except (OSError, ValueError, RecursionError, UsageError) as error:
        raise DataError(f"{path}: not a benchmark's JSON file ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA or "rows" not in values:
        raise DataError(f"{path}: not a benchmark's result of schema {SCHEMA}; run `resnet-infer benchmark` again")
    try:
        ceilings = values["ceilings"]
        return BenchRun(
            command=_typed(values["command"], str, "command"),
            started=_typed(values["started"], str, "started"),
            environment=dict(values["environment"]),
            data=dict(values["data"]),
            ceilings=None if ceilings is None else _ceilings(ceilings),
            rows=[_row(row) for row in values["rows"]],
            seconds=_typed(values.get("seconds", 0), float, "seconds"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: its contents are not those of a benchmark ({repr(error)[:200]})") from error


def _typed(value: Any, kind: type, name: str) -> Any:
    """The value if it is a text, a whole or any finite number, as its field is; raises ValueError."""
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (kind is not str and not (0 <= value < 10**15)):
        raise ValueError(f"{name} {value!r}")
    return value


def _checked(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """These values of a dataclass, its texts and numbers checked."""
    for item in fields(cls):
        if item.name in values and item.type in (str, int, float):
            _typed(values[item.name], item.type, item.name)
    return values


def _ceilings(values: dict[str, Any]) -> Ceilings:
    for name, rate in values["matmul_tflop_per_s"].items():
        _typed(rate, float, name)
    return Ceilings(**_checked(Ceilings, values))


def _row(values: dict[str, Any]) -> BenchRow:
    known = {item.name for item in fields(BenchRow)}
    row = {name: value for name, value in values.items() if name in known}
    row["shapes"] = [ShapeTime(**_checked(ShapeTime, shape)) for shape in row.get("shapes", ())]
    if row.get("top1_err_ci95"):
        low, high = row["top1_err_ci95"]
        row["top1_err_ci95"] = (_typed(low, float, "top1_err_ci95"), _typed(high, float, "top1_err_ci95"))
    if row.get("top1_err") is not None:
        _typed(row["top1_err"], float, "top1_err")
    if row["measurement"] not in get_args(Measurement):
        raise ValueError(f"measurement {row['measurement']}")
    _checked(BenchRow, row)
    row["seconds"] = [_typed(value, float, "seconds") for value in row.get("seconds", ())]
    row["latency_ms"] = {n: _typed(ms, float, n) for n, ms in dict(row.get("latency_ms", {})).items()}
    row["warnings"] = [_typed(text, str, "warnings") for text in row.get("warnings", ())]
    return BenchRow(**row)
