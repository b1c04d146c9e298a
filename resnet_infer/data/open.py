"""A source by name: files, folders, archives, tables, lists of files, patterns and standard input.

`open_source` finds the right kind, which `data.formats` then reads in place.
"""

import codecs
import io
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from resnet_infer.console import note
from resnet_infer.data.formats.compressed import refuse_compressed
from resnet_infer.data.formats.folders import Files, folder_tree
from resnet_infer.data.formats.zip_file import MAX_BYTES
from resnet_infer.data.listings import SUFFIXES, listed, metadata_in, unlabelled
from resnet_infer.data.patterns import matching
from resnet_infer.data.reading import AS_IT_IS, Reading
from resnet_infer.data.samples import LabelColumn, Lazy, Samples, Strings, labels_of
from resnet_infer.data.source import Joined, Memory, Ordered, Part, Source, Unopened
from resnet_infer.data.splits import NAMES, files_of, in_split
from resnet_infer.errors import DataError, UsageError
from resnet_infer.files import NOT_REGULAR
from resnet_infer.spec.image_formats import IMAGE_SUFFIXES

MAX_STDIN_NAMES = 2**26
"""Bytes of names on standard input; an image there may have MAX_BYTES, as in a file."""
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def open_source(path: str | os.PathLike[str], part: Part = "test", reading: Reading = AS_IT_IS) -> Source:
    """The source at a path: folder, .zip, .tar, .parquet, list file, cifar-10-batches-py folder, or one image.

    A pattern, as `val-{000..009}.tar` or `val-*.tar`, is all the files that it names. `part` says which images of a
    cifar-10-batches-py folder are meant; the other kinds have one part. `reading` says what the files leave open.

    Raises DataError if it is missing, empty or damaged.
    """
    text = os.fspath(path)
    if not text:
        raise DataError("an input's name is empty; give a file or folder")
    if not Path(path).exists() and (paths := matching(text)):
        if not reading.merged:
            paths = files_of(paths, reading.split, text)
        sources = _opened(paths, part, reading)
        source = sources[0] if len(sources) == 1 else Joined(sources)
    else:
        source = _opened_one(text, part, reading)
    return Ordered(source, reading.class_order) if reading.class_order else source


