"""Where images come from: files, folders, lists of files and standard input, each read in place.

A source lists its samples once and reads one at a time. Sources travel to worker processes, so they hold names
and offsets, never open files. Archives are in `archives.py`; `open_source` finds the right kind.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import DataError, UsageError

Pixels = NDArray[np.uint8]
"""(height, width, 3), RGB."""
Part = Literal["train", "test"]

IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
LIST_SUFFIXES = (".txt", ".tsv", ".lst", ".list")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image: the name users know it by, the class they say it has, and what its source reads it by."""

    name: str
    label: str | None = None
    """Class folder, or label of a list file; None where the source states no class."""
    key: Any = None


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
        return Path(sample.key).read_bytes()


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
        self.samples = [
            replace(sample, key=(index, sample)) for index, source in enumerate(sources) for sample in source.samples
        ]
        self.left_out = [name for source in sources for name in source.left_out]
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
        self.samples = [source.samples[position] for position in positions]
        self._source = source

    def read(self, sample: Sample) -> bytes | Pixels:
        """What the source reads."""
        return self._source.read(sample)


def open_source(path: str | os.PathLike[str], part: Part = "test") -> Source:
    """The source at a path: folder, .zip, .tar, list file, cifar-10-batches-py folder, or one image.

    `part` says which images of a cifar-10-batches-py folder are meant; the other kinds have one part.

    Raises DataError if it is missing, empty or damaged.
    """
    from resnet_infer.data import archives

    where = Path(path)
    if not os.fspath(path):
        raise DataError("an input's name is empty; give a file or folder")
    suffix = where.suffix.lower()
    source: Source
    try:
        if where.is_dir():
            source = archives.Cifar10(where, part) if archives.Cifar10.fits(where) else _folder(where)
        elif not where.exists():
            raise DataError(f"{path}: no such file or folder")
        elif suffix == ".zip":
            source = archives.Zip(where)
        elif suffix == ".tar" or where.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
            source = archives.Tar(where)
        elif suffix in LIST_SUFFIXES:
            source = _list_file(where)
        else:
            source = Files(str(path), [Sample(name=str(path), key=str(where))])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not source.samples:
        others = f"; it has {len(source.left_out)} other files, as {source.left_out[0]}" if source.left_out else ""
        raise DataError(f"{path}: no images in it{others}. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return source


def open_inputs(inputs: Sequence[str], stdin: BinaryIO, part: Part = "test") -> Source:
    """All of a command's inputs in order: paths, patterns like 'photos/*.jpg', and `-` for standard input.

    Standard input is one encoded image, or text with a path a line.
    """
    sources: list[Source] = []
    for given in inputs:
        if given == "-":
            sources += _standard_input(stdin)
        elif has_magic(given) and not Path(given).exists():
            matches = sorted(glob(given, recursive=True))
            if not matches:
                raise DataError(f"{given}: no file matches this pattern")
            sources += [open_source(match, part) for match in matches]
        else:
            sources.append(open_source(given, part))
    return sources[0] if len(sources) == 1 else Joined(sources)


def classified(entries: Sequence[tuple[str, Any]]) -> tuple[list[Sample], list[str]]:
    """Samples of a tree's entries (path inside it, key), each with its class folder; and the files left out.

    The class is the first folder below the folders that all images share: `test/airplane/1.png` beside
    `test/bird/2.png` is an airplane. Hidden files and macOS's copies of them are no images.
    """
    images: list[tuple[PurePosixPath, Any]] = []  # sorted below, so that a tree has one order in every container
    left_out: list[str] = []
    for name, key in entries:
        path = PurePosixPath(name)
        if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES and key is not None:
            images.append((path, key))
        else:
            left_out.append(name)
    images.sort(key=lambda image: image[0].parts)
    shared = len(_shared_folders([path.parts[:-1] for path, _ in images]))
    samples = [
        Sample(name=str(path), label=path.parts[shared] if len(path.parts) > shared + 1 else None, key=key)
        for path, key in images
    ]
    return samples, left_out


def _shared_folders(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    if not folders:
        return ()
    first, last = min(folders), max(folders)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def _folder(root: Path) -> Files:
    samples, left_out = classified([(path.relative_to(root).as_posix(), str(path)) for path in _walk(root)])
    return Files(str(root), [replace(sample, name=sample.key) for sample in samples], left_out)


def _walk(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(folder, file) for file in sorted(files))


def _list_file(path: Path) -> Files:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file; a list has one `path<TAB>label` a line") from error
    samples = []
    for line in text.split("\n"):  # not splitlines: other separators may be part of a name
        if line.strip():
            file, _, label = line.rstrip("\r").partition("\t")
            samples.append(Sample(name=file, label=label.strip() or None, key=str(path.parent / file)))
    return Files(str(path), samples)


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
    return [open_source(line.strip()) for line in io.StringIO(text) if line.strip()]
