"""The ResNet family as one network built from its record, with torchvision's and timm's module names.

Sources: He et al. 2015 sections 3.3 and 4.2; torchvision.models.resnet for the key layout
(`conv1 bn1 layerX.Y.convZ downsample.0/1 fc`); timm/models/resnet.py for deep stems (`conv1.0` to `conv1.6`), attention
(`se`) and anti-aliasing; He et al. 2016 for pre-activation, whose last normalisation is `bn`; option A pads zero
channels on both sides, as the CIFAR checkpoints in circulation do. Parts are in parts.py.

Shapes: B images, C channels, H and W pixels, K classes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from resnet_infer.errors import UsageError
from resnet_infer.model.parts import ACTIVATIONS, antialiased, attention, conv_of, norm_of, padded_shortcut
from resnet_infer.spec.architectures import Conv, ModelSpec

INPUT_OFFSET = "input_offset"


class Block(nn.Module):
    """A basic or bottleneck block: F(x) + shortcut(x), or F(x) alone in a plain network, then the activation.

    A pre-activated one has normalisation and activation before each convolution instead, and nothing after the sum.
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv3: nn.Conv2d
    bn1: nn.Module
    bn2: nn.Module
    bn3: nn.Module

    def __init__(self, spec: ModelSpec, name: str, convs: Sequence[Conv]) -> None:
        super().__init__()
        stage = int(name[len("layer") : name.index(".")]) - 1
        branch = [conv for conv in convs if "downsample" not in conv.name]
        self.bottleneck = spec.block == "bottleneck"
        self.plain = spec.shortcut == "none"
        self.preactivated, self.projects_raw = spec.preactivation != "none", spec.preactivation == "raw"
        self.activation = ACTIVATIONS[spec.activation]
        for number, conv in enumerate(branch, start=1):
            self.add_module(f"conv{number}", conv_of(conv))
            channels = conv.in_channels if self.preactivated else conv.out_channels
            self.add_module(f"bn{number}", norm_of(spec, channels))
        stride = spec.strides()[stage] if name.endswith(".0") else 1
        self.blurred = 2 if self.bottleneck else 1  # the convolution that strides, if anything does its work
        self.antialias = antialiased(spec, branch[self.blurred - 1].out_channels) if stride > 1 else None
        self.se = attention(spec, stage)
        self.downsample: nn.Module | None = None
        if len(convs) > len(branch):
            self.downsample = nn.Sequential(*_projection(spec, convs[-1], stride))
        elif spec.shortcut == "A":
            self.downsample = padded_shortcut(branch[0].in_channels, branch[-1].out_channels, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        if self.preactivated:
            return self._preactivated(x_BCHW)
        y_BCHW = self._blur(1, self.activation(self.bn1(self.conv1(x_BCHW))))
        y_BCHW = self.bn2(self.conv2(y_BCHW))
        if self.bottleneck:
            y_BCHW = self.bn3(self.conv3(self._blur(2, self.activation(y_BCHW))))
        if self.se is not None:
            y_BCHW = self.se(y_BCHW)
        if not self.plain:
            y_BCHW = y_BCHW + self._shortcut(x_BCHW)
        return self.activation(y_BCHW)

    def _preactivated(self, x_BCHW: Tensor) -> Tensor:
        a_BCHW = self.activation(self.bn1(x_BCHW))
        y_BCHW = self.conv2(self.activation(self.bn2(self.conv1(a_BCHW))))
        if self.bottleneck:
            y_BCHW = self.conv3(self.activation(self.bn3(y_BCHW)))
        projected = x_BCHW if self.projects_raw or self.downsample is None else a_BCHW
        summed_BCHW: Tensor = y_BCHW + self._shortcut(projected)
        return summed_BCHW

    def _shortcut(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW if self.downsample is None else self.downsample(x_BCHW)

    def _blur(self, number: int, x_BCHW: Tensor) -> Tensor:
        return x_BCHW if self.antialias is None or number != self.blurred else self.antialias(x_BCHW)


class ResNet(nn.Module):
    """A network of the family; `forward` gives pooled logits, `features` the last feature map.

    Initialisation: He et al. 2015b, fan-out for convolutions as torchvision, PyTorch's default for the classifier.

    `input_offset`, of shape (3, H, W), is what a per-pixel mean subtracts besides the channel means, in the units of
    the normalised input. Networks trained with it (section 4.2) take inputs of that one size; most have none.
    """

    input_offset: Tensor | None

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.activation = ACTIVATIONS[spec.activation]
        stem = [conv for conv in spec.stem_convs() if conv.name.startswith("conv1")]
        self.conv1: nn.Module = conv_of(stem[0])
        if len(stem) > 1:
            parts: list[nn.Module] = []
            for conv in stem[:-1]:
                parts += [conv_of(conv), norm_of(spec, conv.out_channels), _Activation(spec)]
            self.conv1 = nn.Sequential(*parts, conv_of(stem[-1]))
        self.bn1 = norm_of(spec, spec.stem_outputs[-1]) if spec.stem_norm else None
        self.maxpool = _stem_pool(spec)
        self.stages: list[str] = []
        blocks: dict[str, list[Block]] = {}
        for name, convs in spec.blocks():
            blocks.setdefault(name[: name.index(".")], []).append(Block(spec, name, convs))
        for stage, members in blocks.items():
            self.stages.append(stage)
            self.add_module(stage, nn.Sequential(*members))
        self.bn = norm_of(spec, spec.features) if spec.final_norm else None
        layers = [
            nn.Linear(a, b, bias=spec.bias or bool(spec.hidden[i:])) for i, (_, a, b) in enumerate(spec.linears())
        ]
        self.fc: nn.Module = layers[0]
        if len(layers) > 1:
            self.fc = nn.Sequential(*[m for layer in layers[:-1] for m in (layer, nn.ReLU())], layers[-1])
        self.register_buffer(INPUT_OFFSET, None)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last feature map. Shapes: (B, 3, H, W) -> (B, C, h, w) with h = ceil(H / 32), or / 4 on CIFAR."""
        if self.input_offset is not None:
            x_BCHW = subtract_offset(x_BCHW, self.input_offset)
        x_BCHW = self.conv1(x_BCHW)
        if self.bn1 is not None:
            x_BCHW = self.activation(self.bn1(x_BCHW))
        x_BCHW = self.maxpool(x_BCHW)
        for stage in self.stages:
            x_BCHW = self.get_submodule(stage)(x_BCHW)
        return x_BCHW if self.bn is None else self.activation(self.bn(x_BCHW))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits after global average pooling. Shapes: (B, 3, H, W) -> (B, K)."""
        logits: Tensor = self.fc(self.features(x_BCHW).mean((2, 3)))
        return logits


def _projection(spec: ModelSpec, conv: Conv, stride: int) -> Iterator[nn.Module]:
    if spec.shortcut_pool:
        yield nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    yield conv_of(conv)
    if conv.norm:
        yield norm_of(spec, conv.out_channels)


class _Activation(nn.Module):
    """The network's activation as a module, for a sequence."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.function = ACTIVATIONS[spec.activation]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.function(x_BCHW)


def _stem_pool(spec: ModelSpec) -> nn.Module:
    channels = spec.stem_outputs[-1]
    if spec.pooling == "none":
        return nn.Identity()
    if spec.pooling == "conv":
        return nn.Sequential(conv_of(spec.stem_convs()[-1]), norm_of(spec, channels), _Activation(spec))
    if spec.pooling == "caffe":
        return nn.MaxPool2d(3, 2, ceil_mode=True)
    blur = antialiased(spec, channels)
    if blur is None:
        return nn.MaxPool2d(3, 2, padding=1)
    return blur if spec.antialias == "average" else nn.Sequential(nn.MaxPool2d(3, 1, padding=1), blur)


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
