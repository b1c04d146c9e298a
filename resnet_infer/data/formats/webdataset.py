"""Shards as WebDataset writes them: tar files of samples whose parts share a name and follow one another.

`0001.jpg` and `0001.cls` are one image and its class. A class is a whole number, which is the model's class index, or
a name; it stands in `.cls`, or in a field of `.json`. https://github.com/webdataset/webdataset
"""

import json
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath

from resnet_infer.data.formats.byte_ranges import FileWindow
from resnet_infer.data.formats.tar_file import header_crc, read_member, tar_members
from resnet_infer.data.formats.zip_file import MAX_BYTES
from resnet_infer.data.samples import LabelColumn, Lazy, Places, Sample, Samples, Strings
from resnet_infer.data.source import mixed
from resnet_infer.errors import DataError
from resnet_infer.spec.image_formats import IMAGE_SUFFIXES

FIELDS = ("label", "cls", "class", "class_id", "class_name")
"""Of a `.json` part, the first that is there."""
LOOKED_AT = 64
"""Members from which it is told whether a tar file is a shard."""
MAX_CLASS_BYTES, MAX_JSON_BYTES = 2**12, 2**20


class Shards:
    """Images of several tar files, in the order of the files and in theirs."""

    labels_are_indices = True

    def __init__(self, name: str, paths: Sequence[str]) -> None:
        self.name = name
        self.left_out = Strings()
        self._windows: list[FileWindow] = []
        self._names, self._labels = Strings(), LabelColumn()
        self._places = [array("q") for _ in range(3)]
        for path in paths:
            try:
                self._list(path)
            except DataError as error:
                raise DataError(f"{path}: {error}") from error
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        self.samples = Samples(
            _InShards(self._names, [window.path for window in self._windows], self._places[0]),
            self._labels,
            Places(*self._places),
        )

    def read(self, sample: Sample) -> bytes:
        """The image's bytes."""
        shard, offset, size = sample.key
        if size > MAX_BYTES:
            raise DataError(f"claims {size:,} bytes in the tar file, over the limit of {MAX_BYTES:,}")
        return read_member(self._windows[shard], (offset, size))

    def mark(self, sample: Sample) -> int:
        """Of the member's header, and when the shard was written."""
        shard, offset, size = sample.key
        window = self._windows[shard]
        return mixed(size, header_crc(window, offset), window.written_ns)

    def _list(self, path: str) -> None:
        window = FileWindow(path)
        self._windows.append(window)
        for key, parts in _grouped(window):
            image = next((ending for ending in parts if f".{ending}" in IMAGE_SUFFIXES), None)
            if image is None:
                for ending in parts:
                    self.left_out.append(f"{path}/{key}.{ending}")
                continue
            self._names.append(f"{key}.{image}")
            self._labels.append(_label(window, key, parts))
            for column, value in zip(self._places, (len(self._windows) - 1, *parts[image]), strict=True):
                column.append(value)


class _InShards(Lazy[str]):
    """Names of members behind the paths of their shards, which are kept once."""

    def __init__(self, names: Strings, paths: Sequence[str], shard: "array[int]") -> None:
        self._names = names
        self._paths = paths
        self._shard = shard

    def __len__(self) -> int:
        return len(self._names)

    def at(self, index: int) -> str:
        """See Lazy."""
        return f"{self._paths[self._shard[index]]}/{self._names[index]}"


def are_shards(path: str) -> bool:
    """Whether a tar file's first images have their class beside them in a `.cls` or `.json` part."""
    try:
        window = FileWindow(path)
        for key, parts in islice(_grouped(window), LOOKED_AT):
            if any(f".{ending}" in IMAGE_SUFFIXES for ending in parts) and _label(window, key, parts) is not None:
                return True
    except (DataError, OSError):
        pass  # said when it is read as a tar file
    return False


def _grouped(window: FileWindow) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """(key, place of each part by its ending) of every sample; an ending that comes again begins another sample."""
    key = ""
    parts: dict[str, tuple[int, int]] = {}
    for name, place in tar_members(window):
        path = PurePosixPath(name)
        stem, _, ending = path.name.partition(".")
        own = str(path.with_name(stem)) if stem else ""
        if not own or place is None:  # hidden, or a link
            continue
        ending = ending.lower()
        if parts and (own != key or ending in parts):
            yield key, parts
            parts = {}
        key = own
        parts[ending] = place
    if parts:
        yield key, parts


def _label(window: FileWindow, key: str, parts: dict[str, tuple[int, int]]) -> str | None:
    """The class that a sample's parts say; None if they say none. Raises DataError for one that cannot be read."""
    for ending, most in (("cls", MAX_CLASS_BYTES), ("json", MAX_JSON_BYTES)):
        if ending not in parts:
            continue
        offset, size = parts[ending]
        if size > most:
            raise DataError(f"{key}.{ending}: {size:,} bytes are over the limit of {most:,}")
        try:
            text = read_member(window, (offset, size)).decode("utf-8").strip()
            value = text if ending == "cls" else _from_json(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{key}.{ending}: cannot be read ({error})") from error
        if value and len(value) > MAX_CLASS_BYTES:
            raise DataError(f"{key}.{ending}: a class of over {MAX_CLASS_BYTES:,} characters")
        if value:
            return str(int(value)) if value.isdecimal() else value
    return None


def _from_json(text: str) -> str | None:
    values = json.loads(text)
    for field in FIELDS if isinstance(values, dict) else ():
        value = values.get(field)
        if isinstance(value, str) or type(value) is int:
            return str(value)
    return None
