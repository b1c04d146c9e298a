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
from itertools import accumulate, repeat
from typing import Any

from resnet_infer.data.samples import LabelColumn, Lazy, Sample, Samples, Strings
from resnet_infer.data.source import mixed
from resnet_infer.errors import DataError
from resnet_infer.files import open_regular

SUFFIX = ".parquet"
IMAGE, LABEL = "image", "label"
ROWS = 16
"""Read at once."""
LISTED_ROWS = 2**16
BATCH_BYTES = 2**28
"""Of the rows read at once, as the file claims them: a value of a dictionary can be any number of rows."""
MAX_VALUE_BYTES = 2**30
"""That a row group's images may claim, unpacked: Arrow takes a whole page, and a dictionary, into memory."""
MAX_NAME_BYTES = 2**28
"""Of the rows' paths and classes, however they are packed, and a quarter of the files' size on top."""
ROWS_FREE, BYTES_A_ROW = 2**16, 16
"""A file has no more rows than the first and one for so many of its bytes: a few can claim billions."""
MAX_FOOTER_BYTES = 2**23
"""Arrow makes objects a hundred times as large of it."""
THRIFT = {"thrift_string_size_limit": 2**23, "thrift_container_size_limit": 2**17}


class ParquetImages:
    """The rows of one or more files."""

    left_out: Sequence[str] = ()
    labels_are_indices = True

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
        self.held_bytes = 0
        """Of a row group's images, at most."""
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
                self.held_bytes = max(self.held_bytes, _checked(path, file, column))
                most = MAX_NAME_BYTES + os.path.getsize(path) // 4
                names.add_file(file, column, most)
                for text in _labels(file, most):
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
        claim = _claimed(self._file.metadata.row_group(group), column)
        rows = max(1, min(ROWS, BATCH_BYTES // max(1, claim)))
        self._batches = self._file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False)
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

    def add_file(self, file: Any, column: str, most: int) -> None:
        """Take a file's rows, with so many bytes of names at most."""
        inside = Strings() if column != IMAGE else None
        for texts, codes in _texts(file, f"{IMAGE}.path", most) if inside is not None else ():
            for code in codes:
                inside.append((texts[code] or "") if code is not None else "")  # type: ignore[union-attr]
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
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
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


def _checked(path: str, file: Any, column: str) -> int:
    """The bytes that the images of a row group claim at most; raises DataError for what the file cannot hold."""
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    size = os.path.getsize(path)
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise DataError("its row groups have not as many rows as the file")
    if metadata.num_rows > ROWS_FREE + size // BYTES_A_ROW:
        raise DataError(f"claims {metadata.num_rows:,} rows in {size:,} bytes")
    claim = max((_claimed(group, column) for group in groups), default=0)
    if claim > MAX_VALUE_BYTES and claim > size:
        raise DataError(f"a row group claims {claim:,} bytes of images, over the limit of {MAX_VALUE_BYTES:,}")
    return claim


def _claimed(group: Any, column: str) -> int:
    """Bytes of a column in a row group, unpacked, as the file claims them."""
    chunks = (group.column(number) for number in range(group.num_columns))
    return sum(max(0, chunk.total_uncompressed_size) for chunk in chunks if chunk.path_in_schema == column)


def _labels(file: Any, most: int) -> Iterator[str | None]:
    if LABEL not in file.schema_arrow.names:
        yield from repeat(None, file.metadata.num_rows)
        return
    for texts, codes in _texts(file, LABEL, most):
        for code in codes:
            value = texts[code] if code is not None else None
            unknown = value is None or (isinstance(value, int) and value < 0)  # -1 is a test set's "not told"
            yield None if unknown else str(value)


def _texts(file: Any, column: str, most: int) -> Iterator[tuple[list[Any], Iterator[int | None]]]:
    """(distinct values, each row's position among them) of a column, so many at a time; `most` bytes in all.

    A value may be megabytes and every row's: classes are read as the dictionary that they are, and few paths at once.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    total = 0
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    claim = max((_claimed(group, column) for group in groups), default=0) if column != LABEL else 0
    rows = max(1, min(LISTED_ROWS, BATCH_BYTES // max(1, claim)))
    for batch in file.iter_batches(rows, columns=[column], use_threads=False):
        values = batch.column(0)
        values = values.field("path") if pa.types.is_struct(values.type) else values
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        texts = values.dictionary
        if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
            total += pc.sum(pc.take(pc.binary_length(texts), values.indices)).as_py() or 0
            if total > most:
                raise DataError(f"its column '{column}' has over the limit of {most:,} bytes of names")
        yield texts.to_pylist(), iter(values.indices.to_pylist())


def _opened(path: str) -> Any:
    from pyarrow import parquet

    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 8))
        footer, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic == b"PAR1" and footer > MAX_FOOTER_BYTES:
        raise DataError(f"its footer claims {footer:,} bytes, over the limit of {MAX_FOOTER_BYTES:,}")
    with parquet.ParquetFile(path, pre_buffer=False, **THRIFT) as file:
        metadata = file.metadata
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    texts = [LABEL] if (LABEL, "BYTE_ARRAY") in [(column.path, column.physical_type) for column in columns] else []
    return parquet.ParquetFile(
        path, metadata=metadata, pre_buffer=False, buffer_size=2**20, read_dictionary=texts, **THRIFT
    )


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
