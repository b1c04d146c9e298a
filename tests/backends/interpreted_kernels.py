"""Run by test_fused.py with Triton's interpreter, which has to be on before the kernels are imported."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script finds its own folder only, and a checkout may do

import torch
import torch.nn.functional as F

from resnet_infer.backends.base import Normalize
from resnet_infer.backends.conv_kernels import Weights, convolved
from resnet_infer.backends.fused import FusedResNet
from resnet_infer.backends.stem_kernels import max_pool, square_weight, squares
from resnet_infer.model.fold import fold_batch_norm
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.preprocessing import Preprocessing

SMALL = replace(spec_from_name("resnet50"), name="small", depths=(2, 1), widths=(64, 128), classes=10)
NETWORKS: tuple[ModelSpec, ...] = (
    SMALL,  # a projection with each stride, an addition, both kernels, both strides
    replace(SMALL, stride_in="first"),
    replace(SMALL, block="basic", depths=(1, 2)),
    replace(SMALL, block="basic", depths=(1, 2), shortcut="A"),
    replace(SMALL, block="basic", shortcut="none"),
)
CROP = 32


def stems() -> int:
    """Every layout of some sizes, odd ones too, against PyTorch's convolution and pooling."""
    weight = torch.randn(8, 3, 7, 7)
    scale, shift = torch.tensor([0.01, 0.02, 0.015]), torch.tensor([-1.0, -2.0, -1.5])
    seen = 0
    for height, width in ((32, 32), (33, 31), (40, 45)):
        planar = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
        for x_BCHW in (planar, planar.contiguous(memory_format=torch.channels_last)):
            normalised = x_BCHW * scale.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1)
            expected = F.conv2d(normalised, weight, None, 2, 3)
            actual = F.conv2d(squares(x_BCHW, scale, shift, torch.float32), square_weight(weight))
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)
            assert torch.equal(max_pool(expected), F.max_pool2d(expected, 3, 2, 1))
            seen += 1
    return seen


@torch.inference_mode()
def networks() -> int:
    """Whole networks of few blocks, crops and images of another size, against PyTorch's."""
    normalize = Normalize(Preprocessing(), "cpu")
    seen = 0
    for spec in NETWORKS:
        net = ResNet(spec).train()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias)
        net(torch.randn(8, 3, 64, 64))
        folded = fold_batch_norm(net.eval())
        fused = FusedResNet(folded, normalize, torch.float32, CROP, kernels=True)
        for height, width in ((CROP, CROP), (49, 58)):
            x_BCHW = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
            expected = with_head(folded, "pooled")(normalize(x_BCHW))
            actual = with_head(fused, "pooled")(x_BCHW)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
            seen += 1
    return seen


def no_numbers() -> int:
    """What is no number stays so, as in PyTorch: else scores of damaged weights or of an overflow would look right."""
    x_BHWC = torch.zeros(1, 8, 8, 64)
    x_BHWC[0, 3, 3] = float("nan")
    x_BCHW = x_BHWC.permute(0, 3, 1, 2)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    weights = Weights(weight_NHWC=conv.weight.permute(0, 2, 3, 1).contiguous(), bias_N=conv.bias, pad=1)
    expected = F.relu(conv(x_BCHW)), F.max_pool2d(x_BCHW, 3, 2, 1)
    actual = convolved(x_BHWC, weights).permute(0, 3, 1, 2), max_pool(x_BCHW)
    for one, other in zip(actual, expected, strict=True):
        assert bool(other.isnan().any())
        assert torch.equal(one.isnan(), other.isnan())
    return len(actual)


torch.manual_seed(0)
print(stems(), "stems", networks(), "networks", no_numbers(), "kernels")
