"""What a reader of a benchmark asks of its rows: the fastest, the price of a protocol, where the time goes."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from resnet_infer.bench.rows import BenchRow, BenchRun, Measurement
from resnet_infer.report.quantities import memory
from resnet_infer.spec.protocols import PROTOCOL_NAMES

MEASUREMENTS: tuple[Measurement, ...] = get_args(Measurement)
"""From the network alone outwards; each holds all that the one before it does."""
INSIDE: Mapping[str, str] = {
    "network": "network only",
    "transfer": "with the way to the device",
    "memory": "from encoded images in memory",
    "files": "from files",
}
"""In plain words, what is inside the time."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """A model and a way to run it."""

    model: str
    backend: str
    precision: str
    options: str
    device: str

    @property
    def way(self) -> str:
        """How it runs, in one phrase: `torch bf16 compile=max-autotune`."""
        return " ".join(part for part in (self.backend, self.precision, self.options) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A protocol of one series: what it costs beside a single crop, and what it gains."""

    protocol: str
    views: int
    gmacs: float
    macs_multiple: float
    """Multiply-adds over those of a single crop; 0 where unknown."""
    fastest: Mapping[Measurement, BenchRow]
    cost: Mapping[Measurement, float]
    """The single crop's rate over this one's, at the best batch size of each."""
    scored: BenchRow | None
    """A row with its top-1 error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """One series under one protocol at one batch size, from the network alone to the whole path."""

    series: Series
    protocol: str
    batch_size: int
    steps: Sequence[BenchRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The fastest rows of an architecture under a protocol: the network alone, and the longest path measured."""

    architecture: str
    protocol: str
    network: BenchRow | None
    path: BenchRow | None


def measured(rows: Iterable[BenchRow]) -> list[BenchRow]:
    """The rows that have a rate."""
    return [row for row in rows if not row.error and row.images_per_s > 0]


def failed(rows: Iterable[BenchRow]) -> list[BenchRow]:
    """The rows that say why there is none."""
    return [row for row in rows if row.error or row.images_per_s <= 0]


def fastest(rows: Iterable[BenchRow]) -> BenchRow | None:
    """The row of the highest rate, of equals the first."""
    return max(measured(rows), key=lambda row: row.images_per_s, default=None)


