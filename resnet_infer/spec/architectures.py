"""Architectures as data: every network of the paper, its exact parameter count and multiply-adds.

Source: He et al. 2015 (arXiv 1512.03385) Table 1 (ImageNet), section 4.2 (CIFAR-10), section 3.3 (shortcut
options A, B, C). The `-v1` suffix strides in the first 1x1 convolution as the paper does; without it the
stride sits in the 3x3 as in torchvision, which changes the function but no weight's shape.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from resnet_infer.errors import UnknownNameError, UsageError

BlockKind = Literal["basic", "bottleneck"]
Shortcut = Literal["A", "B", "C", "none"]
Stem = Literal["imagenet", "cifar"]
Stride = Literal["first", "3x3"]
Head = Literal["pooled", "dense"]

EXPANSION: Mapping[str, int] = {"basic": 1, "bottleneck": 4}
MAX_BLOCKS_PER_STAGE = 1000


def halve(side: int, times: int) -> int:
    """`ceil(side / 2**times)`: what that many stride-2 layers, each rounding up, leave of a side in pixels."""
    return -(-side // (1 << times))


@dataclass(frozen=True, slots=True)
class Conv:
    """One convolution (each is followed by batch normalisation)."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    halvings: int
    """How many times the image has been halved, rounding up, at this convolution's output."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One architecture. Two specs are the same network exactly when they are equal but for `name`."""

    name: str
    block: BlockKind
    depths: tuple[int, ...]
    """Blocks per stage."""
    widths: tuple[int, ...]
    """Channels of the 3x3 convolutions per stage."""
    shortcut: Shortcut
    stride_in: Stride
    """Which convolution of a downsampling bottleneck strides; basic blocks always stride in their first."""
    stem: Stem
    classes: int

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in (self.name, self.block, self.shortcut, self.stride_in, self.stem)):
            raise UsageError("architecture record is malformed: its name, block, shortcut, stride and stem are texts")
        if self.block not in get_args(BlockKind) or self.stem not in get_args(Stem):
            raise UsageError(f"architecture '{self.name}': unknown block '{self.block}' or stem '{self.stem}'")
        if self.shortcut not in get_args(Shortcut) or self.stride_in not in get_args(Stride):
            raise UsageError(f"architecture '{self.name}': unknown shortcut '{self.shortcut}' or stride")
        if len(self.depths) != len(self.widths) or not 1 <= len(self.depths) <= 8:
            raise UsageError(f"architecture '{self.name}': needs one width per stage, 1 to 8 stages")
        if not all(1 <= depth <= MAX_BLOCKS_PER_STAGE for depth in self.depths):
            raise UsageError(f"architecture '{self.name}': blocks per stage must be 1..{MAX_BLOCKS_PER_STAGE}")
        if not all(1 <= width <= 8192 for width in self.widths) or not 1 <= self.classes <= 10**6:
            raise UsageError(f"architecture '{self.name}': widths or classes out of range")

    @property
    def expansion(self) -> int:
        """Output channels of a block over its width."""
        return EXPANSION[self.block]

    @property
    def stem_width(self) -> int:
        """Channels after the first convolution."""
        return self.widths[0]

    @property
    def features(self) -> int:
        """Channels of the last feature map, which the classifier reads."""
        return self.widths[-1] * self.expansion

    @property
    def native_size(self) -> int:
        """Side in pixels of the input the paper trained at."""
        return 224 if self.stem == "imagenet" else 32

    @property
    def _halvings(self) -> int:
        return len(self.depths) - 1 + (2 if self.stem == "imagenet" else 0)

    def map_size(self, side: int) -> int:
        """Side of the last feature map for an input side in pixels; every stride-2 layer rounds up."""
        return halve(side, self._halvings)

    @property
    def window(self) -> int:
        """Side of the dense head's pooling window: the map that the classifier saw in training (7, or 8 on CIFAR)."""
        return self.map_size(self.native_size)

    @property
    def min_dense_side(self) -> int:
        """Smallest image side in pixels at which the dense head has one full window."""
        return (self.window - 1) * (1 << self._halvings) + 1

    @property
    def layers(self) -> int:
        """Weighted layers as the paper counts them: shortcuts are not counted."""
        return sum(self.depths) * (2 if self.block == "basic" else 3) + 2

    def convs(self) -> Iterator[Conv]:
        """Every convolution in order, named as in the state dict."""
        halvings = 1 if self.stem == "imagenet" else 0
        yield Conv("conv1", 3, self.stem_width, 7 if halvings else 3, 1 + halvings, halvings)
        halvings *= 2  # the max pool
        channels = self.stem_width
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                yield from self._block(f"layer{stage}.{index}", channels, width, stride, halvings)
                halvings += stride - 1
                channels = width * self.expansion

    def _block(self, name: str, channels: int, width: int, stride: int, before: int) -> Iterator[Conv]:
        out, after = width * self.expansion, before + stride - 1
        if self.block == "basic":
            yield Conv(f"{name}.conv1", channels, width, 3, stride, after)
            yield Conv(f"{name}.conv2", width, out, 3, 1, after)
        elif self.stride_in == "first":
            yield Conv(f"{name}.conv1", channels, width, 1, stride, after)
            yield Conv(f"{name}.conv2", width, width, 3, 1, after)
            yield Conv(f"{name}.conv3", width, out, 1, 1, after)
        else:
            yield Conv(f"{name}.conv1", channels, width, 1, 1, before)
            yield Conv(f"{name}.conv2", width, width, 3, stride, after)
            yield Conv(f"{name}.conv3", width, out, 1, 1, after)
        if self.has_projection(channels, out, stride):
            yield Conv(f"{name}.downsample.0", channels, out, 1, stride, after)

    def has_projection(self, channels: int, out: int, stride: int) -> bool:
        """Whether a block's shortcut is a 1x1 convolution (section 3.3): never in A, at changes in B, always in C."""
        return self.shortcut == "C" or (self.shortcut == "B" and (channels != out or stride != 1))

    @cached_property
    def params(self) -> int:
        """Learned parameters: convolutions, batch-norm scale and shift, classifier with bias."""
        convs = sum(c.in_channels * c.out_channels * c.kernel**2 + 2 * c.out_channels for c in self.convs())
        return convs + (self.features + 1) * self.classes

    def macs(self, height: int | None = None, width: int | None = None) -> int:
        """Multiply-adds of convolutions and classifier for one pooled forward pass at this size in pixels.

        Batch norm, bias, pooling and additions are not counted, as in Table 1. Default: the native size.
        """
        h, w = height or self.native_size, width or self.native_size
        return self.features * self.classes + sum(
            c.in_channels * c.out_channels * c.kernel**2 * halve(h, c.halvings) * halve(w, c.halvings)
            for c in self.convs()
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """The inverse of `to_dict`; raises UsageError for values no network has."""
        try:
            return cls(
                name=values["name"][:100],
                block=values["block"],
                depths=_whole(values["depths"]),
                widths=_whole(values["widths"]),
                shortcut=values["shortcut"],
                stride_in=values["stride_in"],
                stem=values["stem"],
                classes=_whole([values["classes"]])[0],
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"architecture record is incomplete or malformed: {error!r}") from error


def _whole(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not all(type(value) is int for value in values):
        raise TypeError("not whole numbers")
    return tuple(values)


_IMAGENET: Mapping[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
_CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
_NAME = re.compile(r"(resnet|plain)([1-9][0-9]{0,5})(-v1)?(?:-([abc]))?", re.IGNORECASE)


def architecture_names() -> tuple[str, ...]:
    """The paper's networks by name, without the optional `-v1` and `-A`, `-B`, `-C` suffixes."""
    resnets = [f"resnet{d}" for d in (*_IMAGENET, *_CIFAR_DEPTHS)]
    return (*resnets, "plain18", "plain34", *(f"plain{d}" for d in _CIFAR_DEPTHS))


def spec_from_name(name: str, classes: int | None = None) -> ModelSpec:
    """The architecture called `resnet50`, `resnet50-v1`, `resnet34-A`, `plain20`, ...

    Shortcuts default to B for ImageNet nets and A for CIFAR nets, classes to 1000 and 10.
    Raises UnknownNameError for any other name.
    """
    match = _NAME.fullmatch(name)
    family, depth = (match[1].lower(), int(match[2])) if match else ("", 0)
    if not match or f"{family}{depth}" not in architecture_names():
        raise UnknownNameError("architecture", name, architecture_names(), "`resnet-infer models` lists them.")
    imagenet = depth in _IMAGENET
    block, depths = _IMAGENET[depth] if imagenet else ("basic", ((depth - 2) // 6,) * 3)
    shortcut: Shortcut = "none" if family == "plain" else "B" if imagenet else "A"
    if match[4]:
        if family == "plain":
            raise UsageError(f"architecture '{name}': a plain network has no shortcuts, so no option {match[4]}")
        shortcut = match[4].upper()  # type: ignore[assignment]
    if match[3] and block == "basic":
        raise UsageError(f"architecture '{name}': -v1 is about bottleneck blocks; {family}{depth} has none")
    return canonical(
        ModelSpec(
            name="",
            block=block,
            depths=depths,
            widths=(64, 128, 256, 512) if imagenet else (16, 32, 64),
            shortcut=shortcut,
            stride_in="first" if match[3] else "3x3",
            stem="imagenet" if imagenet else "cifar",
            classes=classes or (1000 if imagenet else 10),
        )
    )


def canonical(spec: ModelSpec) -> ModelSpec:
    """The same network under its usual name: family, layers, and a suffix where it departs from the default."""
    family = "plain" if spec.shortcut == "none" else "resnet"
    default = "B" if spec.stem == "imagenet" else "A"
    v1 = "-v1" if spec.block == "bottleneck" and spec.stride_in == "first" else ""
    option = "" if spec.shortcut in ("none", default) else f"-{spec.shortcut}"
    return replace(spec, name=f"{family}{spec.layers}{v1}{option}")
