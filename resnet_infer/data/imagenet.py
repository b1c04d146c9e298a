"""ImageNet's validation set as it is handed out: a flat folder, its ground truth by image number, and ReaL labels.

The development kit numbers the classes in an order of its own (1 is the kit fox), and networks in the sorted order of
the synset ids (0 is the tench), so a number of the one is never taken for one of the other: `data/meta.mat` of the
kit, or a text file of its pairs, says which synset is meant. Images are matched by the number in their name.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_infer.data.samples import LabelColumn, Lazy, Sample
from resnet_infer.data.source import Pixels, Says, Source, held_bytes, mark_of
from resnet_infer.errors import DataError, UsageError
from resnet_infer.spec.labels import Labels, imagenet1k

VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?=[._]|$)", re.IGNORECASE)
SYNSET = re.compile(r"n\d{8}")
CLASSES = 1000
MAX_TEXT = 2**26
"""Bytes of a ground-truth file; the real ones have under a million."""


def image_number(name: str) -> int | None:
    """1 for `ILSVRC2012_val_00000001.JPEG` in whatever folder; None for other names."""
    found = VALIDATION_NAME.match(name.replace("\\", "/").rpartition("/")[2])
    return int(found[1]) if found else None


class Relabelled(Says):
    """A source whose images have another class each: a label a sample, in order."""

    def __init__(self, source: Source, labels: Iterable[str]) -> None:
        self.name = source.name
        self.samples: Sequence[Sample] = _Samples(source.samples, LabelColumn(labels))
        self.left_out = source.left_out
        self.held_bytes = held_bytes(source)
        self._inner = self._source = source

    def read(self, sample: Sample) -> bytes | Pixels:
        """What the source reads."""
        return self._source.read(sample)

    def mark(self, sample: Sample) -> int:
        """What the source knows."""
        return mark_of(self._source, sample)


class _Samples(Lazy[Sample]):
    """Samples with other labels, each made as it is asked for."""

    def __init__(self, samples: Sequence[Sample], labels: LabelColumn) -> None:
        self._samples = samples
        self._labels = labels

    def __len__(self) -> int:
        return len(self._samples)

    def at(self, index: int) -> Sample:
        """See Lazy."""
        return replace(self._samples[index], label=self._labels[index])


def with_ground_truth(source: Source, truth: Path, synsets: Path | None = None) -> Relabelled:
    """The source with every image's synset id as its class, by the number in its name.

    `truth` has a class number 1..1000 a line, the n-th for image n; `synsets` says what the numbers mean and is looked
    for beside it as `meta.mat` if not given. Raises DataError for images without a number or a line, UsageError for
    files that are not what is asked for.
    """
    numbers = _numbers(truth)
    synset_of = read_synsets(synsets or _beside(truth))
    unknown = sorted({number for number in numbers if number not in synset_of})
    if unknown:
        raise UsageError(
            f"{truth}: class {unknown[0]} is not among the {len(synset_of)} of {synsets or _beside(truth)}"
        )
    labels = [synset_of[numbers[at - 1]] for at in _image_numbers(source, len(numbers), truth)]
    return Relabelled(source, labels)


def read_synsets(path: Path) -> dict[int, str]:
    """The synset id of every class number 1..1000 of the development kit.

    From its `meta.mat`, or from text with a number and a synset id on each line, in either order, as
    `1 n02119789 kit_fox`. Raises UsageError for anything else: a list of names alone says no numbers.
    """
    pairs = _pairs_from_mat(path) if path.suffix.lower() == ".mat" else _pairs_from_text(path)
    synset_of = {number: synset for number, synset in pairs if 1 <= number <= CLASSES}
    if not synset_of or len(set(synset_of.values())) != len(synset_of) or len(pairs) != len(dict(pairs)):
        raise UsageError(f"{path}: class numbers and synset ids do not pair one to one; give the kit's data/meta.mat")
    return synset_of


def read_real_labels(path: Path) -> list[tuple[int, ...]]:
    """The classes of every validation image by its number less one, in the networks' order; () where it has none.

    The file is `real.json` of Beyer et al. 2020. Raises UsageError if it is not one.
    """
    try:
        sets = json.loads(_text(path))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}); ReaL labels are a list of lists of class indices") from error
    if not isinstance(sets, list) or not sets or not all(isinstance(s, list) for s in sets):
        raise UsageError(f"{path}: ReaL labels are a list of lists of class indices, one for each validation image")
    if not all(type(index) is int and 0 <= index < CLASSES for s in sets for index in s):
        raise UsageError(f"{path}: ReaL labels are class indices 0..{CLASSES - 1}")
    return [tuple(s) for s in sets]


def real_sets(source: Source, path: Path, labels: Labels | None, classes: int) -> list[tuple[int, ...]]:
    """The ReaL labels of every image of the source as indices of the model's classes; () where it has none.

    Raises UsageError if the model's classes are not ImageNet's 1000, DataError for images without a number.
    """
    sets = read_real_labels(path)
    usual = imagenet1k()
    ids = labels.ids if labels else usual.ids
    if classes != CLASSES or sorted(ids) != sorted(usual.ids):
        raise UsageError(f"--real-labels are for the {CLASSES} classes of ImageNet, and the model has others")
    index_of = {synset: index for index, synset in enumerate(ids)}
    own = [index_of[synset] for synset in usual.ids]
    numbers = _image_numbers(source, len(sets), path)
    return [tuple(own[index] for index in sets[number - 1]) for number in numbers]


def _image_numbers(source: Source, images: int, path: Path) -> list[int]:
    numbers = []
    for sample in source.samples:
        number = image_number(sample.name)
        if number is None or not 1 <= number <= images:
            why = "says no number" if number is None else f"is beyond the {images} lines of {path}"
            raise DataError(
                f"{sample.name}: {why}; {path.name} goes by the numbers of the validation set, as in "
                "ILSVRC2012_val_00000001.JPEG"
            )
        numbers.append(number)
    return numbers


def _numbers(path: Path) -> list[int]:
    lines = _text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    numbers = []
    for at, line in enumerate(lines, start=1):
        if not line.strip().isdecimal():
            other = "; a list of names and classes is `path<TAB>label` lines given as DATA" if line.split()[1:] else ""
            raise UsageError(f"{path}: line {at} is not a class number ('{line[:40]}'){other}")
        numbers.append(int(line))
    if not numbers:
        raise UsageError(f"{path}: has no class numbers; it should have one a line, the n-th for image n")
    if 0 in numbers:
        raise UsageError(f"{path}: the development kit counts its classes from 1, and class 0 is in it; not its file")
    return numbers


def _beside(truth: Path) -> Path:
    beside = truth.parent / "meta.mat"
    if not beside.is_file():
        raise UsageError(
            f"{truth}: its class numbers are in an order of their own; say which synsets they are with --synsets "
            "FILE, the kit's data/meta.mat or lines as `1 n02119789`"
        )
    return beside


def _pairs_from_text(path: Path) -> list[tuple[int, str]]:
    pairs = []
    for at, line in enumerate(_text(path).splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        synsets = [word for word in words[:2] if SYNSET.fullmatch(word)]
        numbers = [int(word) for word in words[:2] if word.isdecimal()]
        if len(synsets) != 1 or len(numbers) != 1:
            raise UsageError(
                f"{path}: line {at} ('{line[:40]}') is not a class number and synset id, as `1 n02119789`; a list of "
                "synsets alone is in sorted order, which the numbers are not"
            )
        pairs.append((numbers[0], synsets[0]))
    return pairs


def _pairs_from_mat(path: Path) -> list[tuple[int, str]]:
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{path}: reading it takes SciPy: pip install 'resnet-infer[imagenet]', or give --synsets a text file of "
            "lines as `1 n02119789`"
        ) from error
    try:
        synsets: Any = loadmat(path, squeeze_me=True)["synsets"]
        return [(int(number), str(synset)) for number, synset in zip(*_columns(synsets), strict=True)]
    except Exception as error:  # SciPy raises whatever a damaged file leads it to
        reason = " ".join(str(error).split())[:80]
        raise UsageError(f"{path}: not the development kit's meta.mat ({reason})") from error


def _columns(synsets: Any) -> tuple[Any, Any]:
    return synsets["ILSVRC2012_ID"], synsets["WNID"]


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT:
            raise UsageError(f"{path}: larger than {MAX_TEXT // 2**20} MiB; not a file of labels")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
