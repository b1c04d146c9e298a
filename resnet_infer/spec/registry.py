"""Published checkpoints by key `architecture.tag`, and the errors the paper and the publishers state for them.

torchvision weights: file names end in the first 8 hex digits of their SHA-256 and accuracies are those of
torchvision.models.ResNet*_Weights. Paper: arXiv 1512.03385 Tables 2, 3, 4 and 6.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resnet_infer.errors import UnknownNameError
from resnet_infer.spec.preprocessing import Preprocessing

TORCHVISION_WEIGHTS = "https://download.pytorch.org/models/"
DEFAULT_MODEL = "resnet50.tv2_in1k"

Errors = tuple[float, float]
"""(top-1, top-5) error in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A downloadable checkpoint."""

    key: str
    architecture: str
    url: str
    sha256_prefix: str
    preprocessing: Preprocessing
    single_crop: Errors
    """Published single-crop error in percent, top-1 and top-5, on the ILSVRC 2012 validation set."""

    @property
    def filename(self) -> str:
        """Its name in the cache folder, the publisher's own."""
        return self.url.rsplit("/", 1)[1]


def _torchvision(depth: int, version: int, digest: str, top1: float, top5: float) -> Published:
    return Published(
        key=f"resnet{depth}.tv{'' if version == 1 else version}_in1k",
        architecture=f"resnet{depth}",
        url=f"{TORCHVISION_WEIGHTS}resnet{depth}-{digest}.pth",
        sha256_prefix=digest,
        preprocessing=Preprocessing(resize=256 if version == 1 else 232),
        single_crop=(round(100 - top1, 3), round(100 - top5, 3)),
    )


PUBLISHED: Mapping[str, Published] = {
    published.key: published
    for published in (
        _torchvision(18, 1, "f37072fd", 69.758, 89.078),
        _torchvision(34, 1, "b627a593", 73.314, 91.420),
        _torchvision(50, 1, "0676ba61", 76.130, 92.862),
        _torchvision(50, 2, "11ad3fa6", 80.858, 95.434),
        _torchvision(101, 1, "63fe2227", 77.374, 93.546),
        _torchvision(101, 2, "cd907fc2", 81.886, 95.780),
        _torchvision(152, 1, "394f9c45", 78.312, 94.046),
        _torchvision(152, 2, "f82ba261", 82.284, 96.002),
    )
}

PAPER_TEN_CROP: Mapping[str, tuple[float, float | None]] = {
    "plain18": (27.94, None),
    "resnet18-A": (27.88, None),
    "plain34": (28.54, 10.02),
    "resnet34-A": (25.03, 7.76),
    "resnet34": (24.52, 7.46),
    "resnet34-C": (24.19, 7.40),
    "resnet50-v1": (22.85, 6.71),
    "resnet101-v1": (21.75, 6.05),
    "resnet152-v1": (21.43, 5.71),
}
PAPER_MULTI_SCALE: Mapping[str, Errors] = {
    "resnet34": (21.84, 5.71),
    "resnet34-C": (21.53, 5.60),
    "resnet50-v1": (20.74, 5.25),
    "resnet101-v1": (19.87, 4.60),
    "resnet152-v1": (19.38, 4.49),
}
PAPER_CIFAR10: Mapping[str, float] = {
    "resnet20": 8.75,
    "resnet32": 7.51,
    "resnet44": 7.17,
    "resnet56": 6.97,
    "resnet110": 6.43,
    "resnet1202": 7.93,
}


def bundled_folders() -> dict[str, Path]:
    """Checkpoints that ship with the package, by key: folders of models/ that hold weights.safetensors."""
    package = Path(__file__).parents[1]
    for root in (package / "_models", package.parent / "models"):
        if root.is_dir():
            return {f.parent.name: f.parent for f in sorted(root.glob("*/weights.safetensors"))}
    return {}


def published(key: str, also: Iterable[str] = ()) -> Published:
    """The downloadable checkpoint of this key; raises UnknownNameError with the nearest keys, those of `also` too."""
    if key not in PUBLISHED:
        known = [*PUBLISHED, *bundled_folders(), *also]
        raise UnknownNameError("model", key, known, "Give a file, or a key that `resnet-infer models` lists.")
    return PUBLISHED[key]
