"""What is known of a weights file that does not say it itself: by the files beside it, else by its published name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from resnet_infer.console import note
from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.model.sidecars import Sidecar, read_sidecar
from resnet_infer.model.transformers_layout import is_transformers, spec_of_transformers
from resnet_infer.spec.architectures import ModelSpec, spec_from_name
from resnet_infer.spec.labels import imagenet1k
from resnet_infer.spec.timm_models import named_as


def describe(path: Path, digest: str) -> Sidecar:
    """What is known of this weights file, whose SHA-256 is `digest`; it is said in one note.

    The files beside it go over its published name. Raises CheckpointError.
    """
    found = read_sidecar(path) or Sidecar()
    if found.files and found.told():
        note(f"{path.name}: {found.told()}: from {' and '.join(file.name for file in found.files)} beside it")
    card = named_as(path)
    if card is None:
        return found
    if not digest.startswith(card.sha256_prefix):
        note(
            f"{path.name}: is named as {card.key} was published, but its SHA-256 begins with {digest[:8]}, not "
            f"{card.sha256_prefix}; nothing is taken from its name"
        )
        return found
    taken = [what for what in ("architecture", "preprocessing", "labels") if not getattr(found, what)]
    if found.transformers or not taken:
        return found
    note(f"{path.name}: is {card.key} as it was published; its {', '.join(taken)} are used")
    return replace(
        found,
        architecture=found.architecture or card.architecture,
        preprocessing=found.preprocessing or card.preprocessing,
        setting=found.setting or f"published for {card.key}",
        labels=found.labels or imagenet1k(),
        published=card.key,
    )


def spec_said(known: Sidecar, tensors: Mapping[str, Tensor], classes: int, where: str) -> ModelSpec | None:
    """The architecture that is said of these tensors (as they are in the file), or None.

    Raises CheckpointError naming the file that says what is not so, or what cannot be done.
    """
    by = known.where or where
    if known.classes is not None and known.classes != classes:
        raise CheckpointError(
            f"{by}: says {known.classes} classes, but {where} has {classes}; mend it, or move it out of the folder"
        )
    if known.labels and len(known.labels.names) != classes:
        raise CheckpointError(
            f"{by}: names {len(known.labels.names)} classes, but {where} has {classes}; mend it, or move it out of the "
            "folder"
        )
    try:
        if known.transformers:
            if not is_transformers(tensors):
                raise UsageError(f"is of a transformers ResNet, but {where} is not one by its tensors")
            return spec_of_transformers(known.transformers, classes)
        if isinstance(known.architecture, ModelSpec):
            return replace(known.architecture, classes=classes)
        return spec_from_name(known.architecture, classes) if known.architecture else None
    except UsageError as error:
        raise CheckpointError(f"{by}: {error}; if that is wrong, move it out of the folder and give --arch") from error
