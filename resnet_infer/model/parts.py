"""Parts of the family's networks: convolutions and norms by their record, anti-aliasing, attention, padded shortcuts.

Shapes: B images, C channels, H and W pixels.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_infer.spec.architecture_record import NORM_GROUPS, Activation
from resnet_infer.spec.architectures import Conv, ModelSpec

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "leaky-relu": F.leaky_relu,
}


def conv_of(conv: Conv) -> nn.Conv2d:
    """A convolution without bias that halves by its stride, rounding up."""
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel,
        conv.stride,
        padding=conv.kernel // 2 * conv.dilation,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=False,
    )


def norm_of(spec: ModelSpec, channels: int) -> nn.Module:
    """The network's normalisation."""
    return nn.BatchNorm2d(channels) if spec.norm == "batch" else nn.GroupNorm(NORM_GROUPS, channels)


def antialiased(spec: ModelSpec, channels: int) -> nn.Module | None:
    """What halves a map in a stride's place; None where the convolution strides itself."""
    if spec.antialias == "average":
        return nn.AvgPool2d(2)
    return Blur(channels) if spec.antialias == "blur" else None


def attention(spec: ModelSpec, stage: int) -> nn.Module | None:
    """What weighs the channels of a branch, named as in timm; None without."""
    if spec.attention == "none":
        return None
    channels, squeezed = spec.block_outputs[stage], spec.squeezed[stage]
    return SqueezeExcite(channels, squeezed) if spec.attention == "se" else EfficientChannelAttention(squeezed)


def padded_shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    """Option A's shortcut; None where it is the identity."""
    return PaddedShortcut(channels, out, stride) if channels != out or stride != 1 else None


class PaddedShortcut(nn.Module):
    """Option A: every second pixel of the input, with zero channels added on both sides; no parameters."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out - channels) // 2
        self.after = out - channels - self.before

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        x_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x_BCHW
        return F.pad(x_BCHW, (0, 0, 0, 0, self.before, self.after))


class Blur(nn.Module):
    """A [1 2 1] filter in both directions, of stride 2, over reflected borders (Zhang 2019, timm's BlurPool2d)."""

    filter_CHW: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25], device="cpu")  # a real one, where weights are still to come
        kernel = (row[:, None] * row).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer("filter_CHW", kernel, persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        padded_BCHW = F.pad(x_BCHW, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded_BCHW, self.filter_CHW, stride=2, groups=x_BCHW.shape[1])


class SqueezeExcite(nn.Module):
    """Hu et al. 2017: channels weighed by two layers on their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> the same."""
        weights_BC11 = self.fc2(F.relu(self.fc1(x_BCHW.mean((2, 3), keepdim=True))))
        weighed_BCHW: Tensor = x_BCHW * weights_BC11.sigmoid()
        return weighed_BCHW


class EfficientChannelAttention(nn.Module):
    """Wang et al. 2019: channels weighed by one convolution along their means."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> the same."""
        weights_B1C = self.conv(x_BCHW.mean((2, 3))[:, None])
        weighed_BCHW: Tensor = x_BCHW * weights_B1C.sigmoid()[:, 0, :, None, None]
        return weighed_BCHW
