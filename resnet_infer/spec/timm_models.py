"""timm's published ResNets by key `architecture.tag`, with their errors at timm's own test size.

Facts: `results/results-imagenet.csv` of huggingface/pytorch-image-models at commit 4e5207c7 (30 October 2025), the row
of every model's own test size and crop; mean, std and file name from the `pretrained_cfg` of timm 1.0.31.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePath

from resnet_infer.errors import UnknownNameError
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_infer.spec.registry import PUBLISHED, Errors, Published

HALF = (0.5, 0.5, 0.5)
OWNER = "timm"
"""Whose repositories on the hub hold them, each under its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A checkpoint on the hub, of the 1000 classes of ILSVRC 2012."""

    key: str
    architecture: str
    preprocessing: Preprocessing
    single_crop: Errors
    """Published single-crop error in percent, top-1 and top-5, on the ILSVRC 2012 validation set."""
    filename: str
    """Of the file timm published before the hub, whose SHA-256 begins with the 8 digits its name ends in; or empty."""

    @property
    def sha256_prefix(self) -> str:
        """The digits its file's name ends in; empty without one."""
        return self.filename.removesuffix(".pth").rpartition("-")[2]

    @property
    def repository(self) -> str:
        """Its name on the hub."""
        return f"{OWNER}/{self.key}"


@cache
def timm_models() -> Mapping[str, HubModel]:
    """Every published ResNet of timm whose architecture this package has, by key; torchvision's own are in PUBLISHED.

    timm resizes the shorter side to `floor(size / crop_pct)` and crops the centre.
    """
    text = (resources.files("resnet_infer") / "timm_resnets.tsv").read_text("utf-8")
    found = {}
    for line in text.splitlines():
        key, top1, top5, size, crop_pct, interpolation, mean, filename = line.split("\t")
        architecture = key.split(".")[0]
        if key in PUBLISHED or not _known(architecture):
            continue
        found[key] = HubModel(
            key=key,
            architecture=architecture,
            preprocessing=Preprocessing(
                mean=HALF if mean == "half" else IMAGENET_MEAN,
                std=HALF if mean == "half" else IMAGENET_STD,
                resize=math.floor(int(size) / float(crop_pct)),
                crop=int(size),
                interpolation=interpolation,  # type: ignore[arg-type]  # checked by Preprocessing
            ),
            single_crop=(float(top1), float(top5)),
            filename=filename,
        )
    return found


def _known(architecture: str) -> bool:
    try:
        spec_from_name(architecture)
    except UnknownNameError:
        return False
    return True


def named_as(path: PurePath) -> Published | HubModel | None:
    """The published checkpoint whose file has this name; its hash has still to be compared."""
    cards: tuple[Published | HubModel, ...] = (*PUBLISHED.values(), *timm_models().values())
    return next((card for card in cards if card.filename and card.filename == path.name), None)
