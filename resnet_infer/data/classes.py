"""The class index of every sample of a labelled source, by name, never by position alone."""

from collections.abc import Sequence

from resnet_infer.data.imagenet import image_number
from resnet_infer.data.sources import Source
from resnet_infer.errors import DataError
from resnet_infer.labels import Labels, imagenet1k, index_by_order
from resnet_infer.report.console import note

LABELLED = "a folder per class, a .zip or .tar of one, a `path<TAB>label` list, or cifar-10-batches-py"
GROUND_TRUTH = "; for ImageNet's validation images as they come, --ground-truth ILSVRC2012_validation_ground_truth.txt"


def class_indices(source: Source, labels: Labels | None, classes: int) -> list[int]:
    """The model's class index of every sample in order.

    Raises DataError if samples have no label, if all share one, or if the labels are not the model's classes.
    """
    given = [sample.label for sample in source.samples]
    missing = [sample.name for sample in source.samples if sample.label is None]
    if len(missing) == len(given):
        where = _single_folder(source)
        hint = GROUND_TRUTH if image_number(missing[0]) else ""
        raise DataError(
            f"{source.name}: {where}, and an evaluation needs to know each image's class: give {LABELLED}{hint}"
        )
    if missing:
        raise DataError(
            f"{source.name}: {len(missing)} of {len(given)} images have no class, as {missing[0]}; "
            f"move them into class folders, or give {LABELLED}"
        )
    names = sorted({label for label in given if label is not None})
    if len(names) == 1:
        raise DataError(
            f"{source.name}: all {len(given)} images are of one class ('{names[0]}'), which measures no classifier; "
            "give the folder that holds every class"
        )
    if labels:
        index = labels.index_of(names, source.name)
    else:
        index = index_by_order(names, classes, source.name)
        note(
            f"the model does not say its class names; taking {source.name}'s in sorted order: {_first(names)} "
            "(--labels FILE states them)"
        )
    return [index[label] for label in given if label is not None]


def labels_of(source: Source) -> Labels:
    """The classes that a source's own labels make: in sorted order, by number if all are numbers.

    Synset ids of ImageNet get their names as well. Raises DataError if no image has a label.
    """
    folders = {sample.label for sample in source.samples if sample.label is not None}
    if not folders:
        raise DataError(f"{source.name}: {_single_folder(source)}, and training needs them: give {LABELLED}")
    names = sorted(folders, key=int) if all(name.isdecimal() for name in folders) else sorted(folders)
    known = imagenet1k()
    if folders <= set(known.ids):
        name_of = dict(zip(known.ids, known.names, strict=True))
        return Labels(names=tuple(name_of[name] for name in names), ids=tuple(names))
    return Labels(names=tuple(names))


def _single_folder(source: Source) -> str:
    folders = {sample.name.replace("\\", "/").rpartition("/")[0] for sample in source.samples}
    if len(source.samples) > 1 and len(folders) == 1 and (folder := folders.pop()):
        return f"one folder ('{folder}') holds all {len(source.samples)} images, with no class folders"
    return "its images have no labels"


def _first(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(f"'{name}' = {index}" for index, name in enumerate(names[:most]))
    return f"{shown}, ..." if len(names) > most else shown
