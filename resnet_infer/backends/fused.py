"""A residual network of few kernels for GPUs: every convolution applies bias, addition and ReLU before it writes.

A large GPU spends a ResNet's time on memory, not on arithmetic, so what matters is how often an activation is written
and read. PyTorch runs a convolution, the addition and ReLU as kernels of their own, torch.compile joins all but the
convolution; cuDNN has them in one, and needs no compilation. The stem is in stem_kernels.py.

Shapes: B images, H and W pixels, C channels, K classes.
"""

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_infer.backends.base import Normalize
from resnet_infer.model.resnet import Block, ResNet

HALF = (torch.bfloat16, torch.float16)


def fusible(net: ResNet, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `FusedResNet` runs this network here: CUDA, half precision, one mean a channel."""
    return device.type == "cuda" and dtype in HALF and net.input_offset is None


class FusedResNet(nn.Module):
    """A folded `ResNet` that takes pixels and has the same heads."""

    def __init__(self, net: ResNet, normalize: Normalize, dtype: torch.dtype) -> None:
        """`net` is in fp32, with batch norm folded and on its device; the copy that is made is in `dtype`."""
        super().__init__()
        self.spec, self.dtype, self.normalize = net.spec, dtype, normalize
        self.fc = nn.Linear(net.fc.in_features, net.fc.out_features, device="meta")
        self.fc.weight = nn.Parameter(net.fc.weight.to(dtype), requires_grad=False)
        self.fc.bias = nn.Parameter(net.fc.bias.to(dtype), requires_grad=False)
        self.stem = Convolution(net.conv1, dtype)
        self.pools = net.spec.stem == "imagenet"
        self.squares = self.pools and net.fc.weight.is_cuda and importlib.util.find_spec("triton") is not None
        if self.squares:
            from resnet_infer.backends.stem_kernels import square_weight

            self.stem.weight = _channels_last(square_weight(net.conv1.weight), dtype)
            self.stem.how = ((1, 1), (0, 0), (1, 1), 1)
        blocks = [block for stage in net.stages for block in net.get_submodule(stage).children()]
        self.blocks = [FusedBlock(block, dtype) for block in blocks if isinstance(block, Block)]

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last feature map of pixels. Shapes: uint8 (B, 3, H, W) -> (B, C, h, w), as `ResNet.features`."""
        if self.squares:
            from resnet_infer.backends.stem_kernels import max_pool, squares

            scale_C, shift_C = self.normalize.scale.flatten(), self.normalize.shift.flatten()
            x_BCHW = max_pool(self.stem(squares(x_BCHW, scale_C, shift_C, self.dtype)))
        else:
            x_BCHW = self.normalize(x_BCHW).to(self.dtype, memory_format=torch.channels_last)
            x_BCHW = self.stem(x_BCHW)
            x_BCHW = F.max_pool2d(x_BCHW, 3, 2, padding=1) if self.pools else x_BCHW
        for block in self.blocks:
            x_BCHW = block(x_BCHW)
        return x_BCHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits after global average pooling. Shapes: uint8 (B, 3, H, W) -> (B, K)."""
        logits: Tensor = self.fc(self.features(x_BCHW).mean((2, 3)))
        return logits


class Convolution:
    """A convolution with bias and ReLU, and an addition before it if there is one."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, *, more_bias: Tensor | None = None) -> None:
        """`more_bias` is of what will be added."""
        self.weight = _channels_last(conv.weight, dtype)
        bias = torch.zeros(conv.out_channels, device=conv.weight.device) if conv.bias is None else conv.bias.detach()
        self.bias = (bias if more_bias is None else bias + more_bias).to(dtype)
        assert not isinstance(conv.padding, str)
        self.how = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def __call__(self, x_BCHW: Tensor, added_BCHW: Tensor | None = None) -> Tensor:
        """Channels innermost in memory; `added_BCHW` has the result's shape."""
        if x_BCHW.device.type == "cpu":
            y_BCHW = F.conv2d(x_BCHW, self.weight, self.bias, *self.how)
            return F.relu(y_BCHW if added_BCHW is None else y_BCHW + added_BCHW)
        if added_BCHW is None:
            return torch.cudnn_convolution_relu(x_BCHW, self.weight, self.bias, *self.how)
        return torch.cudnn_convolution_add_relu(x_BCHW, self.weight, added_BCHW, 1.0, self.bias, *self.how)


class FusedBlock:
    """A basic or bottleneck block. A projection's bias is added with the last convolution's."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        convs = [block.conv1, block.conv2, *([block.conv3] if block.bottleneck else [])]
        self.plain, self.shortcut, bias = block.plain, block.downsample, None
        self.projection: Tensor | None = None
        if isinstance(self.shortcut, nn.Sequential):
            conv = self.shortcut[0]
            assert isinstance(conv, nn.Conv2d)
            self.projection, self.stride = _channels_last(conv.weight, dtype), conv.stride[0]
            bias = conv.bias.detach() if conv.bias is not None else None
        self.first = [Convolution(conv, dtype) for conv in convs[:-1]]
        self.last = Convolution(convs[-1], dtype, more_bias=bias)

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
        y_BCHW = x_BCHW
        for conv in self.first:
            y_BCHW = conv(y_BCHW)
        if self.plain:
            return self.last(y_BCHW)
        if self.projection is not None:
            x_BCHW = F.conv2d(x_BCHW, self.projection, None, self.stride)
        elif self.shortcut is not None:
            x_BCHW = self.shortcut(x_BCHW)
        return self.last(y_BCHW, x_BCHW)


def _channels_last(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
