"""What to measure: models x ways to run them x protocols x batch sizes x measurements, from flags or a TOML file."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from resnet_infer.backends.described import cut
from resnet_infer.bench.rows import Measurement
from resnet_infer.errors import UnknownNameError, UsageError
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.protocols import PROTOCOL_NAMES

BACKENDS = ("torch", "onnxruntime", "tensorrt")
COMPILE = ("none", "default", "max-autotune", "cuda-graphs")
RANDOM = ".random"
"""Suffix of an architecture's name for a network with random weights, as resnet50.random."""
EXPORTED = (".onnx", ".engine", ".plan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Every combination of the lists is measured, but for those that make no sense together."""

    models: tuple[str, ...] = ()
    """Checkpoint keys, files, or an architecture with random weights, as resnet50.random. The first two may have a
    description behind them, as `net.pth?arch=resnet18&mean=0.5,0.5,0.5&std=0.5,0.5,0.5`."""
    backends: tuple[str, ...] = ("torch", "onnxruntime")
    """For checkpoints; an exported file has its own."""
    precisions: tuple[str, ...] = ("fp32",)
    compile: tuple[str, ...] = ("none",)
    """Of torch: none, default, max-autotune, cuda-graphs."""
    autocast: bool = False
    """Of torch: run bf16 and fp16 under autocast as well."""
    protocols: tuple[str, ...] = PROTOCOL_NAMES
    batch_sizes: tuple[int, ...] = ()
    """In tiles of the native size; none takes 1 and 8 on a CPU, and 1 to 256 on a GPU."""
    measurements: tuple[str, ...] = ()
    """network, transfer, memory, files; none takes those that apply."""
    repeats: int = 5
    seconds: float = 1.0
    """The least duration of a repeat of the network's time."""
    images: int = 0
    """Most images of the data in a repeat; 0 is all."""

    def __post_init__(self) -> None:
        for name, known in (
            ("backends", BACKENDS),
            ("precisions", get_args(Precision)),
            ("compile", COMPILE),
            ("protocols", PROTOCOL_NAMES),
            ("measurements", get_args(Measurement)),
        ):
            for value in getattr(self, name):
                if value not in known:
                    raise UnknownNameError(name, str(value), known, f"There are {', '.join(known)}.")
        if self.repeats < 1 or not 0 < self.seconds <= 3600 or self.images < 0:
            raise UsageError("repeats must be at least 1, seconds in 0..3600, images not negative")
        if not all(1 <= size <= 2**20 for size in self.batch_sizes):
            raise UsageError(f"batch sizes must be at least 1; got {', '.join(map(str, self.batch_sizes))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model and one way to run it: what is opened once and measured several times."""

    model: str
    backend: str
    precision: str
    compile: str = "none"
    autocast: bool = False
    dense: bool = False
    """Which head an exported file has; torch serves both."""

    @property
    def options(self) -> str:
        """What differs from the defaults."""
        said = [f"compile={self.compile}"] if self.compile != "none" else []
        return ", ".join([*said, *(["autocast"] if self.autocast else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row to be measured."""

    subject: Subject
    protocol: str
    batch_size: int
    measurement: str

    def key(self) -> tuple[str, ...]:
        """As BenchRow.key."""
        subject = self.subject
        return (
            subject.model, subject.backend, subject.precision, subject.options,
            self.protocol, self.measurement, str(self.batch_size),
        )  # fmt: skip


def cells(sweep: Sweep) -> Iterator[Cell]:
    """Every row of the sweep, those of one subject together."""
    for subject, protocols in _subjects(sweep):
        for protocol in protocols:
            for batch_size in sweep.batch_sizes:
                for measurement in sweep.measurements:
                    yield Cell(subject=subject, protocol=protocol, batch_size=batch_size, measurement=measurement)


def _subjects(sweep: Sweep) -> Iterator[tuple[Subject, Sequence[str]]]:
    for model in sweep.models:
        if is_exported(model):
            backend = "onnxruntime" if _suffix(model) == ".onnx" else "tensorrt"
            yield Subject(model=model, backend=backend, precision="own"), sweep.protocols
            continue
        for backend in sweep.backends:
            for precision in sweep.precisions:
                if backend == "torch":
                    if precision in ("int8", "fp8"):
                        continue  # exports only
                    for compile in sweep.compile:
                        plain = Subject(model=model, backend=backend, precision=precision, compile=compile)
                        yield plain, sweep.protocols
                        if sweep.autocast and precision in ("bf16", "fp16"):
                            yield replace(plain, autocast=True), sweep.protocols
                    continue
                for dense in (False, True):
                    served = [name for name in sweep.protocols if (name == "multiscale") is dense]
                    if served:
                        yield Subject(model=model, backend=backend, precision=precision, dense=dense), served


def is_exported(model: str) -> bool:
    """Whether this is an exported file by its name, whatever is said behind it."""
    return _suffix(model) in EXPORTED


def _suffix(model: str) -> str:
    return Path(cut(model)[0]).suffix.lower()


def sweep_from_toml(path: Path) -> Sweep:
    """The sweep in a TOML file, whose fields are those of Sweep; raises UsageError."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a TOML file of a sweep ({error})") from error
    return sweep_with(Sweep(), values, str(path))


def sweep_with(sweep: Sweep, values: Mapping[str, Any], where: str) -> Sweep:
    """The sweep with these fields changed, their types checked; raises UsageError."""
    known = {item.name: getattr(sweep, item.name) for item in fields(Sweep)}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UnknownNameError("sweep field", name, known, f"{where}: the fields are {', '.join(known)}.")
        now = known[name]
        if isinstance(now, tuple):
            kind = int if name == "batch_sizes" else str
            if not isinstance(value, (list, tuple)) or not all(type(item) is kind for item in value):
                raise UsageError(f"{where}: {name} must be a list of {kind.__name__}; got {value!r}")
            changed[name] = tuple(dict.fromkeys(value))
        elif isinstance(now, float) and type(value) in (int, float):
            changed[name] = float(value)
        elif type(value) is type(now):
            changed[name] = value
        else:
            raise UsageError(f"{where}: {name} must be {type(now).__name__}; got {value!r}")
    return replace(sweep, **changed)
