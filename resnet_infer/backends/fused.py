"""A residual network of few kernels for GPUs: every convolution applies bias, addition and ReLU before it writes.

A large GPU spends a ResNet's time on memory, not on arithmetic, so what matters is how often an activation is written
and read. PyTorch runs a convolution, the addition and ReLU as kernels of their own, and torch.compile joins all but the
convolution. Here they are one kernel: cuDNN's for crops, which it plans once for their size, and ours (conv_kernels.py)
for images of any size and where they are faster. Which one runs depends on the layer and on the image's size alone, so
the same command gives the same scores. The stem is in stem_kernels.py.

Shapes: B images, H and W pixels, C channels in, N out, K classes.
"""

import copy
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_infer.backends.base import Normalize
from resnet_infer.console import note
from resnet_infer.model.resnet import Block, ResNet
from resnet_infer.spec.architectures import ModelSpec

HALF = (torch.bfloat16, torch.float16)
UNIT = 64
"""Our kernels take channels in multiples of it."""
AGREE = 0.25
"""Largest difference over the largest logit. Rounding stays below a tenth of it; a wrong kernel is off by about 1."""
FEW = 64
"""Up to so many input channels, cuDNN's 1x1 convolution with an addition is the slower one (benchmarks/NOTES.md)."""


def fused_resnet(net: ResNet, normalize: Normalize, dtype: torch.dtype, crop: int) -> "FusedResNet | None":
    """The fused form of a folded fp32 network for crops of so many pixels a side, if it has one on its device.

    That is CUDA, half precision, one mean a channel, and a network of the paper's kind. It is compared with PyTorch's
    own kernels before it is given. Where it fails or disagrees, a note says so and the next simpler form is tried;
    None is for PyTorch's own.
    """
    if not net.spec.classic or net.input_offset is not None:
        return None
    device = _classifier(net).weight.device
    if device.type != "cuda" or dtype not in HALF:
        return None
    own = normalize.plain and has_kernels(net.spec, device)  # our stem's kernel reads RGB
    for kernels in (True, False) if own else (False,):
        what = "our convolution kernels" if kernels else "cuDNN's fused convolutions"
        try:
            found = FusedResNet(net, normalize, dtype, crop, kernels=kernels)
            if agrees(found, net, normalize):
                return found
            problem = "disagree with PyTorch's"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton's and cuDNN's own kinds
            problem = f"fail ({' '.join(str(error).split())[:160] or type(error).__name__})"
        note(f"{what} {problem} on {torch.cuda.get_device_name(device)}: slower ones are used; please report this")
    return None


def has_kernels(spec: ModelSpec, device: torch.device) -> bool:
    """Whether our own kernels take this network: Triton is for compute capability 8.0 and later."""
    widths = (*spec.stem_outputs, *spec.widths)
    return (
        importlib.util.find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and spec.stem == "imagenet"
        and all(width % UNIT == 0 for width in widths)
    )


@torch.inference_mode()
def agrees(fused: "FusedResNet", net: ResNet, normalize: Normalize) -> bool:
    """Whether logits of noise, a crop and another size, are those of the plain network in the same precision."""
    device, dtype = _classifier(net).weight.device, fused.dtype
    plain = copy.deepcopy(net).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(2015)
    for height, width in ((fused.crop, fused.crop), (fused.crop + 33, fused.crop + 10)):
        x_BCHW = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator).to(device)
        said_BK, expected_BK = fused(x_BCHW).float(), plain(normalize(x_BCHW).to(dtype)).float()
        if not bool(torch.isfinite(expected_BK).all()):
            continue  # it overflows on noise; whether it does on images shows in their scores
        if not bool((said_BK - expected_BK).abs().max() <= AGREE * expected_BK.abs().max()):
            return False
    return True


class FusedResNet(nn.Module):
    """A folded `ResNet` that takes pixels and has the same heads."""

    def __init__(self, net: ResNet, normalize: Normalize, dtype: torch.dtype, crop: int, *, kernels: bool) -> None:
        """`net` is in fp32, with batch norm folded and on its device; the copy that is made is in `dtype`.

        `crop` is the side of its crops in pixels. Without our own `kernels`, which are for plain RGB, cuDNN and
        PyTorch do everything.
        """
        assert normalize.plain or not kernels
        super().__init__()
        self.spec, self.dtype, self.crop, self.kernels = net.spec, dtype, crop, kernels
        self.normalize = normalize
        fc = _classifier(net)
        self.fc = nn.Linear(fc.in_features, fc.out_features, device="meta")
        self.fc.weight = nn.Parameter(fc.weight.to(dtype), requires_grad=False)
        self.fc.bias = nn.Parameter(fc.bias.to(dtype), requires_grad=False)
        if kernels:
            from resnet_infer.backends.stem_kernels import SquaresConvolution

            self.squares = SquaresConvolution(_only(net.conv1), normalize, dtype)
        else:
            self.stem = Convolution(_only(net.conv1), dtype)
        blocks = [block for stage in net.stages for block in net.get_submodule(stage).children()]
        self.blocks = [FusedBlock(block, dtype, kernels) for block in blocks if isinstance(block, Block)]

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last feature map of pixels. Shapes: uint8 (B, 3, H, W) -> (B, C, h, w), as `ResNet.features`."""
        crops = tuple(x_BCHW.shape[2:]) == (self.crop, self.crop)
        x_BCHW = self._stem(x_BCHW)
        for block in self.blocks:
            x_BCHW = block(x_BCHW, crops=crops)
        return x_BCHW

    def _stem(self, x_BCHW: Tensor) -> Tensor:
        if self.kernels:
            from resnet_infer.backends.stem_kernels import max_pool

            return max_pool(self.squares(x_BCHW))
        x_BCHW = self.stem(self.normalize(x_BCHW).to(self.dtype, memory_format=torch.channels_last))
        return F.max_pool2d(x_BCHW, 3, 2, padding=1) if self.spec.stem == "imagenet" else x_BCHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits after global average pooling. Shapes: uint8 (B, 3, H, W) -> (B, K)."""
        logits: Tensor = self.fc(self.features(x_BCHW).mean((2, 3)))
        return logits


