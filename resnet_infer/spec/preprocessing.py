"""How an image becomes the network's input: part of a checkpoint, never a guess of the caller's."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from resnet_infer.errors import UsageError

Interpolation = Literal["bilinear", "bicubic"]
InputFormat = Literal["normalized", "normalized-nhwc", "uint8-nchw", "uint8-nhwc"]
"""What a graph takes: floats that are scaled and normalised already, (batch, 3, height, width) or, by `-nhwc`,
(batch, height, width, 3); or the image's own bytes in either layout, with scaling and normalisation in the graph."""
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side, crop, scale to [0, 1], subtract `mean`, divide by `std` (RGB order)."""

    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    resize: int = 256
    """Shorter side in pixels for the single crop."""
    crop: int = 224
    """Side in pixels of the square crop."""
    interpolation: Interpolation = "bilinear"
    """Always antialiased."""

    def __post_init__(self) -> None:
        for name, triple in (("mean", self.mean), ("std", self.std)):
            if len(triple) != 3 or not all(math.isfinite(v) for v in triple):
                raise UsageError(f"{name} needs three finite numbers for R, G, B; got {triple}")
        if not all(v > 0 for v in self.std):
            raise UsageError(f"std must be positive; got {self.std}")
        if not 1 <= self.crop <= self.resize <= 8192:
            raise UsageError(f"need 1 <= crop <= resize <= 8192 pixels; got resize {self.resize}, crop {self.crop}")
        if self.interpolation not in get_args(Interpolation):
            raise UsageError(f"interpolation must be bilinear or bicubic; got '{self.interpolation}'")

    def describe(self) -> str:
        """One line in plain words."""
        mean, std = (", ".join(f"{v:g}" for v in triple) for triple in (self.mean, self.std))
        return (
            f"shorter side to {self.resize} ({self.interpolation}, antialiased), centre crop {self.crop}; "
            f"RGB / 255, mean ({mean}), std ({std})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`; raises UsageError for anything malformed."""
        try:
            return cls(
                mean=_triple(values["mean"]),
                std=_triple(values["std"]),
                resize=_pixels(values["resize"]),
                crop=_pixels(values["crop"]),
                interpolation=values["interpolation"],
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"preprocessing record is incomplete or malformed: {error!r}") from error


def _triple(values: Any) -> Triple:
    r, g, b = values
    if any(isinstance(value, bool | str) for value in (r, g, b)):
        raise TypeError("not three numbers")
    return float(r), float(g), float(b)


def _pixels(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number of pixels")
    return value
