"""What a machine allows a network: the time of its kernels if each ran at the machine's own ceiling.

A kernel takes the larger of its arithmetic at the measured matrix rate and its traffic at the measured copy rate;
kernels do not overlap (Williams et al. 2009, one layer at a time). What the kernels are depends on what is fused:

    unfolded   convolution, batch norm, ReLU and addition each read and write memory: plain PyTorch
    eager      batch norm folded into the convolution; ReLU and addition apart: our torch backend
    compiled   one convolution and one kernel for all that follows it: torch.compile
    fused      everything in the convolution: our torch backend on CUDA in half precision, ONNX Runtime, TensorRT
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from resnet_infer.backends.base import Fusion
from resnet_infer.spec.architectures import Conv, ModelSpec
from resnet_infer.spec.precisions import Precision

BYTES: dict[Precision, int] = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1, "fp8": 1}
"""Of one activation."""
TENSOR_CORE_CHANNELS = 8
"""Input channels that a half-precision tensor core takes at least: the stem's three are padded."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One pass over memory: its multiply-adds, and the activations that it reads and writes, for one image."""

    name: str
    macs: int
    elements: int


@dataclass(frozen=True, slots=True)
class Roof:
    """The shortest time of one image, and whether arithmetic or memory takes more of it."""

    seconds: float
    bound: Literal["compute", "memory"]


def kernels(spec: ModelSpec, height: int, width: int, fusion: Fusion, *, pad_stem: bool = False) -> Iterator[Kernel]:
    """The kernels of one pass of a height x width image, in pixels. Weights are not counted: a batch shares them."""

    def size(conv: Conv) -> int:
        return conv.out_channels * spec.size_at(height, conv.halvings) * spec.size_at(width, conv.halvings)

    def one(conv: Conv, read: int, *, last: bool = False, shortcut: bool = False) -> Iterator[Kernel]:
        out = size(conv)
        channels = conv.in_channels // conv.groups
        if pad_stem and conv.name == stem.name:
            channels = TENSOR_CORE_CHANNELS
        macs = channels * conv.kernel**2 * out
        added = out if last and spec.shortcut != "none" else 0
        if fusion == "fused":
            yield Kernel(conv.name, macs, read + out + added)
            return
        yield Kernel(conv.name, macs, read + out)
        if fusion == "unfolded":
            yield Kernel(f"{conv.name}: batch norm", 0, 2 * out)
        if shortcut:
            return  # its sum is the block's last kernel's
        if fusion == "compiled":
            yield Kernel(f"{conv.name}: rest", 0, 2 * out + added)
            return
        if added:
            yield Kernel(f"{conv.name}: addition", 0, 3 * out)
        yield Kernel(f"{conv.name}: ReLU", 0, 2 * out)

    stem, *_ = spec.stem_convs()
    read = stem.in_channels * height * width
    for conv in spec.stem_convs():
        yield from one(conv, read)
        read = size(conv)
    if spec.pooling in ("max", "caffe"):
        pooled = (
            spec.stem_outputs[-1] * spec.size_at(height, stem.halvings + 1) * spec.size_at(width, stem.halvings + 1)
        )
        yield Kernel("maxpool", 0, read + pooled)
        read = pooled
    block_input = read
    for name, convs in spec.blocks():
        main = [conv for conv in convs if "downsample" not in conv.name]
        if spec.preactivation != "none":
            yield Kernel(f"{name}: normalised", 0, 2 * block_input)
        read = block_input
        for conv in main:
            yield from one(conv, read, last=conv is main[-1])
            read = size(conv)
            if (
                conv is main[-2] and conv.halvings < main[-1].halvings and spec.antialias != "none"
            ):  # in a stride's place
                blurred = (
                    conv.out_channels * spec.size_at(height, main[-1].halvings) * spec.size_at(width, main[-1].halvings)
                )
                yield Kernel(f"{conv.name}: blur", 0, read + blurred)
                read = blurred
        if spec.attention != "none":
            yield Kernel(f"{name}: attention", 0, 3 * read)  # its means, and every value read and written
        for conv in convs[len(main) :]:
            yield from one(conv, block_input, shortcut=True)
        block_input = read
    yield Kernel("head", sum(given * wide for _, given, wide in spec.linears()), block_input)


def roof(
    spec: ModelSpec,
    height: int,
    width: int,
    fusion: Fusion,
    precision: Precision,
    *,
    tflop_per_s: float,
    gb_per_s: float,
    tensor_cores: bool = False,
) -> Roof:
    """The roof of one pass; ceilings in units of 10^12 operations and 10^9 bytes a second."""
    seconds = {"compute": 0.0, "memory": 0.0}
    narrow = tensor_cores and BYTES[precision] < 4
    for kernel in kernels(spec, height, width, fusion, pad_stem=narrow):
        compute = 2 * kernel.macs / (tflop_per_s * 1e12)
        memory = kernel.elements * BYTES[precision] / (gb_per_s * 1e9)
        seconds["compute" if compute > memory else "memory"] += max(compute, memory)
    bound: Literal["compute", "memory"] = "compute" if seconds["compute"] > seconds["memory"] else "memory"
    return Roof(sum(seconds.values()), bound)
