"""Convolutions as Triton kernels that also add the bias, the shortcut and apply ReLU, and the stem around them.

A ResNet on a large GPU is bound by memory: what a convolution writes, the next kernel reads. Here the output is written
once, after everything that follows the convolution. A 1x1 projection shortcut is a second product into the same
accumulator, so it is never written at all. Sums are fp32.

The kernel is an implicit product (Chetlur et al. 2014, section 3): rows are output pixels, columns output channels, and
the sum runs over taps and input channels. The 7x7 stem with stride 2 on three channels becomes 4x4 with stride 1 on the
twelve channels of 2x2 pixels, padded to sixteen, which tensor cores can read; the same kernel normalises the pixels.

Activations have channels innermost. Shapes: B images, H and W pixels, C channels in, N out.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

STEM_PIXEL = 16
"""Channels of a 2x2 square of RGB pixels, padded from 12."""
STEM_BEFORE, STEM_AROUND = 2, 3
"""Squares of padding above and to the left, and on both sides together."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the product is cut: output pixels, output channels and summed channels of a tile."""

    pixels: int
    channels: int
    depth: int
    warps: int
    stages: int


TILINGS = (
    Tiling(128, 128, 64, 8, 3),
    Tiling(128, 128, 64, 8, 2),
    Tiling(128, 128, 64, 4, 3),
    Tiling(128, 256, 64, 8, 3),
    Tiling(128, 256, 64, 8, 2),
    Tiling(256, 128, 64, 8, 3),
    Tiling(128, 64, 64, 4, 4),
    Tiling(128, 64, 64, 4, 2),
    Tiling(256, 64, 64, 8, 3),
    Tiling(64, 128, 64, 4, 4),
    Tiling(64, 128, 64, 4, 2),
    Tiling(64, 256, 64, 8, 3),
    Tiling(64, 64, 64, 4, 5),
)


