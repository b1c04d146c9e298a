"""A convolution as a Triton kernel that adds bias and shortcut and applies ReLU before it writes, for any image size.

It is an implicit product (Chetlur et al. 2014, section 3): rows are output pixels, columns output channels, sums run
over taps and input channels, in fp32. A 1x1 projection of another input is a second product into the same sum, so it is
never written to memory. Sizes are plain numbers to the kernel, and how it is cut depends on the layer alone: a new size
costs nothing, where cuDNN takes a millisecond a layer to plan, and scores do not depend on the batch.

Activations have channels innermost. Shapes: B images, H and W pixels, C channels in, N out.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the product is cut: output pixels, output channels and summed channels of a tile; warps, stages of loads."""

    pixels: int
    channels: int
    depth: int
    warps: int
    stages: int


NARROW, SHALLOW = Tiling(128, 64, 64, 4, 2), Tiling(64, 128, 64, 4, 2)
SQUARE, TAPS = Tiling(128, 128, 64, 4, 3), Tiling(128, 128, 64, 8, 3)


def tiling_for(channels: int, summed: int, kernel: int) -> Tiling:
    """The fastest on an H200, or nearly so, by a layer's output channels, the length of its sums and its kernel's side.

    Measured on resnet50's layers at batch 256 (benchmarks/results/gpu-a-levers_h200_2026-11-26.json).
    """
    if channels % 128:
        return NARROW
    if summed <= 128:
        return SHALLOW
    return TAPS if kernel > 1 else SQUARE


@triton.jit(do_not_specialize=["rows", "out_height", "out_width", "height", "width", "second_height", "second_width"])
def _conv(
    x_ptr, w_ptr, bias_ptr, added_ptr, second_x_ptr, second_w_ptr, out_ptr,
    rows, channels, depth, out_height, out_width, height, width, row_step, pixel_step,
    second_depth, second_height, second_width,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr,
    ADDS: tl.constexpr, SECOND_STRIDE: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    across = tl.cdiv(channels, CHANNELS)
    m = (number // across) * PIXELS + tl.arange(0, PIXELS)
    n = (number % across) * CHANNELS + tl.arange(0, CHANNELS)
    k = tl.arange(0, DEPTH)
    there = m < rows
    image = m // (out_height * out_width)
    place = m % (out_height * out_width)
    y, x = place // out_width, place % out_width
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    steps = depth // DEPTH
    weights = w_ptr + n[None, :] * (KERNEL_H * KERNEL_W * depth) + k[:, None]
    if KERNEL_H * KERNEL_W == 1 and STRIDE == 1:
        values = x_ptr + m[:, None].to(tl.int64) * depth + k[None, :]
        for step in range(steps):
            a = tl.load(values + step * DEPTH, mask=there[:, None], other=0.0)
            b = tl.load(weights + step * DEPTH)
            total = tl.dot(a, b, total)
    else:
        for step in range(KERNEL_H * KERNEL_W * steps):
            tap = step // steps
            row = y * STRIDE + tap // KERNEL_W - PAD
            column = x * STRIDE + tap % KERNEL_W - PAD
            inside = there
            if PAD:
                inside = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = (image.to(tl.int64) * height + row) * row_step + column * pixel_step + (step % steps) * DEPTH
            a = tl.load(x_ptr + at[:, None] + k[None, :], mask=inside[:, None], other=0.0)
            b = tl.load(weights + step * DEPTH)
            total = tl.dot(a, b, total)
    if SECOND_STRIDE:
        source = (image.to(tl.int64) * second_height + y * SECOND_STRIDE) * second_width + x * SECOND_STRIDE
        values = second_x_ptr + source[:, None] * second_depth + k[None, :]
        weights = second_w_ptr + n[None, :] * second_depth + k[:, None]
        for step in range(second_depth // DEPTH):
            a = tl.load(values + step * DEPTH, mask=there[:, None], other=0.0)
            b = tl.load(weights + step * DEPTH)
            total = tl.dot(a, b, total)
    total += tl.load(bias_ptr + n)[None, :]
    target = m[:, None].to(tl.int64) * channels + n[None, :]
    if ADDS:
        total += tl.load(added_ptr + target, mask=there[:, None], other=0.0).to(tl.float32)
    total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)  # or what is no number would be a good zero
    tl.store(out_ptr + target, total.to(out_ptr.dtype.element_ty), mask=there[:, None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A convolution's, in the types and layouts that the kernel reads."""

    weight_NHWC: Tensor
    bias_N: Tensor
    """float32."""
    stride: int = 1
    pad: int = 0
    second_NC: Tensor | None = None
    """A 1x1 projection of a second input."""
    second_stride: int = 1


def convolved(
    x_BHWC: Tensor, of: Weights, *, added_BHWN: Tensor | None = None, second_BHWC: Tensor | None = None, run: int = 1
) -> Tensor:
    """ReLU of a sum: the convolution, its bias, `added_BHWN` and the projection of `second_BHWC`. (B, h, w, N)

    With `run`, so many pixels of a row are taken as one with as many times the channels, each a pixel further on than
    the last; the kernel is then one column wide.
    """
    batch, height, width, pixel = x_BHWC.shape
    channels, kernel_h, kernel_w, depth = of.weight_NHWC.shape
    out_height = (height + 2 * of.pad - kernel_h) // of.stride + 1
    out_width = (width + 2 * of.pad - kernel_w * run) // of.stride + 1
    out_BHWN = x_BHWC.new_empty((batch, out_height, out_width, channels))
    rows = batch * out_height * out_width
    projected = None if second_BHWC is None else of.second_NC
    second = x_BHWC if second_BHWC is None else second_BHWC
    second_depth = 0 if projected is None else projected.shape[1]
    how = tiling_for(channels, kernel_h * kernel_w * depth + second_depth, kernel_h)
    _conv[(triton.cdiv(rows, how.pixels) * (channels // how.channels),)](
        x_BHWC, of.weight_NHWC, of.bias_N, out_BHWN if added_BHWN is None else added_BHWN, second,
        of.weight_NHWC if projected is None else projected, out_BHWN, rows, channels, depth, out_height, out_width,
        height, width, width * pixel, pixel, second_depth, *second.shape[1:3],
        KERNEL_H=kernel_h, KERNEL_W=kernel_w, STRIDE=of.stride, PAD=of.pad, ADDS=added_BHWN is not None,
        SECOND_STRIDE=0 if projected is None else of.second_stride,
        PIXELS=how.pixels, CHANNELS=how.channels, DEPTH=how.depth, num_warps=how.warps, num_stages=how.stages,
        enable_fp_fusion=True,
    )  # fmt: skip
    return out_BHWN
