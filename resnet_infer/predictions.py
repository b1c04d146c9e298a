"""What a model said of every image, on disk: one record an image and protocol, and what they were made with.

A finished file is Parquet or JSON lines, by its suffix, with its records in order of index and, within an image, of
protocol. Its `Identity` stands in Parquet's schema metadata under the key `resnet_infer`, and in the first line of
JSON lines as `{"resnet_infer": {...}}`. Every further line, or row, has the fields of `Record`. Bytes of a name that
are no UTF-8 stand as backslash escapes. While an evaluation goes on there is a folder `FILE.parts` instead; see
`recorder.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_infer.errors import DataError
from resnet_infer.prediction_files import format_of
from resnet_infer.records import Identity, Record

__all__ = ["Identity", "Predictions", "Record", "open_predictions", "read_predictions"]


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
        raise DataError(f"{path}: cut off: image {index} of {identity.images} under {name} is missing; evaluate anew")