@triton.jit
def _conv(
    x_ptr, w_ptr, bias_ptr, added_ptr, second_x_ptr, second_w_ptr, out_ptr,
    rows, channels, depth, out_height, out_width, height, width, row_step, pixel_step,
    second_depth, second_height, second_width,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr,
    ADDS: tl.constexpr, RELU: tl.constexpr, SECOND_STRIDE: tl.constexpr,
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
    if RELU:
        total = tl.maximum(total, 0.0)
    tl.store(out_ptr + target, total.to(out_ptr.dtype.element_ty), mask=there[:, None])


@triton.jit
def _squares(
    x_ptr, scale_ptr, shift_ptr, out_ptr, count, height, width, out_height, out_width,
    image_step, row_step, column_step, channel_step, BEFORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    part = (at % 16).to(tl.int32)
    pixel = at // 16
    column = (pixel % out_width).to(tl.int32)
    row = ((pixel // out_width) % out_height).to(tl.int32)
    image = pixel // out_width // out_height
    channel = part % 3
    y = 2 * (row - BEFORE) + part // 6
    x = 2 * (column - BEFORE) + (part // 3) % 2
    inside = (part < 12) & (y >= 0) & (y < height) & (x >= 0) & (x < width) & (at < count)
    source = image * image_step + y * row_step + x * column_step + channel * channel_step
    value = tl.load(x_ptr + source, mask=inside, other=0).to(tl.float32)
    value = value * tl.load(scale_ptr + channel) + tl.load(shift_ptr + channel)
    tl.store(out_ptr + at, tl.where(inside, value, 0.0).to(out_ptr.dtype.element_ty), mask=at < count)


@triton.jit
def _max_pool(
    x_ptr, out_ptr, count, height, width, out_height, out_width, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = (at % CHANNELS).to(tl.int32)
    pixel = at // CHANNELS
    column = (pixel % out_width).to(tl.int32)
    row = ((pixel // out_width) % out_height).to(tl.int32)
    image = pixel // out_width // out_height
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    for tap in tl.static_range(9):
        y, x = 2 * row + (tap // 3 - 1), 2 * column + (tap % 3 - 1)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (at < count)
        source = ((image * height + y) * width + x) * CHANNELS + channel
        best = tl.maximum(best, tl.load(x_ptr + source, mask=inside, other=float("-inf")).to(tl.float32))
    tl.store(out_ptr + at, best.to(out_ptr.dtype.element_ty), mask=at < count)


class Convolution:
    """A convolution's weights as the kernel reads them, and what it is joined with."""

    def __init__(self, conv: nn.Conv2d, *, second: nn.Conv2d | None = None) -> None:
        """`second` is a 1x1 projection of another input that is added to the result."""
        self.channels, self.depth = conv.out_channels, conv.in_channels
        self.kernel, self.stride, self.pad = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        self.weight = conv.weight.detach().permute(0, 2, 3, 1).contiguous()
        bias = conv.bias.detach().float() if conv.bias is not None else torch.zeros(self.channels)
        self.second_stride, self.second_depth, self.second_weight = 0, 0, self.weight
        if second is not None:
            self.second_stride, self.second_depth = second.stride[0], second.in_channels
            self.second_weight = second.weight.detach().flatten(1).contiguous()
            bias = bias + second.bias.detach().float() if second.bias is not None else bias
        self.bias = bias.to(self.weight.device).contiguous()

    def __call__(
        self, x_BHWC: Tensor, tiling: Tiling, *, added: Tensor | None = None, second: Tensor | None = None
    ) -> Tensor:
        """ReLU of the convolution of (B, H, W, C), plus `added` of the output's shape, plus the projection of `second`."""
        batch, height, width, _ = x_BHWC.shape
        out_height = (height + 2 * self.pad - self.kernel) // self.stride + 1
        out_width = (width + 2 * self.pad - self.kernel) // self.stride + 1
        out_BHWN = x_BHWC.new_empty((batch, out_height, out_width, self.channels))
        return _launch(
            self, x_BHWC, out_BHWN, tiling, added, second, kernel=(self.kernel, self.kernel), depth=self.depth,
            pixel_step=self.depth, stride=self.stride, pad=self.pad,
        )  # fmt: skip


class Stem:
    """The stem's 7x7 convolution with stride 2 on pixels that are normalised on the way, and ReLU."""

    def __init__(self, conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
        """`scale` and `shift` of three channels: the network's input is pixel * scale + shift."""
        weight_N377 = conv.weight.detach()
        self.channels = conv.out_channels
        # squares of 2x2 pixels: tap i of 7 is pixel (i + 1) % 2 of square (i + 1) // 2
        padded_N388 = torch.nn.functional.pad(weight_N377, (1, 0, 1, 0))
        squares_N344 = padded_N388.view(self.channels, 3, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).flatten(3)
        self.weight = torch.nn.functional.pad(squares_N344, (0, STEM_PIXEL - 12)).contiguous()
        bias = conv.bias if conv.bias is not None else torch.zeros(self.channels, device=self.weight.device)
        self.bias = bias.detach().float().contiguous()
        self.scale, self.shift = scale.float().flatten().contiguous(), shift.float().flatten().contiguous()
        self.second_stride, self.second_depth, self.second_weight = 0, 0, self.weight

    def __call__(self, x_BCHW: Tensor, tiling: Tiling) -> Tensor:
        """uint8 (B, 3, H, W) in any layout to (B, ceil(H / 2), ceil(W / 2), N)."""
        batch, _, height, width = x_BCHW.shape
        out_height, out_width = -(-height // 2), -(-width // 2)
        squares = self.weight.new_empty((batch, out_height + STEM_AROUND, out_width + STEM_AROUND, STEM_PIXEL))
        block = 1024
        image_step, channel_step, row_step, column_step = x_BCHW.stride()
        _squares[(triton.cdiv(squares.numel(), block),)](
            x_BCHW, self.scale, self.shift, squares, squares.numel(), height, width, *squares.shape[1:3],
            image_step, row_step, column_step, channel_step, BEFORE=STEM_BEFORE, BLOCK=block,
        )  # fmt: skip
        out_BHWN = self.weight.new_empty((batch, out_height, out_width, self.channels))
        # four squares in a row are one run of 64 values in memory: a 4x1 kernel on 64 channels
        return _launch(
            self, squares, out_BHWN, tiling, None, None, kernel=(4, 1), depth=4 * STEM_PIXEL, pixel_step=STEM_PIXEL,
            stride=1, pad=0,
        )  # fmt: skip


def _launch(
    of: Convolution | Stem, x: Tensor, out: Tensor, tiling: Tiling, added: Tensor | None, second: Tensor | None, *,
    kernel: tuple[int, int], depth: int, pixel_step: int, stride: int, pad: int,
) -> Tensor:  # fmt: skip
    batch, out_height, out_width, channels = out.shape
    rows = batch * out_height * out_width
    second_size = second.shape[1:3] if second is not None else (0, 0)
    _conv[(triton.cdiv(rows, tiling.pixels) * triton.cdiv(channels, tiling.channels),)](
        x, of.weight, of.bias, added if added is not None else out, second if second is not None else x,
        of.second_weight, out, rows, channels, depth, out_height, out_width, x.shape[1], x.shape[2],
        x.shape[2] * pixel_step, pixel_step, of.second_depth, *second_size,
        KERNEL_H=kernel[0], KERNEL_W=kernel[1], STRIDE=stride, PAD=pad, ADDS=added is not None, RELU=True,
        SECOND_STRIDE=of.second_stride if second is not None else 0,
        PIXELS=tiling.pixels, CHANNELS=tiling.channels, DEPTH=tiling.depth,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return out


def max_pool(x_BHWC: Tensor) -> Tensor:
    """3x3, stride 2, padding 1: (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C)."""
    batch, height, width, channels = x_BHWC.shape
    out_BHWC = x_BHWC.new_empty((batch, -(-height // 2), -(-width // 2), channels))
    block = 1024
    _max_pool[(triton.cdiv(out_BHWC.numel(), block),)](
        x_BHWC, out_BHWC, out_BHWC.numel(), height, width, *out_BHWC.shape[1:3], CHANNELS=channels, BLOCK=block
    )  # fmt: skip
    return out_BHWC
