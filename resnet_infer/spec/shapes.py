"""Input shapes a backend accepts, as data: one range, or one for every optimisation profile of an engine.

A TensorRT engine is tuned for the middle of each of its profiles and refuses what lies outside all of them. Profiles
come from the protocol that the engine is for, so the two cannot drift apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnet_infer.errors import UsageError
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.protocols import Protocol

Shape = tuple[int, int, int]
"""(batch, height, width)."""

ANY = 2**31 - 1
USUAL_ASPECT = 4 / 3
"""Long side over short side of most photographs: what the whole-image profiles are tuned for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """The smallest and the largest shape accepted, and the one it is tuned for."""

    min: Shape
    opt: Shape
    max: Shape

    def accepts(self, height: int, width: int) -> bool:
        """Whether tiles of this size in pixels can be run."""
        (_, low_h, low_w), (_, high_h, high_w) = self.min, self.max
        return low_h <= height <= high_h and low_w <= width <= high_w

    def describe(self, channels: int = 3) -> str:
        """`1..32 x 3 x 224..448 x 224..448`, ends alike written once, no end as `any`."""
        batch, height, width = (_span(low, high) for low, high in zip(self.min, self.max, strict=True))
        return f"{batch} x {channels} x {height} x {width}"

    def to_dict(self) -> dict[str, list[int]]:
        """Plain values for a manifest."""
        return {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}

    @classmethod
    def from_dict(cls, values: Any) -> "ShapeRange":
        """The inverse of `to_dict`; raises UsageError for anything malformed."""
        try:
            low, best, high = (_shape(values[key]) for key in ("min", "opt", "max"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"shape range is incomplete or malformed: {error!r}") from error
        if not all(1 <= a <= b <= c <= ANY for a, b, c in zip(low, best, high, strict=True)):
            raise UsageError(f"shape range must have 1 <= min <= opt <= max; got {low}, {best}, {high}")
        return cls(min=low, opt=best, max=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange:
    """Tiles of the native size in one batch; larger tiles make smaller batches of as many pixels."""

    min: int = 1
    opt: int = 32
    max: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= 65535:
            raise UsageError(
                f"--batch-range needs 1 <= MIN <= OPT <= MAX <= 65535; got {self.min},{self.opt},{self.max}"
            )


def profiles_for(
    protocol: Protocol, spec: ModelSpec, batch: BatchRange, max_aspect: float = 2.0
) -> tuple[ShapeRange, ...]:
    """One range for every input size of a protocol, smallest first.

    Crops have one size. Whole images at shorter side s have sides s to s * `max_aspect`, either way up; their batches
    have as many pixels as native ones at the tuned size, and more at longer ones.
    Raises UsageError if `max_aspect` is below 1 or absurd.
    """
    if not 1 <= max_aspect <= 40:
        raise UsageError(f"--max-aspect must be 1..40, the long side over the short one; got {max_aspect:g}")
    if protocol.crops != "whole":
        side = protocol.crop
        best, most = _batches(batch, spec.native_size**2 / side**2)
        return (ShapeRange(min=(batch.min, side, side), opt=(best, side, side), max=(most, side, side)),)
    ranges = []
    for side in sorted(protocol.scales):
        long, longest = int(side * min(USUAL_ASPECT, max_aspect)), math.ceil(side * max_aspect)
        best, most = _batches(batch, spec.native_size**2 / (side * long))
        ranges.append(
            ShapeRange(min=(batch.min, side, side), opt=(best, side, long), max=(most, longest, longest)),
        )
    return tuple(ranges)


def _batches(batch: BatchRange, share: float) -> tuple[int, int]:
    """The tuned and the largest batch of tiles of which the native one is this share, never more than of that one."""
    most = max(batch.min, int(batch.max * min(1.0, share)))
    return min(most, max(batch.min, round(batch.opt * min(1.0, share)))), most


def range_for(ranges: Sequence[ShapeRange], height: int, width: int) -> int | None:
    """Index of the range that runs tiles of this size in pixels: of those that accept it, the one tuned nearest to it.

    Raises nothing: None where no range accepts it.
    """
    fitting = [index for index, accepted in enumerate(ranges) if accepted.accepts(height, width)]
    return min(fitting, key=lambda i: abs(ranges[i].opt[1] * ranges[i].opt[2] - height * width), default=None)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}..{'any' if high == ANY else high}"


def _shape(values: Any) -> Shape:
    if not isinstance(values, list | tuple) or not all(type(v) is int for v in values):
        raise TypeError(f"{values!r} is not three whole numbers")
    batch, height, width = values
    return batch, height, width