class Convolution:
    """A convolution with bias and ReLU, by cuDNN; another tensor, or a projection of one, is added before ReLU."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, projection: nn.Conv2d | None = None) -> None:
        """A projection's bias is added with the convolution's."""
        assert not isinstance(conv.padding, str)
        self.how = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self.weight_NCHW = _channels_last(conv.weight, dtype)
        self.bias_N = _bias(conv) if projection is None else _bias(conv) + _bias(projection)
        self.half_bias_N = self.bias_N.to(dtype)
        self.projection_NCHW = None if projection is None else _channels_last(projection.weight, dtype)
        self.stride = 1 if projection is None else projection.stride[0]

    def __call__(
        self, x_BCHW: Tensor, added_BCHW: Tensor | None = None, second_BCHW: Tensor | None = None, *, crops: bool = True
    ) -> Tensor:
        """Channels innermost in memory; `added_BCHW` has the result's shape, `second_BCHW` is projected.

        `crops` says that images of this size come all the time.
        """
        if self.projection_NCHW is not None and second_BCHW is not None:
            added_BCHW = F.conv2d(second_BCHW, self.projection_NCHW, None, self.stride)
        if x_BCHW.device.type == "cpu":
            y_BCHW = F.conv2d(x_BCHW, self.weight_NCHW, self.half_bias_N, *self.how)
            return F.relu(y_BCHW if added_BCHW is None else y_BCHW + added_BCHW)
        if added_BCHW is None:
            return torch.cudnn_convolution_relu(x_BCHW, self.weight_NCHW, self.half_bias_N, *self.how)
        given = (x_BCHW, self.weight_NCHW, added_BCHW, 1.0, self.half_bias_N)
        return torch.cudnn_convolution_add_relu(*given, *self.how)


class OwnConvolution(Convolution):
    """The same by our own kernel, which has nothing to plan for a size; cuDNN still does crops where it is faster."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, projection: nn.Conv2d | None = None) -> None:
        from resnet_infer.backends.conv_kernels import Weights

        super().__init__(conv, dtype, projection)
        self.weights = Weights(
            weight_NHWC=self.weight_NCHW.permute(0, 2, 3, 1),
            bias_N=self.bias_N,
            stride=conv.stride[0],
            pad=conv.kernel_size[0] // 2,
            second_NC=None if self.projection_NCHW is None else self.projection_NCHW.flatten(1),
            second_stride=self.stride,
        )
        self.shallow = conv.kernel_size == (1, 1) and conv.in_channels <= FEW

    def __call__(
        self, x_BCHW: Tensor, added_BCHW: Tensor | None = None, second_BCHW: Tensor | None = None, *, crops: bool = True
    ) -> Tensor:
        """See Convolution."""
        from resnet_infer.backends.conv_kernels import convolved

        cudnn_is_slower = second_BCHW is not None or (added_BCHW is not None and self.shallow)
        if crops and not cudnn_is_slower:
            return super().__call__(x_BCHW, added_BCHW, second_BCHW)
        added_BHWN, second_BHWC = (None if x is None else _innermost(x) for x in (added_BCHW, second_BCHW))
        y_BHWN = convolved(_innermost(x_BCHW), self.weights, added_BHWN=added_BHWN, second_BHWC=second_BHWC)
        return y_BHWN.permute(0, 3, 1, 2)


class FusedBlock:
    """A basic or bottleneck block."""

    def __init__(self, block: Block, dtype: torch.dtype, kernels: bool) -> None:
        kind = OwnConvolution if kernels else Convolution
        convs = [block.conv1, block.conv2, *([block.conv3] if block.bottleneck else [])]
        self.plain, self.shortcut = block.plain, block.downsample
        projection = self.shortcut[0] if isinstance(self.shortcut, nn.Sequential) else None
        self.projects = isinstance(projection, nn.Conv2d)
        self.first = [kind(conv, dtype) for conv in convs[:-1]]
        self.last = kind(convs[-1], dtype, projection if isinstance(projection, nn.Conv2d) else None)

    def __call__(self, x_BCHW: Tensor, *, crops: bool = True) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, N, ceil(H / stride), ceil(W / stride))."""
        y_BCHW = x_BCHW
        for conv in self.first:
            y_BCHW = conv(y_BCHW, crops=crops)
        if self.plain:
            return self.last(y_BCHW, crops=crops)
        if self.projects:
            return self.last(y_BCHW, second_BCHW=x_BCHW, crops=crops)
        return self.last(y_BCHW, x_BCHW if self.shortcut is None else self.shortcut(x_BCHW), crops=crops)


def _classifier(net: ResNet) -> nn.Linear:
    assert isinstance(net.fc, nn.Linear)
    return net.fc


def _only(stem: nn.Module) -> nn.Conv2d:
    assert isinstance(stem, nn.Conv2d)
    return stem


def _channels_last(weight_NCHW: Tensor, dtype: torch.dtype) -> Tensor:
    return weight_NCHW.detach().to(dtype).contiguous(memory_format=torch.channels_last)


def _innermost(x_BCHW: Tensor) -> Tensor:
    """(B, H, W, C), contiguous."""
    return x_BCHW.permute(0, 2, 3, 1).contiguous()


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float()
