"""A tree of files as samples: which are images, what class each has, and in which order they come.

The class is the first folder below the folders that all images share: `test/airplane/1.png` beside `test/bird/2.png`
is an airplane. The order is that of the names, folder by folder, so that a tree has one order in every container.
"""

import os
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from resnet_infer.data.formats.zip_file import MAX_BYTES
from resnet_infer.data.samples import LabelColumn, Places, Sample, Samples, Strings
from resnet_infer.data.source import mixed
from resnet_infer.errors import DataError
from resnet_infer.files import open_regular
from resnet_infer.spec.image_formats import IMAGE_SUFFIXES

ARCHIVE_SUFFIXES = (".zip", ".tar")
MAX_LINKED = 100_000
"""Folders reached through links; links among folders can make more paths than there are atoms."""


class Files:
    """Image files by path, or a folder of them with one folder per class."""

    def __init__(self, name: str, samples: Sequence[Sample], left_out: Sequence[str] = ()) -> None:
        self.name = name
        self.samples = samples
        self.left_out = left_out
        self.labels_are_indices = False
        """Of a list of files: a number there is a class index, in a folder's name it may not be."""

    def read(self, sample: Sample) -> bytes:
        """The file's bytes."""
        try:
            with open_regular(_as_kept(sample.key)) as file:
                data = file.read(MAX_BYTES + 1)
        except ValueError as error:  # a NUL in it
            raise DataError(f"no path can be so named ({error})") from error
        if len(data) > MAX_BYTES:
            raise DataError(f"has more than the limit of {MAX_BYTES:,} bytes")
        return data

    def mark(self, sample: Sample) -> int:
        """Of its size and when it was written."""
        status = os.stat(_as_kept(sample.key))
        return mixed(status.st_size, status.st_mtime_ns)


class Tree:
    """Files as they are found, in columns."""

    def __init__(self, columns: int) -> None:
        self.left_out = Strings()
        """Files that are no images."""
        self._names = Strings()
        self._places = [array("q") for _ in range(columns)]
        self._shared: list[str] | None = None
        """The folders that all images so far share."""
        self._folder: str | None = None
        self._sorted = True
        self._last = b""

    def add(self, name: str, place: tuple[int, ...] | None) -> None:
        """Take a file by its path inside the tree; hidden files and macOS's copies of them are passed over.

        Without a place it is no image, whatever its name.
        """
        if name[:1] in ("/", ".") or "/." in name or "//" in name or "__MACOSX" in name:
            parts = [part for part in name.split("/") if part not in ("", ".")]
            if ".." in parts:  # it would be outside of the tree
                self.left_out.append(name)
                return
            if any(part.startswith(".") or part == "__MACOSX" for part in parts):
                return
            name = "/".join(parts)
        if name[name.rfind(".") :].lower() not in IMAGE_SUFFIXES or place is None:
            self.left_out.append(name)
            return
        self._names.append(name)
        for column, value in zip(self._places, place, strict=True):
            column.append(value)
        self._note_order(name)

    def _note_order(self, name: str) -> None:
        key = _sort_key(name.encode("utf-8", "surrogateescape"))
        self._sorted = self._sorted and self._last <= key
        self._last = key
        folder = name.rpartition("/")[0]
        if folder != self._folder:
            self._folder = folder
            parts = folder.split("/") if folder else []
            same = parts if self._shared is None else self._shared
            self._shared = same[: _common(same, parts)]

    def samples(self, prefix: str = "") -> Samples:
        """The images in order, keyed by their places; their names get a prefix."""
        if not self._sorted:
            order = sorted(range(len(self._names)), key=lambda i: _sort_key(self._names.encoded(i)))
            self._names = Strings(self._names[i] for i in order)
            self._places = [array("q", (column[i] for i in order)) for column in self._places]
        labels = LabelColumn()
        depth = len(self._shared or ())
        folder, label = None, None
        for name in self._names:
            own = name.rpartition("/")[0]
            if own != folder:
                parts = own.split("/") if own else []
                folder, label = own, _without_archive(parts[depth]) if len(parts) > depth else None
            labels.append(label)
        self._names.prefix = prefix
        return Samples(self._names, labels, Places(*self._places))


def classified(entries: Sequence[tuple[str, Any]]) -> tuple[Sequence[Sample], Sequence[str]]:
    """Samples of a tree's entries (path inside it, key), and the files left out; an entry without a key is no image."""
    tree = Tree(1)
    for number, (name, key) in enumerate(entries):
        tree.add(name, None if key is None else (number,))
    samples = tree.samples()
    keys = [entries[place][1] for (place,) in samples.keys]
    return Samples(samples.names, samples.labels, keys), tree.left_out


def folder_tree(root: Path) -> tuple[Samples, Strings]:
    """The images of a folder, keyed by their paths, and the files left out; raises DataError or OSError."""
    tree = Tree(0)
    for name, plain in _walk(os.fspath(root), "", frozenset(), count(1), linked=False):
        tree.add(name, () if plain else None)
    found = tree.samples(prefix="" if root == Path() else os.path.join(root, ""))
    return Samples(found.names, found.labels, found.names), tree.left_out


def _as_kept(path: str) -> str:
    """The path, or where there is none its other Unicode form, NFC or NFD: macOS and Linux spell an accent apart."""
    if path.isascii() or os.path.lexists(path):
        return path
    others = (unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
    return next((other for other in others if os.path.lexists(other)), path)


def _walk(
    folder: str, inside: str, above: frozenset[str], links: Iterator[int], *, linked: bool
) -> Iterator[tuple[str, bool]]:
    """(path relative to the root, whether it is no pipe or device) of a folder's files in order.

    Links to folders are followed, as os.walk(followlinks=True) does, but for one to a folder that it lies in.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    if linked and next(links) > MAX_LINKED:
        raise DataError(f"{folder}: links lead to more than {MAX_LINKED:,} folders; take out links among folders")
    above |= {real}
    folders: set[str] = set()
    followed: set[str] = set()
    odd: set[str] = set()
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                with suppress(OSError):  # a link to itself; reading it will say so
                    if entry.is_dir():
                        folders.add(entry.name)
                        if linked or entry.is_symlink():
                            followed.add(entry.name)
                    elif not entry.is_file() and os.path.exists(entry):
                        odd.add(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); its images would be missing") from error
    names.sort(reverse=True)
    while names:  # letting go of each, so that the list and what it becomes are never both whole
        name = names.pop()
        if name in folders:
            yield from _walk(f"{folder}/{name}", f"{inside}{name}/", above, links, linked=name in followed)
        else:
            yield inside + name, name not in odd


def _sort_key(name: bytes) -> bytes:
    """Compares as the tuple of its parts does: what ends a part is below whatever may be in one."""
    return name.replace(b"/", b"\0")


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _without_archive(folder: str) -> str:
    """`n01440764` of the archive `n01440764.tar` in another."""
    return next((folder.removesuffix(s) for s in ARCHIVE_SUFFIXES if folder.lower().endswith(s)), folder)
