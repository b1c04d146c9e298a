"""What precedes the blocks on a GPU, as Triton kernels: pixels into squares, the first convolution on them, pooling.

A 7x7 convolution with stride 2 on three channels is slow on tensor cores, which read eight at a time. It is the same
sum as a 4x4 convolution with stride 1 on the twelve channels of squares of 2x2 pixels, padded to sixteen. One kernel
normalises the pixels and lays them out so, with the zeros of the convolution's padding around them. PyTorch's own
max pooling writes the places of the maxima as well, eight bytes each; ours does not.

Shapes: B images, H and W pixels, C channels, N channels out.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from resnet_infer.backends.base import Normalize
from resnet_infer.backends.conv_kernels import Weights, convolved

CHANNELS = 16
"""Of a square: its twelve values, padded."""
BEFORE, AROUND = 2, 3
"""Squares of padding above and to the left; and above and below, or left and right, together."""
SQUARES = 4
"""Under the kernel, in a row."""
BLOCK = 1024


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width", "image_step", "row_step"])
def _squares(
    x_ptr, scale_ptr, shift_ptr, out_ptr, count, height, width, out_height, out_width,
    image_step, channel_step, row_step, column_step, BEFORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    part = (at % 16).to(tl.int32)
    square = at // 16
    column = (square % out_width).to(tl.int32)
    row = ((square // out_width) % out_height).to(tl.int32)
    image = square // out_width // out_height
    channel = part % 3
    y = 2 * (row - BEFORE) + part // 6
    x = 2 * (column - BEFORE) + (part // 3) % 2
    inside = (part < 12) & (y >= 0) & (y < height) & (x >= 0) & (x < width) & (at < count)
    source = image * image_step + channel * channel_step + y * row_step + x * column_step
    value = tl.load(x_ptr + source, mask=inside, other=0).to(tl.float32)
    value = value * tl.load(scale_ptr + channel) + tl.load(shift_ptr + channel)
    tl.store(out_ptr + at, tl.where(inside, value, 0.0).to(out_ptr.dtype.element_ty), mask=at < count)


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width"])
def _max_pool(
    x_ptr, out_ptr, count, height, width, out_height, out_width, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
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
        value = tl.load(x_ptr + source, mask=inside, other=float("-inf")).to(tl.float32)
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out_ptr + at, best.to(out_ptr.dtype.element_ty), mask=at < count)


class SquaresConvolution:
    """The 7x7 convolution with stride 2 of a folded network, on pixels, and ReLU."""

    def __init__(self, conv: nn.Conv2d, normalize: Normalize, dtype: torch.dtype) -> None:
        self.scale_C, self.shift_C = normalize.scale.flatten(), normalize.shift.flatten()
        weight_NCHW = square_weight(conv.weight.detach()).to(dtype)
        # the four squares of a row lie side by side: one column of four times the channels
        self.weights = Weights(
            weight_NHWC=weight_NCHW.permute(0, 2, 3, 1).flatten(2)[:, :, None].contiguous(),
            bias_N=conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float(),
        )

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to (B, N, ceil(H / 2), ceil(W / 2)), channels innermost."""
        x_BCHW = squares(x_BCHW, self.scale_C, self.shift_C, self.weights.weight_NHWC.dtype)
        return convolved(x_BCHW.permute(0, 2, 3, 1), self.weights, run=SQUARES).permute(0, 3, 1, 2)


def squares(x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels, uint8 (B, 3, H, W) in any layout, times `scale_C` plus `shift_C` (float32), as squares.

    The result is (B, 16, ceil(H / 2) + 3, ceil(W / 2) + 3), channels innermost: what `square_weight` convolves.
    """
    batch, _, height, width = x_BCHW.shape
    size = (-(-height // 2) + AROUND, -(-width // 2) + AROUND)
    out_BHWC = torch.empty((batch, *size, CHANNELS), dtype=dtype, device=x_BCHW.device)
    _squares[_grid(out_BHWC)](
        x_BCHW, scale_C, shift_C, out_BHWC, out_BHWC.numel(), height, width, *size, *x_BCHW.stride(),
        BEFORE=BEFORE, BLOCK=BLOCK, enable_fp_fusion=True,
    )  # fmt: skip
    return out_BHWC.permute(0, 3, 1, 2)


def square_weight(weight_N377: Tensor) -> Tensor:
    """The weight of a 7x7 convolution with stride 2 and padding 3 as one of `squares`: (N, 16, 4, 4)."""
    padded_N388 = F.pad(weight_N377, (1, 0, 1, 0))  # tap i of 7 is pixel (i + 1) % 2 of square (i + 1) // 2
    of_pixels = padded_N388.reshape(-1, 3, 4, 2, 4, 2)  # N, channel, square, pixel, square, pixel
    return F.pad(of_pixels.permute(0, 3, 5, 1, 2, 4).flatten(1, 3), (0, 0, 0, 0, 0, CHANNELS - 12))


def max_pool(x_BCHW: Tensor) -> Tensor:
    """3x3 with stride 2 and padding 1, channels innermost: (B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2))."""
    batch, channels, height, width = x_BCHW.shape
    x_BHWC = x_BCHW.permute(0, 2, 3, 1).contiguous()
    size = (-(-height // 2), -(-width // 2))
    out_BHWC = x_BHWC.new_empty((batch, *size, channels))
    _max_pool[_grid(out_BHWC)](
        x_BHWC, out_BHWC, out_BHWC.numel(), height, width, *size, CHANNELS=channels, BLOCK=BLOCK,
        enable_fp_fusion=True,
    )  # fmt: skip
    return out_BHWC.permute(0, 3, 1, 2)


def _grid(out: Tensor) -> tuple[int]:
    return (triton.cdiv(out.numel(), BLOCK),)
