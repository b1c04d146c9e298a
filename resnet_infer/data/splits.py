"""Parts of a data set that lie side by side: train and validation are never scored as one.

The names are those that Hugging Face's datasets and torchvision's folders use. A class may be called `train` too, so
folders are taken for splits only if all beside one another have such names.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from resnet_infer.data.imagenet import Relabelled
from resnet_infer.data.samples import labels_of
from resnet_infer.data.source import Source, Subset
from resnet_infer.errors import DataError

NAMES = {
    "train": "train", "training": "train", "trn": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""What a split is called, and which it is."""


def split_of_file(path: str, root: str = "") -> str | None:
    """`train` for `data/train-00000-of-00002.parquet`: the last word of the path below the root that names a split."""
    words = re.split(r"[^a-z]+", path.removeprefix(root).lower())
    return next((NAMES[word] for word in reversed(words) if word in NAMES), None)


def files_of(paths: Sequence[str], split: str | None, where: str, root: str = "") -> list[str]:
    """The files of one split, or all of them where they are of one.

    Raises DataError if they are of several and none is asked for, or if the one asked for is not there.
    """
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(split_of_file(path, root) or "files of no split", []).append(path)
    if split is None and len(found) == 1:
        return list(paths)
    return found[_chosen({name: f"{len(some):,} files" for name, some in found.items()}, split, where)]


def in_split(source: Source, split: str | None) -> Source:
    """The images of one split of a tree of folders, or all where it has none; raises DataError as above."""
    counts: dict[str, int] = {}
    for label in labels_of(source.samples):
        if label is None or label.lower() not in NAMES:
            break
        counts[label] = counts.get(label, 0) + 1
    else:
        if len(counts) > 1:
            chosen = _chosen({name: f"{count:,} images" for name, count in counts.items()}, split, source.name)
            positions = [at for at, label in enumerate(labels_of(source.samples)) if label == chosen]
            part = Subset(f"{source.name} ({chosen})", source, positions)
            return Relabelled(part, [_class_below(sample.name, chosen, source.name) for sample in part.samples])
    if split is not None and not _is_of(source.name, split):
        raise DataError(f"{source.name}: --split {split}, but it has no splits; leave out --split")
    return source


def _chosen(found: dict[str, str], split: str | None, where: str) -> str:
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
    if split is None:
        raise DataError(f"{where}: has several splits: {listed}; say which with --split NAME, or give its files alone")
    for same in _ways(split):
        if hits := [name for name in found if same(name)]:
            if len(hits) > 1:
                break
            return hits[0]
    raise DataError(f"{where}: --split {split} is not one of its splits: {listed}")


def _ways(split: str) -> Iterable[Callable[[str], bool]]:
    """By its very name, else by another name of the same split: `val` and `validation`."""
    known = NAMES.get(split.lower())
    return (lambda name: name == split), (lambda name: known is not None and NAMES.get(name.lower()) == known)


def _is_of(name: str, split: str) -> bool:
    return split_of_file(name) == NAMES.get(split.lower(), "")


def _class_below(name: str, split: str, root: str) -> str:
    below = name.replace("\\", "/").removeprefix(root.replace("\\", "/"))
    after = f"/{below.lstrip('/')}".partition(f"/{split}/")[2]
    folder, slash, _ = after.partition("/")
    if not slash:
        raise DataError(f"{name}: lies in the split '{split}' outside of any class folder; move it into one")
    return folder
