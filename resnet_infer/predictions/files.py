"""The two forms of a predictions file, Parquet and JSON lines: written whole or not at all, read record by record."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resnet_infer.errors import DataError, UsageError
from resnet_infer.files import json_text, utf8
from resnet_infer.predictions.checks import check_of, contradiction
from resnet_infer.predictions.records import KEY, Identity, Record

BATCH = 4096
"""Records that are turned into columns, or back, at once."""


class Form(Protocol):
    """How records lie in a file."""

    suffix: str

    def write(self, path: Path, identity: Identity, records: Iterable[Record]) -> None:
        """Write a file that is on the disk when this returns; the caller puts it in place."""
        ...

    def open(self, path: Path) -> tuple[Identity, Iterator[Record]]:
        """The header, and the records; both raise DataError for a damaged file."""
        ...


def format_of(path: Path) -> Form:
    """The form that the suffix says; raises UsageError for another suffix, or if pyarrow is missing."""
    suffix = path.suffix.lower()
    if suffix == JsonLines.suffix:
        return JsonLines()
    if suffix == Parquet.suffix:
        return Parquet()
    raise UsageError(f"{path}: predictions end in .parquet or .jsonl")


class JsonLines:
    """One JSON object a line, the first with the identity; plain text to any tool."""

    suffix = ".jsonl"

    def write(self, path: Path, identity: Identity, records: Iterable[Record]) -> None:
        """As `Form.write`."""
        with path.open("w", encoding="ascii") as file:
            file.write(f'{{"{KEY}": {identity.to_json()}}}\n')
            for record in records:
                file.write(json_text(_values(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def open(self, path: Path) -> tuple[Identity, Iterator[Record]]:
        """As `Form.open`; a last line without its end is damage."""
        lines = self._lines(path)
        first = next(lines, None)
        try:
            header = json.loads(first[1])[KEY] if first else None
        except (ValueError, KeyError, TypeError, RecursionError):
            header = None
        identity = Identity.from_json(json.dumps(header), str(path))
        return identity, self._records(path, lines, identity)

    @staticmethod
    def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        raise DataError(f"{path}: cut off in line {number}")
                    yield number, line
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such file") from error

    @staticmethod
    def _records(path: Path, lines: Iterator[tuple[int, bytes]], identity: Identity) -> Iterator[Record]:
        for number, line in lines:
            try:
                yield _record(json.loads(line), identity)
            except _MALFORMED as error:
                raise DataError(f"{path}: line {number} is not a record ({error})") from error


class Parquet:
    """Columns by the names of `Record`'s fields, `probs` for `probs_K`."""

    suffix = ".parquet"

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UsageError("Parquet needs pyarrow: pip install 'resnet-infer[parquet]', or write .jsonl") from error
        self._arrow, self._parquet = pyarrow, pyarrow.parquet

    def write(self, path: Path, identity: Identity, records: Iterable[Record]) -> None:
        """As `Form.write`."""
        schema = self.schema(identity.probabilities).with_metadata({KEY: identity.to_json()})
        waiting = iter(records)
        with path.open("wb") as file:
            with self._parquet.ParquetWriter(file, schema) as writer:
                while batch := list(itertools.islice(waiting, BATCH)):
                    writer.write_table(self.table(batch, schema))
            file.flush()
            os.fsync(file.fileno())

    def open(self, path: Path) -> tuple[Identity, Iterator[Record]]:
        """As `Form.open`."""
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        try:
            header = self._parquet.read_schema(path).metadata or {}
        except (self._arrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path}: no Parquet file, or damaged ({error})") from error
        identity = Identity.from_json(header.get(KEY.encode(), b"null"), str(path))
        return identity, self._records(path, identity)

    def _records(self, path: Path, identity: Identity) -> Iterator[Record]:
        try:
            with self._parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH):
                    yield from (_record(values, identity) for values in batch.to_pylist())
        except (self._arrow.ArrowException, OSError, *_MALFORMED) as error:
            raise DataError(f"{path}: damaged ({error})") from error

    def schema(self, probabilities: bool) -> Any:
        """The columns and their types."""
        a = self._arrow
        columns = [
            ("index", a.int64()),
            ("protocol", a.string()),
            ("name", a.string()),
            ("label", a.string()),
            ("truth", a.int32()),
            ("rank", a.int32()),
            ("truth_prob", a.float32()),
            ("top_classes", a.list_(a.int32())),
            ("top_probs", a.list_(a.float32())),
            ("error", a.string()),
            ("warning", a.string()),
            ("content_sha256", a.string()),
            ("source_mark", a.int64()),
            ("check", a.uint32()),
        ]
        return a.schema([*columns, ("probs", a.list_(a.float32()))] if probabilities else columns)

    def table(self, records: list[Record], schema: Any) -> Any:
        """Records as columns."""
        own = [name for name in schema.names if name not in ("check", "probs")]
        columns: dict[str, list[Any]] = {name: [getattr(record, name) for record in records] for name in own}
        for name in ("name", "label", "error", "warning"):
            columns[name] = [None if text is None else utf8(text) for text in columns[name]]
        columns["check"] = [check_of(record) for record in records]
        if "probs" in schema.names:
            columns["probs"] = [record.probs_K for record in records]
        return self._arrow.Table.from_pydict(columns, schema=schema)


