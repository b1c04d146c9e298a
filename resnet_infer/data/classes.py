"""The class index of every sample of a labelled source, by name, never by position alone."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence

from resnet_infer.console import note
from resnet_infer.data.imagenet import image_number
from resnet_infer.data.numbering import by_order, check_folders, check_indices, names_in
from resnet_infer.data.samples import labels_of as labels_in
from resnet_infer.data.source import Source, said
from resnet_infer.errors import DataError
from resnet_infer.spec.labels import Labels, imagenet1k, index_by_order

LABELLED = (
    "a folder per class, a .zip or .tar of one, a `path<TAB>label` list, shards with .cls, "
    "Parquet with a label column, or cifar-10-batches-py"
)
GROUND_TRUTH = "; for ImageNet's validation images as they come, --ground-truth ILSVRC2012_validation_ground_truth.txt"


def class_indices(source: Source, labels: Labels | None, classes: int) -> Sequence[int]:
    """The model's class index of every sample in order.

    Raises DataError if samples have no label, if all share one, or if the labels are not the model's classes.
    """
    count = len(source.samples)
    given = Counter(labels_in(source.samples))
    missing = given.pop(None, 0)
    if missing == count and labels and (alone := _one_class(source, labels)) is not None:
        note(f"{source.name}: all {count} images are of one class, '{labels.names[alone]}': the errors are its alone")
        return array("i", [alone]) * count
    if missing == count:
        where = _single_folder(source)
        hint = GROUND_TRUTH if image_number(source.samples[0].name) else ""
        raise DataError(
            f"{source.name}: {where}, and an evaluation needs to know each image's class: give {LABELLED}{hint}"
        )
    if missing:
        first = next(sample.name for sample in source.samples if sample.label is None)
        raise DataError(
            f"{source.name}: {missing} of {count} images have no class, as {first}; "
            f"move them into class folders, or give {LABELLED}"
        )
    names = sorted(label for label in given if label is not None)
    if len(names) == 1 and labels is None:
        raise DataError(
            f"{source.name}: all {count} images are of one class ('{names[0]}'), which measures no classifier, and the "
            "model does not say which of its classes that is; give the folder that holds every class"
        )
    index = _index_of(names, source, labels, classes)
    if len(names) == 1 and labels:
        known = labels.names[index[names[0]]]
        note(f"{source.name}: all {count} images are of one class, '{known}': the errors are that class's alone")
    return array("i", (index[label] for label in labels_in(source.samples) if label is not None))


def _index_of(names: Sequence[str], source: Source, labels: Labels | None, classes: int) -> dict[str, int]:
    """The class index of every label of a source."""
    if order := said(source, "class_order"):
        index = by_order(names, order, classes, source.name)
        note(f"{source.name}: classes by --class-order {order}: {_first(sorted(index, key=index.__getitem__), index)}")
        return index
    own = _own_names(source)
    if own and all(name.isdecimal() and int(name) < len(own) for name in names):
        return _by_own_names(names, own, source, labels, classes)
    numbers = all(name.isdecimal() for name in names)
    indices = numbers and bool(said(source, "labels_are_indices", False))
    if labels:
        index = labels.index_of(names, source.name)
        if numbers and any(int(name) == at for name, at in index.items()) and not _are_names(names, labels):
            if indices:
                check_indices(names, classes, source.name)
                return index
            check_folders(names, classes, source.name, named=True)
            note(f"{source.name}: its {len(names)} numbers are taken for class indices from 0: {_first(names, index)}")
        return index
    if indices:
        check_indices(names, classes, source.name)
        index = {name: int(name) for name in names}
        note(f"the model does not say its class names; {source.name}'s {len(names)} labels are taken for its indices")
        return index
    if numbers:
        check_folders(names, classes, source.name, named=False)
    index = index_by_order(names, classes, source.name)
    how = "by number" if numbers else "in sorted order"
    note(
        f"the model does not say its class names; taking {source.name}'s {len(names)} folders {how}: "
        f"{_first(sorted(index, key=index.__getitem__), index)} (--labels FILE states them)"
    )
    return index


def _are_names(numbers: Sequence[str], labels: Labels) -> bool:
    """Whether the model's classes have numbers for names."""
    return set(numbers) <= set(labels.names) | set(labels.ids)


