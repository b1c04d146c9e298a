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
from resnet_infer.spec.architectures import Conv, ModelSpec, halve
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
        return conv.out_channels * halve(height, conv.halvings) * halve(width, conv.halvings)

    def one(conv: Conv, read: int, *, last: bool = False, shortcut: bool = False) -> Iterator[Kernel]:
        out = size(conv)
        channels = TENSOR_CORE_CHANNELS if pad_stem and conv.name == "conv1" else conv.in_channels
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

    convs = list(spec.convs())
    stem = convs[0]
    yield from one(stem, 3 * height * width)
    block_input = size(stem)
    if spec.stem == "imagenet":
        pooled = stem.out_channels * halve(height, 2) * halve(width, 2)
        yield Kernel("maxpool", 0, block_input + pooled)
        block_input = pooled
    blocks: dict[str, list[Conv]] = {}
    for conv in convs[1:]:
        blocks.setdefault(".".join(conv.name.split(".")[:2]), []).append(conv)
    for block in blocks.values():
        main = [conv for conv in block if "downsample" not in conv.name]
        read = block_input
        for conv in main:
            yield from one(conv, read, last=conv is main[-1])
            read = size(conv)
        for conv in block:
            if "downsample" in conv.name:
                yield from one(conv, block_input, shortcut=True)
        block_input = read
    yield Kernel("head", spec.features * spec.classes, block_input)


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
