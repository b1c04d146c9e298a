"""Lists of images and their classes in the forms that people hold them: text, CSV with a header, JSON lines.

A path is relative to the list's folder. ImageNet's `LOC_val_solution.csv` names images without a suffix, and a class
with boxes behind it, of which the class is taken.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from resnet_infer.data.samples import LabelColumn, Strings
from resnet_infer.errors import DataError
from resnet_infer.files import open_regular
from resnet_infer.spec.image_formats import IMAGE_SUFFIXES

TEXT_SUFFIXES = (".txt", ".tsv", ".lst", ".list")
SUFFIXES = (*TEXT_SUFFIXES, ".csv", ".jsonl")
METADATA = ("metadata.csv", "metadata.jsonl")
"""What Hugging Face's image folders call theirs."""
MAX_LIST_BYTES = 2**30
"""Of a list, with 16 more for each line and 256 for each class."""
MAX_LINE_BYTES = 2**16
"""Of a line of a list; no system has longer paths."""
NAME_COLUMNS = (
    "file_name",
    "filename",
    "imageid",
    "image_id",
    "image",
    "image_name",
    "path",
    "filepath",
    "file",
    "img",
)
LABEL_COLUMNS = ("label", "class", "class_name", "category", "predictionstring", "target", "synset", "wnid")
GUESSED = (".JPEG", ".jpg", ".jpeg", ".png")
"""Suffixes that are tried for images named without one."""
_NUMBERED = re.compile(r"(.*\S)\s+(\d+)\s*")


def listed(path: Path) -> tuple[Strings, LabelColumn]:
    """(names, labels) of a list's images, a label None where there is none.

    Raises DataError for a file that is no such list, OSError for one that cannot be read.
    """
    suffix = path.suffix.lower()
    rows = _csv_rows(path) if suffix == ".csv" else _json_rows(path) if suffix == ".jsonl" else _text_rows(path)
    names, labels = Strings(), LabelColumn()
    for name, label in rows:
        names.append(name)
        labels.append(label)
        if 16 * len(names) + 256 * len(labels.texts) > MAX_LIST_BYTES:
            raise DataError(f"{path}: over the limit of {MAX_LIST_BYTES:,} bytes for a list; divide it")
    if all(label is None for label in labels) and (numbered := _numbered(names)):
        return numbered
    return names, labels


def metadata_in(folder: Path) -> Path | None:
    """The list that lies in a folder of images, as Hugging Face's do."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _lines(path: Path) -> Iterator[str]:
    total = 0
    try:
        with open_regular(path) as file:
            while encoded := file.readline(MAX_LINE_BYTES + 1):  # only "\n" ends one: others may be part of a name
                if len(encoded) > MAX_LINE_BYTES:
                    raise DataError(f"{path}: a line of it has over {MAX_LINE_BYTES:,} bytes; a path is shorter")
                line = encoded.decode("utf-8" if total else "utf-8-sig")
                total += len(encoded)
                if total > MAX_LIST_BYTES:
                    raise DataError(f"{path}: over the limit of {MAX_LIST_BYTES:,} bytes for a list; divide it")
                if line.strip():
                    yield line.rstrip("\n").rstrip("\r")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file; a list has one `path<TAB>label` a line") from error


def _text_rows(path: Path) -> Iterator[tuple[str, str | None]]:
    for line in _lines(path):
        name, _, label = line.partition("\t")
        yield name, label.strip() or None


def _numbered(names: Sequence[str]) -> tuple[Strings, LabelColumn] | None:
    """`images/1.jpg 65` lines, as Caffe's; only if every line is an image's name, blanks and a number."""
    for name in names:
        found = _NUMBERED.fullmatch(name)
        if not found or not _is_image(found[1]):
            return None
    pairs = [found for name in names if (found := _NUMBERED.fullmatch(name))]
    return (Strings(pair[1] for pair in pairs), LabelColumn(pair[2] for pair in pairs)) if pairs else None


def _csv_rows(path: Path) -> Iterator[tuple[str, str | None]]:
    try:
        rows = csv.reader(_lines(path), strict=True)
        header = next(rows, [])
        if len(header) == 2 and _is_image(header[0].strip()):  # no header
            yield header[0].strip(), header[1].strip() or None
            at, to = 0, 1
        else:
            at, to = _columns(header, path)
        for row in rows:
            if len(row) <= max(at, to):
                raise DataError(f"{path}: line {rows.line_num} has {len(row)} columns, and its header {len(header)}")
            label = row[to].strip()
            boxes = header[to].strip().lower() == "predictionstring"
            yield _with_suffix(path.parent, row[at].strip()), (label.partition(" ")[0] if boxes else label) or None
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV ({error})") from error


def _columns(header: Sequence[str], path: Path) -> tuple[int, int]:
    plain = [name.strip().lower() for name in header]
    found = [[at for at, name in enumerate(plain) if name in wanted] for wanted in (NAME_COLUMNS, LABEL_COLUMNS)]
    for what, columns, wanted in zip(("images", "classes"), found, (NAME_COLUMNS, LABEL_COLUMNS), strict=True):
        if len(columns) != 1:
            many = "several columns may have" if columns else "no column is known to have"
            raise DataError(
                f"{path}: {many} the {what}: {', '.join(header[:8])}; name one '{wanted[0]}' and no other alike"
            )
    return found[0][0], found[1][0]


def _json_rows(path: Path) -> Iterator[tuple[str, str | None]]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not JSON") from error
        name, label = (row.get("file_name"), row.get("label")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(label, (str, int, type(None))) or isinstance(label, bool):
            raise DataError(f"{path}: line {number} has no 'file_name', or a 'label' that is neither name nor number")
        yield name, None if label is None else str(label)


def _with_suffix(folder: Path, name: str) -> str:
    if _is_image(name):
        return name
    return next((name + suffix for suffix in GUESSED if (folder / (name + suffix)).is_file()), name)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def unlabelled(labels: Iterable[str | None]) -> bool:
    """Whether no image has a class."""
    return all(label is None for label in labels)