def grouped(rows: Iterable[BenchRow], key: Callable[[BenchRow], Key]) -> dict[Key, list[BenchRow]]:
    """Rows by key, keys and rows in the order in which they come."""
    groups: dict[Key, list[BenchRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def series_of(row: BenchRow) -> Series:
    """Whose row it is."""
    return Series(row.model, row.backend, row.precision, row.options, row.device)


def architecture_of(row: BenchRow) -> str:
    """The architecture, or the model's name where it is not known."""
    return row.architecture or row.model


def asked(row: BenchRow) -> int:
    """The batch size that was asked for."""
    return row.batch_size_asked or row.batch_size


def batch_text(row: BenchRow) -> str:
    """The batch size that ran, and in brackets the one asked for where memory did not allow it."""
    return f"{row.batch_size} ({asked(row)})" if asked(row) != row.batch_size else str(row.batch_size)


def protocol_rank(protocol: str) -> tuple[int, str]:
    """The paper's order, then others by name."""
    known = PROTOCOL_NAMES.index(protocol) if protocol in PROTOCOL_NAMES else len(PROTOCOL_NAMES)
    return known, protocol


def labels(rows: Iterable[BenchRow]) -> dict[Series, str]:
    """A short name for every series: how it runs, with the model and the device only where that is not enough."""
    all_series = list(dict.fromkeys(series_of(row) for row in rows))
    ways = Counter(series.way for series in all_series)
    named = Counter((series.model, series.way) for series in all_series)
    return {
        series: (f"{series.model}, " if ways[series.way] > 1 and len({s.model for s in all_series}) > 1 else "")
        + series.way
        + (f" on {series.device}" if named[series.model, series.way] > 1 else "")
        for series in all_series
    }


def ladders(rows: Iterable[BenchRow]) -> dict[Series, list[Rung]]:
    """The protocols of every series that ran by more than one, cheapest views first."""
    found: dict[Series, list[Rung]] = {}
    for series, own in grouped(measured(rows), series_of).items():
        by_protocol = grouped(own, lambda row: row.protocol)
        if len(by_protocol) > 1:
            single = by_protocol.get("single-crop", [])
            ordered = sorted(by_protocol, key=protocol_rank)
            found[series] = [_rung(name, by_protocol[name], single) for name in ordered]
    return found


def _rung(protocol: str, rows: Sequence[BenchRow], single: Sequence[BenchRow]) -> Rung:
    best = {name: row for name in MEASUREMENTS if (row := fastest(of(rows, name)))}
    crop = {name: row for name in MEASUREMENTS if (row := fastest(of(single, name)))}
    gmacs = max(row.gmacs for row in rows)
    crop_gmacs = max((row.gmacs for row in single), default=0.0)
    return Rung(
        protocol=protocol,
        views=max(row.views for row in rows),
        gmacs=gmacs,
        macs_multiple=gmacs / crop_gmacs if crop_gmacs else 0.0,
        fastest=best,
        cost={name: crop[name].images_per_s / row.images_per_s for name, row in best.items() if name in crop},
        scored=next((row for row in rows if row.top1_err is not None), None),
    )


def of(rows: Iterable[BenchRow], measurement: Measurement) -> list[BenchRow]:
    """The rows of one measurement."""
    return [row for row in rows if row.measurement == measurement]


def waterfalls(rows: Iterable[BenchRow]) -> list[Waterfall]:
    """Every series and protocol with several measurements, at the batch size with most of them.

    Where batch sizes have equally many, the one whose longest path is fastest.
    """
    found = []
    for (series, protocol), own in grouped(measured(rows), lambda row: (series_of(row), row.protocol)).items():
        steps = [
            [row for name in MEASUREMENTS if (row := fastest(of(same, name)))] for same in grouped(own, asked).values()
        ]
        chosen = max(steps, key=lambda each: (len(each), each[-1].images_per_s))
        if len(chosen) > 1:
            found.append(Waterfall(series=series, protocol=protocol, batch_size=asked(chosen[0]), steps=chosen))
    return found


def bests(rows: Iterable[BenchRow]) -> list[Best]:
    """The fastest of every architecture and protocol."""
    found = []
    groups = grouped(measured(rows), lambda row: (architecture_of(row), row.protocol))
    order = list(dict.fromkeys(architecture for architecture, _ in groups))
    for architecture, protocol in sorted(groups, key=lambda key: (order.index(key[0]), protocol_rank(key[1]))):
        own = groups[architecture, protocol]
        network = fastest(of(own, "network"))
        longest: Measurement = next((name for name in reversed(MEASUREMENTS) if of(own, name)), "network")
        path = fastest(of(own, longest)) if longest != "network" else None
        found.append(Best(architecture=architecture, protocol=protocol, network=network, path=path))
    return found


def hardware(run: BenchRun) -> str:
    """What the rows ran on, in a few words: the GPU where one was used, and the processor."""
    environment = run.environment
    cores = environment.get("cores") or (run.ceilings.cores if run.ceilings else 0)
    cpu = str(environment.get("cpu") or "an unnamed processor")
    processor = f"{cpu}, {cores} core{'s' if cores != 1 else ''}" if cores else cpu
    names = Counter(str(gpu.get("name", "GPU")) for gpu in environment.get("gpus", ()) if isinstance(gpu, Mapping))
    devices = {row.device for row in run.rows if row.device} or {"cuda" for _ in names}
    if not any(device.startswith("cuda") for device in devices):
        return processor
    gpus = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in names.items())
    return f"{gpus or 'a GPU'} with {processor}"


def facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as lines: names joined by spaces, values as text."""
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        said = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            lines += facts(value, "" if name == "packages" else f"{said} ")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for number, item in enumerate(value):
                which = f"{said.removesuffix('s')} {number} " if len(value) > 1 else f"{said.removesuffix('s')} "
                lines += facts(item, which) if isinstance(item, Mapping) else [(which.strip(), str(item))]
        elif said.endswith(" mib"):
            lines.append((said.removesuffix(" mib"), memory(float(value))))
        elif value not in (None, ""):
            lines.append((said, str(value)))
    return lines
