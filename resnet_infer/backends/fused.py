"""A residual network whose kernels each do all that follows a convolution; how each product is cut is found by trial.

Shapes: B images, H and W pixels, C channels, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resnet_infer.backends.base import Normalize
from resnet_infer.backends.conv_kernels import TILINGS, Convolution, Stem, Tiling, max_pool
from resnet_infer.model.resnet import Block, ResNet
from resnet_infer.specs import ModelSpec

TRIED = 4
"""Runs of a tiling that are timed, after one that compiles it."""
Key = tuple[object, ...]


def fusible(spec: ModelSpec) -> bool:
    """Whether the kernels take this network: the ImageNet stem, and channels in multiples of 64."""
    widths = (spec.stem_width, *spec.widths)
    return spec.stem == "imagenet" and spec.shortcut != "A" and all(width % 64 == 0 for width in widths)


class FusedResNet(nn.Module):
    """`ResNet` for uint8 pixels, on a GPU: normalised, and with the same heads."""

    def __init__(self, net: ResNet, normalize: Normalize) -> None:
        """`net` is folded, in half precision and on its device."""
        super().__init__()
        self.spec, self.fc = net.spec, net.fc
        self._stem = Stem(net.conv1, normalize.scale, normalize.shift)
        blocks = [block for stage in net.stages for block in net.get_submodule(stage)]
        self._blocks = [_Block(block) for block in blocks if isinstance(block, Block)]
        self._tilings: dict[Key, Tiling] = {}

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last feature map of uint8 pixels. Shapes: (B, 3, H, W) -> (B, C, ceil(H / 32), ceil(W / 32))."""
        rows = x_BCHW.shape[0] * x_BCHW.shape[2] * x_BCHW.shape[3] // 4
        x_BHWC = self._best(("stem", rows.bit_length()), self._stem.channels, lambda how: self._stem(x_BCHW, how))
        x_BHWC = max_pool(x_BHWC)
        for block in self._blocks:
            x_BHWC = block(x_BHWC, self._conv)
        return x_BHWC.permute(0, 3, 1, 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits after global average pooling. Shapes: (B, 3, H, W) -> (B, K)."""
        logits: Tensor = self.fc(self.features(x_BCHW).mean((2, 3)))
        return logits

    def _conv(
        self, conv: Convolution, x_BHWC: Tensor, *, added: Tensor | None = None, second: Tensor | None = None
    ) -> Tensor:
        rows = x_BHWC.shape[0] * x_BHWC.shape[1] * x_BHWC.shape[2] // conv.stride**2
        joined = (added is not None, conv.second_depth if second is not None else 0)
        key = (conv.kernel, conv.stride, conv.depth, conv.channels, *joined, rows.bit_length())
        return self._best(key, conv.channels, lambda how: conv(x_BHWC, how, added=added, second=second))

    def _best(self, key: Key, channels: int, run: Callable[[Tiling], Tensor]) -> Tensor:
        if key not in self._tilings:
            fitting = [tiling for tiling in TILINGS if channels % tiling.channels == 0]
            self._tilings[key] = min(fitting, key=lambda tiling: milliseconds(run, tiling))
        return run(self._tilings[key])


class _Block:
    """A basic or bottleneck block; a projection shortcut is part of the last convolution."""

    def __init__(self, block: Block) -> None:
        convs = [block.conv1, block.conv2, *([block.conv3] if block.bottleneck else [])]
        projection = block.downsample[0] if isinstance(block.downsample, nn.Sequential) else None
        self.first = [Convolution(conv) for conv in convs[:-1]]
        self.last = Convolution(convs[-1], second=projection if isinstance(projection, nn.Conv2d) else None)
        self.plain = block.plain

    def __call__(self, x_BHWC: Tensor, run: Callable[..., Tensor]) -> Tensor:
        y_BHWC = x_BHWC
        for conv in self.first:
            y_BHWC = run(conv, y_BHWC)
        if self.plain:
            return run(self.last, y_BHWC)
        if self.last.second_depth:
            return run(self.last, y_BHWC, second=x_BHWC)
        return run(self.last, y_BHWC, added=x_BHWC)


def milliseconds(run: Callable[[Tiling], Tensor], tiling: Tiling) -> float:
    """The shortest of a few runs; infinity for a tiling that does not fit this device."""
    try:
        run(tiling)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if "out of resource" in str(error):
            return float("inf")
        raise
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TRIED + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for mark in marks[1:]:
        run(tiling)
        mark.record()
    torch.cuda.synchronize()
    return min(before.elapsed_time(after) for before, after in zip(marks, marks[1:], strict=False))
