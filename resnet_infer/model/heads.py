"""The two heads over one trunk: `pooled` for crops, `dense` for the fully-convolutional test.

Source: the authors' release pools 7x7 with stride 1 before the classifier, so its convolutional form is a 7x7
stride-1 average pool and the classifier as a 1x1 convolution (He et al. 2015, section 3.4).
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from resnet_infer.spec.architectures import Head, ModelSpec


class Trunk(Protocol):
    """A `ResNet`, or another form of one."""

    spec: ModelSpec

    @property
    def fc(self) -> nn.Module:
        """One linear layer, or several with ReLU between them."""
        ...

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last feature map."""
        ...

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Pooled logits."""
        ...


class PooledHead(nn.Module):
    """Global average pooling and the classifier."""

    def __init__(self, net: Trunk) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W) -> logits (B, K)."""
        logits: Tensor = self.net(x_BCHW)
        return logits


class DenseHead(nn.Module):
    """The classifier at every position of the pooling window: a map of logits."""

    def __init__(self, net: Trunk) -> None:
        super().__init__()
        self.net = net
        self.window = net.spec.window

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W) -> logits (B, K, h - 6, w - 6) for a last map of h x w and a 7x7 window."""
        x_BCHW = F.avg_pool2d(self.net.features(x_BCHW), self.window, stride=1)
        for layer in self.net.fc if isinstance(self.net.fc, nn.Sequential) else (self.net.fc,):
            if isinstance(layer, nn.Linear):
                x_BCHW = F.conv2d(x_BCHW, layer.weight[:, :, None, None], layer.bias)
            else:  # the activation of a hidden layer
                x_BCHW = layer(x_BCHW)
        return x_BCHW


def with_head(net: Trunk, head: Head) -> PooledHead | DenseHead:
    """The network ending in this head; weights are shared, not copied."""
    return PooledHead(net) if head == "pooled" else DenseHead(net)