def _values(record: Record) -> dict[str, Any]:
    """A line's content: `Record`'s fields, `probs` for `probs_K`. Nine digits tell any two float32 apart."""
    values: dict[str, Any] = {
        "index": record.index,
        "protocol": record.protocol,
        "name": record.name,
        "label": record.label,
        "truth": record.truth,
        "rank": record.rank,
        "truth_prob": None if record.truth_prob is None else float(f"{record.truth_prob:.9g}"),
        "top_classes": list(record.top_classes),
        "top_probs": [float(f"{prob:.9g}") for prob in record.top_probs],
        "error": record.error,
        "warning": record.warning,
        "content_sha256": record.content_sha256,
        "source_mark": record.source_mark,
        "check": check_of(record),
    }
    if record.probs_K is not None:
        values["probs"] = [float(f"{prob:.9g}") for prob in record.probs_K.tolist()]
    return values


_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def _record(values: dict[str, Any], identity: Identity) -> Record:
    """Raises one of `_MALFORMED` for a record that is none, is not the one that was written, or cannot be true."""
    probs = values.pop("probs", None)
    truth_prob = values.pop("truth_prob")
    check = values.pop("check", None)  # earlier releases wrote none
    record = Record(
        **values | {"top_classes": tuple(values["top_classes"])} | {"top_probs": _float32(values["top_probs"])},
        truth_prob=None if truth_prob is None else float(np.float32(truth_prob)),
        probs_K=None if probs is None else np.asarray(probs, np.float32),
    )
    if check is not None and check != check_of(record):
        raise ValueError("its checksum differs")
    if reason := contradiction(record, identity):
        raise ValueError(reason)
    return record


def _float32(values: list[float]) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float32).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """A finished file, read whole."""

    identity: Identity
    records: Mapping[str, Sequence[Record]]
    """By protocol, one an image, in order of index."""


def read_predictions(path: Path) -> Predictions:
    """The whole file; raises UsageError if it is missing or of another kind, DataError if it is damaged or cut off."""
    identity, records = open_predictions(path)
    found: dict[str, list[Record]] = {name: [] for name in identity.protocol_names}
    for record in records:
        found[record.protocol].append(record)
    return Predictions(identity=identity, records=found)


def open_predictions(path: Path) -> tuple[Identity, Iterator[Record]]:
    """The identity, and the records one after another, however many; raises as `read_predictions`.

    That the file is whole shows at its end: the iterator raises DataError if records are missing.
    """
    identity, records = format_of(path).open(path)
    return identity, _whole(path, identity, records)


def _whole(path: Path, identity: Identity, records: Iterator[Record]) -> Iterator[Record]:
    names = identity.protocol_names
    expected = ((index, name) for index in range(identity.images) for name in names)
    for record in records:
        if (record.index, record.protocol) != next(expected, None):
            raise DataError(f"{path}: damaged: image {record.index} under {record.protocol} is out of place")
        yield record
    for index, name in expected:
        raise DataError(f"{path}: cut off: image {index} of {identity.images} under {name} is missing; evaluate again")
