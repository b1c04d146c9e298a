"""Class names of a checkpoint, and matching of a data source's folder names to them.

ImageNet's names are torchvision's and its synset ids are WordNet's, in the usual sorted order of the ids.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from resnet_infer.errors import DataError, UsageError

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MAX_CLASSES = 1_000_000
MAX_BYTES = 64 * 2**20
MAX_NAME = 2**16
"""As in a manifest, where names go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The name of every class in order of its index, and its synset id where classes have one."""

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ids and len(self.ids) != len(self.names):
            raise UsageError(f"{len(self.names)} class names but {len(self.ids)} ids")

    def index_of(self, folders: Sequence[str], where: str) -> dict[str, int]:
        """Class index of every folder name, by id, by name, or by number; never by position.

        Raises DataError that lists the folders without a class.
        """
        keys = [folded(name) for name in self.names]
        shared = {key for key, times in Counter(keys).items() if times > 1}  # such a name says nothing
        table = {key: index for index, key in enumerate(keys) if key not in shared}
        table |= {identifier: index for index, identifier in enumerate(self.ids)}
        if all(folder.isdecimal() for folder in folders) and not any(folded(f) in table for f in folders):
            table |= {folder: int(folder) for folder in folders if int(folder) < len(self.names)}
        found = {f: table[k] for f in folders for k in (folded(f), f) if k in table}  # an id wins
        missing = [folder for folder in folders if folder not in found]
        if missing:
            raise DataError(
                f"{where}: {len(missing)} of {len(folders)} class folders match no class of the model: "
                f"{_some(missing)}. The model's classes: {_some(self.ids or self.names)}. Rename the folders, "
                "or give the model's class names in order with --labels FILE"
            )
        if len(set(found.values())) != len(found):
            times = Counter(found.values())
            twice = [folder for folder in folders if times[found[folder]] > 1]
            raise DataError(f"{where}: several folders match one class: {_some(twice)}; merge or rename them")
        return found

    def to_dict(self) -> dict[str, list[str]]:
        """Plain values for a manifest."""
        return {"names": list(self.names), "ids": list(self.ids)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Labels":
        """The inverse of `to_dict`; raises UsageError for anything malformed."""
        names, ids = values.get("names"), values.get("ids", [])
        if not isinstance(names, list) or not isinstance(ids, list) or not 1 <= len(names) <= MAX_CLASSES:
            raise UsageError("label record is incomplete or malformed")
        if not all(isinstance(text, str) for text in (*names, *ids)):
            raise UsageError("label record has names or ids that are no texts")
        return cls(names=tuple(names), ids=tuple(ids))


def index_by_order(folders: Sequence[str], classes: int, where: str) -> dict[str, int]:
    """Class indices in sorted order of the folder names, for a model whose class names are not known.

    Raises DataError unless there are exactly as many folders as classes.
    """
    if len(folders) != classes:
        raise DataError(
            f"{where}: {len(folders)} class folders ({_some(sorted(folders))}) but the model has {classes} classes "
            "and does not say their names; give them in order, one a line, with --labels FILE"
        )
    if all(folder.isdecimal() for folder in folders):
        if len({int(folder) for folder in folders}) != len(folders):
            raise DataError(f"{where}: several folders are one number, as '1' and '01'; merge or rename them")
        return {folder: index for index, folder in enumerate(sorted(folders, key=int))}
    return {folder: index for index, folder in enumerate(sorted(folders))}


def imagenet1k() -> Labels:
    """The 1000 classes of ILSVRC 2012."""
    text = (resources.files("resnet_infer") / "imagenet1k.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return Labels(names=tuple(row[1] for row in rows), ids=tuple(row[0] for row in rows))


def default_labels(classes: int, stem: str) -> Labels | None:
    """The class names that a bare weights file of this form is known by; none for other class counts.

    1000 classes on an ImageNet stem is ILSVRC 2012 by universal convention. A CIFAR net of ten classes may be
    anything, so it stays unknown.
    """
    return imagenet1k() if (classes, stem) == (1000, "imagenet") else None


def folded(name: str) -> str:
    """A name without its case and its separators, in one Unicode form, by which names are matched."""
    folded_case = unicodedata.normalize("NFC", name).casefold()
    return unicodedata.normalize("NFC", folded_case).replace("_", " ").replace("-", " ").strip()


def _some(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown
