"""Architectures: a record of plain values, and what follows from it: its layers, parameters and multiply-adds.

Sources: He et al. 2015 (arXiv 1512.03385) Table 1 (ImageNet), section 4.2 (CIFAR-10), section 3.3 (shortcut options).
Where timm has a variant, the layers are those of timm/models/resnet.py. Names are in catalogue.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Literal

from resnet_infer.spec.architecture_record import ArchitectureRecord

Head = Literal["pooled", "dense"]


def halve(side: int, times: int) -> int:
    """`ceil(side / 2**times)`: what that many stride-2 layers, each rounding up, leave of a side in pixels."""
    return -(-side // (1 << times))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """One convolution without bias, and the normalisation that follows it directly."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    halvings: int
    """How many times the image has been halved, rounding up, at this convolution's output."""
    groups: int = 1
    dilation: int = 1
    norm: str = ""
    """Empty where none follows: before a pre-activated block's end."""

    @property
    def parameters(self) -> int:
        """Weights."""
        return self.in_channels // self.groups * self.out_channels * self.kernel**2


@dataclass(frozen=True, kw_only=True)
class ModelSpec(ArchitectureRecord):
    """One architecture. Two specs are the same network exactly when they are equal but for `name`."""

    @property
    def small(self) -> bool:
        """Whether it is for small images, as CIFAR's."""
        return self.stem == "cifar"

    @property
    def family(self) -> Literal["imagenet", "cifar"]:
        """What its inputs are like."""
        return "cifar" if self.small else "imagenet"

    @property
    def classic(self) -> bool:
        """Whether it is one of the paper's kind, however deep and wide: what fused kernels are for."""
        plain = ModelSpec(
            **{name: getattr(self, name) for name in ("name", "block", "depths", "widths", "shortcut", "stride_in")},
            stem=self.stem,
            classes=self.classes,
        )
        return plain == self and self.stem != "deep"

    @property
    def features(self) -> int:
        """Channels of the last feature map, which the classifier reads."""
        return self.block_outputs[-1]

    @property
    def native_size(self) -> int:
        """Side in pixels of the input the paper trained at."""
        return 32 if self.small else 224

    @property
    def multiple_of(self) -> int:
        """What an input's sides must be multiples of: means of 2x2 lose a row that the shortcut keeps."""
        return 1 << self._halvings if self.antialias == "average" else 1

    def strides(self) -> tuple[int, ...]:
        """Of every stage's first block."""
        kept = len(self.depths) - self.dilated
        return tuple(2 if 0 < stage < kept else 1 for stage in range(len(self.depths)))

    @property
    def _stem_halvings(self) -> int:
        return (self.stem != "cifar") + (self.pooling != "none")

    @property
    def _halvings(self) -> int:
        return self._stem_halvings + self.strides().count(2)

    def size_at(self, side: int, halvings: int) -> int:
        """What so many stride-2 layers leave of a side in pixels: each rounds up, but for Caffe's pooling."""
        stem = self._stem_halvings
        if self.pooling != "caffe" or halvings < stem:
            return halve(side, halvings)
        return halve(halve(side, stem - 1) // 2, halvings - stem)

    def map_size(self, side: int) -> int:
        """Side of the last feature map for an input side in pixels."""
        return self.size_at(side, self._halvings)

    @property
    def window(self) -> int:
        """Side of the dense head's pooling window: the map that the classifier saw in training (7, or 8 on CIFAR)."""
        return self.map_size(self.native_size)

    @property
    def min_dense_side(self) -> int:
        """Smallest image side in pixels at which the dense head has one full window."""
        usual = (self.window - 1) * (1 << self._halvings) + 1
        return next(side for side in range(usual, 2 * usual + 4) if self.map_size(side) >= self.window)

    @property
    def layers(self) -> int:
        """Weighted layers as the paper counts them: shortcuts are not counted, nor is a stem's depth."""
        return sum(self.depths) * (2 if self.block == "basic" else 3) + 2

    def stem_convs(self) -> tuple[Conv, ...]:
        """The stem's convolutions; `maxpool.0` is one that pools."""
        channels, stride = (self.channels, *self.stem_outputs), 1 if self.small else 2
        kernel = 7 if self.stem == "imagenet" else 3
        norm = "bn1" if self.stem_norm else ""
        names = ["conv1.0", "conv1.3", "conv1.6"] if self.stem == "deep" else ["conv1"]
        norms = ["conv1.1", "conv1.4", norm] if self.stem == "deep" else [norm]
        found = [
            Conv(name=name, in_channels=a, out_channels=b, kernel=kernel, stride=stride if not index else 1,
                 halvings=stride - 1, norm=after)
            for index, (name, after, (a, b)) in enumerate(zip(names, norms, pairwise(channels), strict=True))
        ]  # fmt: skip
        if self.pooling == "conv":
            last = self.stem_outputs[-1]
            found.append(
                Conv(name="maxpool.0", in_channels=last, out_channels=last, kernel=3, stride=2,
                     halvings=self._stem_halvings, norm="maxpool.1")
            )  # fmt: skip
        return tuple(found)

    def blocks(self) -> Iterator[tuple[str, tuple[Conv, ...]]]:
        """Every block's name and convolutions, in order; a projection, if any, is the last."""
        halvings, channels, dilation = self._stem_halvings, self.stem_outputs[-1], 1
        for stage, (depth, stride) in enumerate(zip(self.depths, self.strides(), strict=True)):
            before = dilation
            dilation *= 2 if stage >= len(self.depths) - self.dilated else 1
            for index in range(depth):
                name = f"layer{stage + 1}.{index}"
                yield name, tuple(
                    self._block(name, stage, channels, stride if not index else 1, halvings,
                                before if not index else dilation)
                )  # fmt: skip
                halvings += stride - 1 if not index else 0
                channels = self.block_outputs[stage]

    def _block(self, name: str, stage: int, channels: int, stride: int, before: int, dilation: int) -> Iterator[Conv]:
        width, out, after = self.widths[stage], self.block_outputs[stage], before + stride - 1
        pre, blurred = self.preactivation != "none", self.antialias != "none"
        if self.block == "basic":
            plan = [(width, 3, True), (out, 3, False)]
        else:
            first = self.stride_in == "first"
            plan = [(width // self.narrowing, 1, first), (width, 3, not first), (out, 1, False)]
        given, level = channels, before
        for number, (wide, kernel, strides) in enumerate(plan, start=1):
            level = after if strides and not blurred else level
            follows = number + 1 if pre else number
            yield Conv(
                name=f"{name}.conv{number}",
                in_channels=given,
                out_channels=wide,
                kernel=kernel,
                stride=stride if strides and not blurred else 1,
                halvings=level,
                groups=self.groups if kernel == 3 else 1,
                dilation=dilation if kernel == 3 else 1,
                norm=f"{name}.bn{follows}" if follows <= len(plan) else "",
            )
            given, level = wide, after if strides else level
        if self.has_projection(channels, out, stride):
            place = 1 if self.shortcut_pool else 0
            yield Conv(
                name=f"{name}.downsample.{place}",
                in_channels=channels,
                out_channels=out,
                kernel=self.shortcut_kernel if stride > 1 else 1,
                stride=1 if self.shortcut_pool else stride,
                halvings=after,
                norm="" if pre else f"{name}.downsample.{place + 1}",
            )

    def convs(self) -> Iterator[Conv]:
        """Every convolution in order, named as in the state dict; attention's layers are not among them."""
        yield from self.stem_convs()
        for _, convs in self.blocks():
            yield from convs

    def leading_norms(self) -> Iterator[tuple[str, int]]:
        """Name and channels of every normalisation that no convolution comes right before."""
        if self.preactivation != "none":
            for name, convs in self.blocks():
                yield f"{name}.bn1", convs[0].in_channels
        if self.final_norm:
            yield "bn", self.features

    def has_projection(self, channels: int, out: int, stride: int) -> bool:
        """Whether a block's shortcut is a convolution (section 3.3): never in A, at changes in B, always in C."""
        return self.shortcut == "C" or (self.shortcut == "B" and (channels != out or stride != 1))

    def attention_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor of the blocks' attention."""
        for name, _ in self.blocks() if self.attention != "none" else ():
            stage = int(name[5 : name.index(".")]) - 1
            channels, squeezed = self.block_outputs[stage], self.squeezed[stage]
            if self.attention == "eca":
                yield f"{name}.se.conv.weight", (1, 1, squeezed)
                continue
            yield f"{name}.se.fc1.weight", (squeezed, channels, 1, 1)
            yield f"{name}.se.fc1.bias", (squeezed,)
            yield f"{name}.se.fc2.weight", (channels, squeezed, 1, 1)
            yield f"{name}.se.fc2.bias", (channels,)

    def linears(self) -> Iterator[tuple[str, int, int]]:
        """Name, inputs and outputs of the classifier's layers."""
        widths = (self.features, *self.hidden, self.classes)
        for index, (given, wide) in enumerate(pairwise(widths)):
            yield f"fc.{2 * index}" if self.hidden else "fc", given, wide

    @cached_property
    def params(self) -> int:
        """Learned parameters: convolutions, scale and shift of normalisation, attention, classifier."""
        convs = sum(c.parameters + (2 * c.out_channels if c.norm else 0) for c in self.convs())
        norms = sum(2 * channels for _, channels in self.leading_norms())
        attention = sum(prod(shape) for _, shape in self.attention_shapes())
        *rest, (_, given, wide) = self.linears()
        return convs + norms + attention + sum((a + 1) * b for _, a, b in rest) + (given + self.bias) * wide

    def macs(self, height: int | None = None, width: int | None = None) -> int:
        """Multiply-adds of convolutions, attention and classifier for one pooled forward pass at this size in pixels.

        Normalisation, bias, pooling, blur and additions are not counted, as in Table 1. Default: the native size.
        """
        h, w = height or self.native_size, width or self.native_size
        convs = sum(c.parameters * self.size_at(h, c.halvings) * self.size_at(w, c.halvings) for c in self.convs())
        attention = sum(
            prod(shape) * (self.block_outputs[int(name[5 : name.index(".")]) - 1] if self.attention == "eca" else 1)
            for name, shape in self.attention_shapes()
            if name.endswith("weight")
        )
        return convs + attention + sum(given * wide for _, given, wide in self.linears())