def _opened_one(path: str, part: Part, reading: Reading) -> Source:
    where = Path(path)
    try:
        if not where.exists():
            raise DataError(f"{path}: no such file or folder")
        if not where.is_file() and not where.is_dir():
            raise DataError(f"{path}: {NOT_REGULAR}")
        source = _source_at(where, path, part, reading)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not source.samples:
        others = f"; it has {len(source.left_out)} other files, as {source.left_out[0]}" if source.left_out else ""
        raise DataError(f"{path}: no images in it{others}. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return source


def _source_at(where: Path, path: str, part: Part, reading: Reading) -> Source:
    from resnet_infer.data.formats import archives, cifar10, parquet_images, webdataset

    suffix = where.suffix.lower()
    if where.is_dir():
        if cifar10.Cifar10.fits(where):
            return cifar10.Cifar10(where, _part(reading.split, path) if reading.split else part)
        source = Files(str(where), *folder_tree(where))
        tables = [name for name in source.left_out if name.lower().endswith(parquet_images.SUFFIX)]
        if tables and not source.samples:
            paths = [str(where / name) for name in sorted(tables)]
            if not reading.merged or reading.split:
                paths = files_of(paths, reading.split, path, root=str(where))
            return parquet_images.ParquetImages(path, paths)
        if (metadata := metadata_in(where)) and unlabelled(labels_of(source.samples)):
            note(f"{path}: its classes are those of {metadata.name}")
            return _list_file(metadata)
        return _of_split(source, reading)
    if suffix == parquet_images.SUFFIX:
        return parquet_images.ParquetImages(path, [path])
    refuse_compressed(path)
    if where.name.lower().endswith(TAR_SUFFIXES):
        return (
            webdataset.Shards(path, [path])
            if webdataset.are_shards(path)
            else _of_split(archives.Archive(where), reading)
        )
    if suffix == ".zip":
        return _of_split(archives.Archive(where), reading)
    return _list_file(where) if suffix in SUFFIXES else _single_files([path])


def _of_split(source: Source, reading: Reading) -> Source:
    return source if reading.merged and reading.split is None else in_split(source, reading.split)


def _part(split: str, path: str) -> Part:
    known = NAMES.get(split.lower())
    if known not in ("train", "test"):
        raise DataError(f"{path}: --split {split} is not one of its splits: train, test")
    return "train" if known == "train" else "test"


def _opened(paths: Sequence[str], part: Part, reading: Reading) -> list[Source]:
    """Sources of these paths in order; shards, tables and single images that follow one another make one source."""
    from resnet_infer.data.formats import parquet_images, webdataset

    sources: list[Source] = []
    for kind, group in groupby(paths, _kind):
        some = list(group)
        if kind == "image":
            sources.append(_single_files(some))
        elif kind == "table" and len(some) > 1:
            sources.append(parquet_images.ParquetImages(f"{len(some)} tables", some))
        elif kind == "tar" and len(some) > 1 and webdataset.are_shards(some[0]):
            sources.append(webdataset.Shards(f"{len(some)} shards", some))
        else:
            sources += [_opened_one(path, part, reading) for path in some]
    return sources


def _kind(path: str) -> str:
    """What a path is by its name, where that needs no look inside."""
    suffix = os.path.splitext(path)[1].lower()
    kinds = {".tar": "tar", ".parquet": "table"} | dict.fromkeys(IMAGE_SUFFIXES, "image")
    kind = kinds.get(suffix, "")
    return kind if kind and os.path.isfile(path) else ""


def open_inputs(
    inputs: Sequence[str],
    stdin: BinaryIO,
    part: Part = "test",
    reading: Reading = AS_IT_IS,
    *,
    keep_going: bool = False,
) -> Source:
    """All of a command's inputs in order: paths, patterns like 'photos/*.jpg', and `-` for standard input.

    Standard input is one encoded image, or text with a path a line. With `keep_going`, an input that cannot be opened
    is an image that cannot be read, unless none can. Raises DataError, and UsageError for what standard input has.
    """
    sources: list[Source] = []
    first: DataError | None = None
    for given in inputs:
        try:
            if given == "-":
                sources += _standard_input(stdin, reading)
            else:
                sources.append(open_source(given, part, reading))
        except DataError as error:
            if not keep_going:
                raise
            first = first or error
            sources.append(Unopened(given, str(error)))
    if first and all(isinstance(source, Unopened) for source in sources):
        raise first
    return sources[0] if len(sources) == 1 else Joined(sources)


def _single_files(paths: Sequence[str]) -> Files:
    names = Strings(paths)
    title = paths[0] if len(paths) == 1 else f"{len(paths)} files"
    return Files(title, Samples(names, LabelColumn([None] * len(paths)), names))


def _list_file(path: Path) -> Files:
    names, labels = listed(path)
    files = Files(str(path), Samples(names, labels, _Beside(path.parent, names)))
    files.labels_are_indices = True
    return files


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


def _standard_input(stdin: BinaryIO, reading: Reading) -> list[Source]:
    data = stdin.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UsageError(f"-: standard input has over the limit of {MAX_BYTES:,} bytes for an image")
    if not data.strip():
        raise UsageError("-: standard input is empty; pipe in an image, or paths of images, one a line")
    if not _is_text(data):
        return [Memory("standard input", [("-", data)])]
    if len(data) > MAX_STDIN_NAMES:
        raise UsageError(
            f"-: standard input has over the limit of {MAX_STDIN_NAMES:,} bytes for names; give a list file"
        )
    lines = (line.decode("utf-8").strip() for line in io.BytesIO(data))
    return _opened(Strings(line for line in lines if line), "test", reading)


def _is_text(data: bytes) -> bool:
    """Whether it is UTF-8 without NUL; looked at in pieces, since text can take four times the room of its bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(data), 2**20):
            decoder.decode(data[at : at + 2**20], final=at + 2**20 >= len(data))
    except UnicodeDecodeError:
        return False
    return b"\0" not in data
