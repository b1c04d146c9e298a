"""The residual networks of the paper and their plain twins, with torchvision's module names.

Sources: He et al. 2015 section 3.3 and 4.2; torchvision.models.resnet for the key layout
(`conv1 bn1 layerX.Y.convZ downsample.0/1 fc`); option A pads zero channels on both sides, as the CIFAR
checkpoints in circulation do.

Shapes: B images, C channels, H and W pixels, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_infer.errors import UsageError
from resnet_infer.spec.architectures import ModelSpec

INPUT_OFFSET = "input_offset"


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


class Block(nn.Module):
    """A basic or bottleneck block: F(x) + shortcut(x), or F(x) alone in a plain network, then ReLU."""

    def __init__(self, spec: ModelSpec, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * spec.expansion
        if spec.block == "basic":
            self.conv1 = conv(channels, width, 3, stride)
            self.conv2 = conv(width, out, 3)
        else:
            first, middle = (stride, 1) if spec.stride_in == "first" else (1, stride)
            self.conv1 = conv(channels, width, 1, first)
            self.conv2 = conv(width, width, 3, middle)
            self.conv3 = conv(width, out, 1)
            self.bn3 = nn.BatchNorm2d(out)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(self.conv2.out_channels)
        self.bottleneck = spec.block == "bottleneck"
        self.plain = spec.shortcut == "none"
        self.downsample = shortcut(spec, channels, out, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        y_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        y_BCHW = self.bn2(self.conv2(y_BCHW))
        if self.bottleneck:
            y_BCHW = self.bn3(self.conv3(F.relu(y_BCHW)))
        if not self.plain:
            y_BCHW = y_BCHW + (self.downsample(x_BCHW) if self.downsample is not None else x_BCHW)
        return F.relu(y_BCHW)


class ResNet(nn.Module):
    """A network of the paper; `forward` gives pooled logits, `features` the last feature map.

    Initialisation: He et al. 2015b, fan-out for convolutions as torchvision, PyTorch's default for the classifier.

    `input_offset`, of shape (3, H, W), is what a per-pixel mean subtracts besides the channel means, in the units of
    the normalised input. Networks trained with it (section 4.2) take inputs of that one size; most have none.
    """

    input_offset: Tensor | None

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        imagenet = spec.stem == "imagenet"
        self.conv1 = conv(3, spec.stem_width, 7, 2) if imagenet else conv(3, spec.stem_width, 3)
        self.bn1 = nn.BatchNorm2d(spec.stem_width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if imagenet else nn.Identity()
        self.stages: list[str] = []
        channels = spec.stem_width
        for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                blocks.append(Block(spec, channels, width, stride=2 if stage > 1 and index == 0 else 1))
                channels = width * spec.expansion
            self.stages.append(f"layer{stage}")
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, spec.classes)
        self.register_buffer(INPUT_OFFSET, None)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last feature map. Shapes: (B, 3, H, W) -> (B, C, h, w) with h = ceil(H / 32), or / 4 on CIFAR."""
        if self.input_offset is not None:
            x_BCHW = subtract_offset(x_BCHW, self.input_offset)
        x_BCHW = self.maxpool(F.relu(self.bn1(self.conv1(x_BCHW))))
        for stage in self.stages:
            x_BCHW = self.get_submodule(stage)(x_BCHW)
        return x_BCHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits after global average pooling. Shapes: (B, 3, H, W) -> (B, K)."""
        logits: Tensor = self.fc(self.features(x_BCHW).mean((2, 3)))
        return logits


def subtract_offset(x_BCHW: Tensor, offset_CHW: Tensor) -> Tensor:
    """The input with its per-pixel mean gone; raises UsageError for any size but the mean's, and in an export."""
    if torch.compiler.is_exporting() or x_BCHW.shape[1:] != offset_CHW.shape:
        _, height, width = offset_CHW.shape
        given = "any size" if torch.compiler.is_exporting() else f"{x_BCHW.shape[3]}x{x_BCHW.shape[2]}"
        raise UsageError(
            f"this network was trained with a per-pixel mean of {width}x{height} and takes nothing else, not {given}; "
            "test it by crops of that size, or train it with --mean channel"
        )
    return x_BCHW - offset_CHW


def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias (batch norm follows) that halves by its stride, rounding up."""
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)


def shortcut(spec: ModelSpec, channels: int, out: int, stride: int) -> nn.Module | None:
    """Section 3.3's options; None is the identity."""
    if spec.has_projection(channels, out, stride):
        return nn.Sequential(conv(channels, out, 1, stride), nn.BatchNorm2d(out))
    if spec.shortcut == "A" and (channels != out or stride != 1):
        return PaddedShortcut(channels, out, stride)
    return None


@torch.no_grad()
def build(spec: ModelSpec, state_dict: dict[str, Tensor] | None = None) -> ResNet:
    """The network in evaluation mode, with these weights or random ones (seeded by the global generator).

    `state_dict` must have exactly this network's keys and shapes; `adapters.adapt` sees to that.
    """
    if state_dict is None:
        return ResNet(spec).eval()
    with torch.device("meta"):
        net = ResNet(spec)
        if INPUT_OFFSET in state_dict:
            net.input_offset = torch.empty_like(state_dict[INPUT_OFFSET])
    net.load_state_dict(state_dict, strict=True, assign=True)
    return net.requires_grad_(False).eval()
