"""Where images come from: files, folders, lists of files and standard input, each read in place.

A source lists its samples once, in columns, and reads one at a time. Sources travel to worker processes, so they hold
names and offsets, never a position in an open file. `open_source` finds the right kind.
"""

import io
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.patterns import matching
from resnet_infer.data.samples import Chosen, Labels, Lazy, Sample, Samples, Strings
from resnet_infer.data.trees import IMAGE_SUFFIXES, classified, folder_tree
from resnet_infer.data.zips import MAX_BYTES
from resnet_infer.errors import DataError, UsageError

Pixels = NDArray[np.uint8]
"""(height, width, 3), RGB."""
Part = Literal["train", "test"]

LIST_SUFFIXES = (".txt", ".tsv", ".lst", ".list")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Source(Protocol):
    """A collection of images."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def samples(self) -> Sequence[Sample]:
        """Its images, in a fixed order."""
        ...

    @property
    def left_out(self) -> Sequence[str]:
        """Files that were not taken for images because of their suffix."""
        ...

    def read(self, sample: Sample) -> bytes | Pixels:
        """The encoded image, or its pixels; raises OSError or DataError."""
        ...


class Files:
    """Image files by path, or a folder of them with one folder per class."""

    def __init__(self, name: str, samples: Sequence[Sample], left_out: Sequence[str] = ()) -> None:
        self.name = name
        self.samples = samples
        self.left_out = left_out

    def read(self, sample: Sample) -> bytes:
        """The file's bytes."""
        try:
            with open(sample.key, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except ValueError as error:  # a NUL in it
            raise DataError(f"no path can be so named ({error})") from error
        if len(data) > MAX_BYTES:
            raise DataError(f"has more than the limit of {MAX_BYTES:,} bytes")
        return data


class Memory:
    """Images whose bytes are already here."""

    left_out = ()

    def __init__(self, name: str, images: Sequence[tuple[str, bytes | Pixels]]) -> None:
        self.name = name
        self.samples = [Sample(name=title, key=index) for index, (title, _) in enumerate(images)]
        self._images: list[Any] = [image for _, image in images]

    def read(self, sample: Sample) -> bytes | Pixels:
        """The bytes or pixels given."""
        image: bytes | Pixels = self._images[sample.key]
        return image


class Joined:
    """Several sources one after another."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.name = sources[0].name if len(sources) == 1 else f"{len(sources)} inputs"
        self.samples = Chosen([source.samples for source in sources], _part_and_sample)
        self.left_out = Strings(name for source in sources for name in source.left_out)
        self._sources = sources

    def read(self, sample: Sample) -> bytes | Pixels:
        """What the sample's own source reads."""
        index: int
        own: Sample
        index, own = sample.key
        return self._sources[index].read(own)


class Subset:
    """Some images of a source, in the order of the given positions."""

    left_out = ()

    def __init__(self, name: str, source: Source, positions: Sequence[int]) -> None:
        self.name = name
        self.samples = Chosen([source.samples], _own_key, positions)
        self._source = source

    def read(self, sample: Sample) -> bytes | Pixels:
        """What the source reads."""
        return self._source.read(sample)


def _part_and_sample(part: int, within: int, sample: Sample) -> tuple[int, Sample]:
    return part, sample


def _own_key(part: int, within: int, sample: Sample) -> Any:
    return sample.key


def open_source(path: str | os.PathLike[str], part: Part = "test") -> Source:
    """The source at a path: folder, .zip, .tar, .parquet, list file, cifar-10-batches-py folder, or one image.

    A pattern, as `val-{000..009}.tar` or `val-*.tar`, is all the files that it names. `part` says which images of a
    cifar-10-batches-py folder are meant; the other kinds have one part.

    Raises DataError if it is missing, empty or damaged.
    """
    text = os.fspath(path)
    if not text:
        raise DataError("an input's name is empty; give a file or folder")
    if not Path(path).exists() and (paths := matching(text)):
        sources = _opened(paths, part)
        return sources[0] if len(sources) == 1 else Joined(sources)
    return _opened_one(text, part)


def _opened_one(path: str, part: Part) -> Source:
    where = Path(path)
    try:
        if not where.exists():
            raise DataError(f"{path}: no such file or folder")
        source = _source_at(where, path, part)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not source.samples:
        others = f"; it has {len(source.left_out)} other files, as {source.left_out[0]}" if source.left_out else ""
        raise DataError(f"{path}: no images in it{others}. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return source


def _source_at(where: Path, path: str, part: Part) -> Source:
    from resnet_infer.data import archives, cifar10, parquet, shards

    suffix = where.suffix.lower()
    if where.is_dir():
        if cifar10.Cifar10.fits(where):
            return cifar10.Cifar10(where, part)
        source = Files(str(where), *folder_tree(where))
        tables = [name for name in source.left_out if name.lower().endswith(parquet.SUFFIX)]
        if tables and not source.samples:
            return parquet.Parquet(path, [str(where / name) for name in sorted(tables)])
        return source
    if suffix == parquet.SUFFIX:
        return parquet.Parquet(path, [path])
    if where.name.lower().endswith(TAR_SUFFIXES):
        return shards.Shards(path, [path]) if shards.are_shards(path) else archives.Archive(where)
    if suffix == ".zip":
        return archives.Archive(where)
    return _list_file(where) if suffix in LIST_SUFFIXES else _single_files([path])


def _opened(paths: Sequence[str], part: Part) -> list[Source]:
    """Sources of these paths in order; shards, tables and single images that follow one another make one source."""
    from resnet_infer.data import parquet, shards

    sources: list[Source] = []
    for kind, group in groupby(paths, _kind):
        some = list(group)
        if kind == "image":
            sources.append(_single_files(some))
        elif kind == "table" and len(some) > 1:
            sources.append(parquet.Parquet(f"{len(some)} tables", some))
        elif kind == "tar" and len(some) > 1 and shards.are_shards(some[0]):
            sources.append(shards.Shards(f"{len(some)} shards", some))
        else:
            sources += [_opened_one(path, part) for path in some]
    return sources


def _kind(path: str) -> str:
    """What a path is by its name, where that needs no look inside."""
    suffix = os.path.splitext(path)[1].lower()
    kinds = {".tar": "tar", ".parquet": "table"} | dict.fromkeys(IMAGE_SUFFIXES, "image")
    kind = kinds.get(suffix, "")
    return kind if kind and os.path.isfile(path) else ""


def open_inputs(inputs: Sequence[str], stdin: BinaryIO, part: Part = "test") -> Source:
    """All of a command's inputs in order: paths, patterns like 'photos/*.jpg', and `-` for standard input.

    Standard input is one encoded image, or text with a path a line.
    """
    sources: list[Source] = []
    for given in inputs:
        if given == "-":
            sources += _standard_input(stdin)
        elif given and not Path(given).exists() and (paths := matching(given)):
            sources += _opened(paths, part)
        else:
            sources.append(open_source(given, part))
    return sources[0] if len(sources) == 1 else Joined(sources)


def _single_files(paths: Sequence[str]) -> Files:
    names = Strings(paths)
    title = paths[0] if len(paths) == 1 else f"{len(paths)} files"
    return Files(title, Samples(names, Labels([None] * len(paths)), names))


def _list_file(path: Path) -> Files:
    names, labels = Strings(), Labels()
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line in file:  # only "\n" ends one: other separators may be part of a name
                if line.strip():
                    name, _, label = line.rstrip("\n").rstrip("\r").partition("\t")
                    names.append(name)
                    labels.append(label.strip() or None)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file; a list has one `path<TAB>label` a line") from error
    return Files(str(path), Samples(names, labels, _Beside(path.parent, names)))


class _Beside(Lazy[str]):
    """Paths relative to a folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def at(self, index: int) -> str:
        """See Lazy."""
        return str(self._folder / self._names[index])


def _standard_input(stdin: BinaryIO) -> list[Source]:
    data = stdin.read()
    if not data.strip():
        raise UsageError("-: standard input is empty; pipe in an image, or paths of images, one a line")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return [Memory("standard input", [("-", data)])]
    return _opened([line.strip() for line in io.StringIO(text) if line.strip()], "test")


__all__ = [
    "IMAGE_SUFFIXES",
    "Files",
    "Joined",
    "Memory",
    "Part",
    "Pixels",
    "Sample",
    "Source",
    "Subset",
    "classified",
    "open_inputs",
    "open_source",
]
