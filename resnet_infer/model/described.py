"""What is known of a weights file that does not say it itself: by the files beside it, else by its published name."""

from dataclasses import replace
from pathlib import Path

from resnet_infer.console import note
from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.model.sidecars import Sidecar, read_sidecar
from resnet_infer.model.transformers_layout import spec_of_transformers
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import spec_from_name
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


def spec_said(known: Sidecar, read: ModelSpec, where: str) -> ModelSpec | None:
    """The architecture that is said of a file whose tensors were read as another, or None; its head is the tensors'.

    Raises CheckpointError naming the file that says what is not so, or what cannot be done.
    """
    by = known.where or where
    for said, what in ((known.classes, "says"), (len(known.labels.names) if known.labels else None, "names")):
        if said is not None and said != read.classes:
            raise CheckpointError(
                f"{by}: {what} {said} classes, but {where} has {read.classes}; mend it, or move it out of the folder"
            )
    try:
        if known.transformers:
            found = spec_of_transformers(known.transformers, read.classes)
        elif isinstance(known.architecture, ModelSpec):
            found = known.architecture
        elif known.architecture:
            found = spec_from_name(known.architecture)
        else:
            return None
        return replace(found, classes=read.classes, hidden=read.hidden, bias=read.bias, channels=read.channels)
    except UsageError as error:
        raise CheckpointError(f"{by}: {error}; if that is wrong, move it out of the folder and give --arch") from error
