"""Parquet files with the images' bytes in them, as Hugging Face's datasets are stored.

The column `image` holds bytes, or a struct of `bytes` and `path`; `label` a whole number, which is the model's class
index, or a name. Where the file says its classes' names (a ClassLabel), they are compared with the model's. Reading is
by row groups from their first row on, so images are best read in order.
"""

import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from resnet_infer.data.samples import LabelColumn, Lazy, Sample, Samples, Strings
from resnet_infer.data.source import mixed
from resnet_infer.errors import DataError

SUFFIX = ".parquet"
IMAGE, LABEL = "image", "label"
ROWS = 16
"""Read at once."""
LISTED_ROWS = 2**16


class ParquetImages:
    """The rows of one or more files."""

    left_out: Sequence[str] = ()

    def __init__(self, name: str, paths: Sequence[str]) -> None:
        _pyarrow()
        self.name = name
        self._paths = tuple(paths)
        self._marks: list[int] = []
        self._groups: list[tuple[int, int]] = []
        """(file, row group) in order."""
        rows: list[int] = []
        self.class_names: tuple[str, ...] = ()
        """What the files call the classes 0, 1, 2, ..., where they do."""
        self._columns: list[str] = []
        names, labels = _RowNames(self._paths), LabelColumn()
        for number, path in enumerate(self._paths):
            with _reporting(path), _opened(path) as file:
                status = os.stat(path)
                self._marks.append(mixed(status.st_size, status.st_mtime_ns))
                column, class_names = _layout(file)
                self._columns.append(column)
                if number and class_names != self.class_names:
                    raise DataError(f"its classes are named differently from {self._paths[0]}'s")
                self.class_names = class_names
                names.add_file(file, column)
                for text in _labels(file, len(class_names)):
                    labels.append(text)
                for group in range(file.num_row_groups):
                    self._groups.append((number, group))
                    rows.append(file.metadata.row_group(group).num_rows)
        self._ends = list(accumulate(rows))
        self.samples = Samples(names, labels, range(len(labels)))
        self._reading: _Reading | None = None

    def read(self, sample: Sample) -> bytes:
        """The bytes in the row."""
        at = bisect_right(self._ends, sample.key)
        row = sample.key - (self._ends[at - 1] if at else 0)
        number, group = self._groups[at]
        with _reporting(self._paths[number]):
            if self._reading is None or not self._reading.reaches(at, row):
                self._reading = None  # lets go of the other group first
                self._reading = _Reading(at, self._paths[number], group, self._columns[number])
            value = self._reading.row(row)
        if value is None:
            raise DataError("the row has no image")
        return value

    def mark(self, sample: Sample) -> int:
        """Of a row no more is known than its file's size, and when that was written."""
        number, _ = self._groups[bisect_right(self._ends, sample.key)]
        return self._marks[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reading": None}


class _Reading:
    """A row group being read from its first row on, in this process."""

    def __init__(self, number: int, path: str, group: int, column: str) -> None:
        self.number = number
        self._process = os.getpid()
        self._file = _opened(path)
        self._batches = self._file.iter_batches(ROWS, row_groups=[group], columns=[column], use_threads=False)
        self._first = 0
        self._batch: Any = None

    def reaches(self, number: int, row: int) -> bool:
        """Whether this process can go on from here to that row."""
        return (self.number, self._process) == (number, os.getpid()) and row >= self._first

    def row(self, row: int) -> bytes | None:
        """The image of a row that is reached."""
        while self._batch is None or row >= self._first + self._batch.num_rows:
            self._first += self._batch.num_rows if self._batch is not None else 0
            self._batch = next(self._batches)
        values = self._batch.column(0)
        if hasattr(values, "field"):  # a struct
            values = values.field("bytes")
        value: bytes | None = values[row - self._first].as_py()
        return value


class _RowNames(Lazy[str]):
    """`FILE/PATH` where the rows have paths, else `FILE#ROW`."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._ends = array("q")
        self._inside: list[Strings | None] = []

    def add_file(self, file: Any, column: str) -> None:
        """Take a file's rows."""
        inside = Strings() if column != IMAGE else None
        for batch in _batches(file, f"{IMAGE}.path") if inside is not None else ():
            for text in batch.field("path").to_pylist():
                inside.append(text or "")  # type: ignore[union-attr]
        self._inside.append(inside)
        self._ends.append(file.metadata.num_rows + (self._ends[-1] if self._ends else 0))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def at(self, index: int) -> str:
        """See Lazy."""
        at = bisect_right(self._ends, index)
        row = index - (self._ends[at - 1] if at else 0)
        inside = self._inside[at]
        path = inside[row] if inside is not None else ""
        return f"{self._paths[at]}/{path}" if path else f"{self._paths[at]}#{row}"


def _layout(file: Any) -> tuple[str, tuple[str, ...]]:
    """(column with the bytes, class names) of a file; raises DataError."""
    import pyarrow as pa

    schema = file.schema_arrow
    if IMAGE not in schema.names:
        raise DataError(f"has no column '{IMAGE}', but {', '.join(schema.names[:8])}; rename the one with the bytes")
    kind = schema.field(IMAGE).type
    column = IMAGE
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        kind, column = fields.get("bytes"), f"{IMAGE}.bytes"
        if "path" not in fields:
            raise DataError(f"its column '{IMAGE}' has no 'path' beside 'bytes'; store plain bytes")
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"its column '{IMAGE}' holds no encoded images (bytes, or a struct of bytes and path)")
    if LABEL in schema.names:
        kind = schema.field(LABEL).type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"its column '{LABEL}' holds {kind}; a class is a whole number or a name")
    return column, _class_names(schema.metadata or {})


def _class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """The names of a ClassLabel, from the JSON that Hugging Face's datasets leave in the schema."""
    try:
        feature = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"][LABEL]
        names = feature["names"] if feature.get("_type") == "ClassLabel" else []
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _labels(file: Any, classes: int) -> Iterator[str | None]:
    if LABEL not in file.schema_arrow.names:
        yield from [None] * file.metadata.num_rows
        return
    for batch in _batches(file, LABEL):
        for value in batch.to_pylist():
            unknown = value is None or (isinstance(value, int) and value < 0)  # -1 is a test set's "not told"
            yield None if unknown else str(value)


def _batches(file: Any, column: str) -> Iterator[Any]:
    for batch in file.iter_batches(LISTED_ROWS, columns=[column], use_threads=False):
        yield batch.column(0)


def _opened(path: str) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(path, pre_buffer=False)


class _reporting:  # noqa: N801, reads as a with statement
    """Errors of pyarrow as ours, with the file's name."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: object) -> None:
        import pyarrow as pa

        if isinstance(error, DataError):
            raise DataError(f"{self.path}: {error}") from error
        if isinstance(error, (pa.ArrowException, OSError, StopIteration, ValueError, UnicodeDecodeError)):
            raise DataError(f"{self.path}: not a readable Parquet file ({error})") from error


def _pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DataError("Parquet needs pyarrow: pip install 'resnet-infer[parquet]'") from error