def _by_own_names(
    numbers: Sequence[str], own: Sequence[str], source: Source, labels: Labels | None, classes: int
) -> dict[str, int]:
    """Where the data numbers its classes and names the numbers: by name if the model knows the names.

    ImageNet's names have many spellings and two pairs of them are alike, so where most of both lists are the same in
    the same places, it is by number, with a note. Raises DataError otherwise.
    """
    if labels:
        try:
            by_name = labels.index_of([own[int(number)] for number in numbers], source.name)
            return {number: by_name[own[int(number)]] for number in numbers}
        except DataError:
            alike = [_first_word(a) == _first_word(b) for a, b in zip(own, labels.names, strict=False)]
            if len(own) != classes or 2 * sum(alike) <= classes:
                raise
            at = alike.index(False) if False in alike else 0
            note(
                f"{source.name} has its own spelling of the model's classes ('{own[at]}' and '{labels.names[at]}'); "
                "most are alike, so they are taken by number"
            )
    elif len(own) != classes:
        raise DataError(f"{source.name}: has {len(own)} classes, and the model {classes}; it is another data set's")
    else:
        note(
            f"the model does not say its class names; taking {source.name}'s numbers for them: "
            + ", ".join(f"{number} = '{own[int(number)]}'" for number in sorted(numbers, key=int)[:4])
            + " (--labels FILE states them)"
        )
    return {number: int(number) for number in numbers}


def _first_word(name: str) -> str:
    """`great white shark` of `Great_White_shark, white shark, man-eater`."""
    return name.partition(",")[0].casefold().replace("_", " ").replace("-", " ").strip()


def _own_names(source: Source) -> Sequence[str]:
    """What the data calls its classes 0, 1, 2, ..., where it says so."""
    names: Sequence[str] = said(source, "class_names", ())
    return names


def labels_of(source: Source) -> Labels:
    """The classes that a source's own labels make: in sorted order, by number if all are numbers.

    Synset ids of ImageNet get their names as well. Raises DataError if no image has a label.
    """
    folders = {label for label in labels_in(source.samples) if label is not None}
    if not folders:
        raise DataError(f"{source.name}: {_single_folder(source)}, and training needs them: give {LABELLED}")
    if (own := _own_names(source)) and all(name.isdecimal() and int(name) < len(own) for name in folders):
        return Labels(names=tuple(own))
    if len(folders) == 1:
        count, name = len(source.samples), folders.pop()
        raise DataError(f"{source.name}: all {count} images are of one class ('{name}'); training needs several")
    names = sorted(folders, key=int) if all(name.isdecimal() for name in folders) else sorted(folders)
    if (order := said(source, "class_order")) and order != "numeric":
        names = sorted(folders)
        if order != "sorted":
            names = names_in(order)
            if set(names) != folders or len(names) != len(folders):
                odd = sorted(set(names) ^ folders)
                raise DataError(f"{source.name}: its class folders are not those of {order}: {', '.join(odd[:4])}")
    known = imagenet1k()
    if folders <= set(known.ids):
        name_of = dict(zip(known.ids, known.names, strict=True))
        return Labels(names=tuple(name_of[name] for name in names), ids=tuple(names))
    return Labels(names=tuple(names))


def _one_class(source: Source, labels: Labels) -> int | None:
    """The class that all images' one folder is named after, if the model knows one by that name."""
    folders = {sample.name.replace("\\", "/").rpartition("/")[0] for sample in source.samples}
    name = folders.pop().rpartition("/")[2] if len(folders) == 1 else ""
    if not name or name.isdecimal():
        return None
    try:
        return labels.index_of([name], source.name)[name]
    except DataError:
        return None


def _single_folder(source: Source) -> str:
    folders = {sample.name.replace("\\", "/").rpartition("/")[0] for sample in source.samples}
    if len(source.samples) > 1 and len(folders) == 1 and (folder := folders.pop()):
        return f"one folder ('{folder}') holds all {len(source.samples)} images, with no class folders"
    return "its images have no labels"


def _first(names: Sequence[str], index: Mapping[str, int], most: int = 4) -> str:
    shown = ", ".join(f"'{name}' = {index[name]}" for name in names[:most])
    return f"{shown}, ..." if len(names) > most else shown
