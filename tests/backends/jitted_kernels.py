"""Run by test_fused.py: the kernels compiled by Triton for compute capability 9.0, for a GPU that is not there."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script finds its own folder only, and a checkout may do

import torch
import triton.runtime
from triton.backends.compiler import GPUTarget

from resnet_infer.backends import conv_kernels, stem_kernels
from resnet_infer.backends.conv_kernels import Weights, convolved
from resnet_infer.backends.stem_kernels import max_pool, squares

KERNELS: Any = (conv_kernels._conv, stem_kernels._squares, stem_kernels._max_pool)
SIZES = ((1, 224, 224), (3, 384, 512), (23, 640, 853), (5, 256, 331), (2, 34, 31))


class Driver:
    """What Triton asks of a driver before it launches, which is left out."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def variants() -> list[int]:
    """How often each kernel has been compiled."""
    return [len(kernel.device_caches[0][0]) for kernel in KERNELS]


def weights(channels: int, depth: int, kernel: int, projected: int = 0, **how: int) -> Weights:
    half = torch.bfloat16
    return Weights(
        weight_NHWC=torch.zeros(channels, kernel, kernel, depth, dtype=half),
        bias_N=torch.zeros(channels),
        second_NC=torch.zeros(channels, projected, dtype=half) if projected else None,
        **how,
    )


def network(batch: int, height: int, width: int) -> None:
    """A stem, a stage, and the beginning of the next: every kind of layer."""
    pixels = torch.zeros(batch, height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    stem = Weights(weight_NHWC=torch.zeros(64, 4, 1, 64, dtype=torch.bfloat16), bias_N=torch.zeros(64))
    x = squares(pixels, torch.ones(3), torch.ones(3), torch.bfloat16).permute(0, 2, 3, 1)
    x = max_pool(convolved(x, stem, run=4).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y = convolved(convolved(x, weights(64, 64, 1)), weights(64, 64, 3, pad=1))
    z = convolved(y, weights(256, 64, 1, projected=64), second_BHWC=x)
    z = convolved(y, weights(256, 64, 1), added_BHWN=z)
    y = convolved(convolved(z, weights(128, 256, 1)), weights(128, 128, 3, stride=2, pad=1))
    convolved(y, weights(512, 128, 1, projected=256, second_stride=2), second_BHWC=z)


triton.runtime.driver._active = triton.runtime.driver._default = Driver()  # type: ignore[assignment]
for compiled in KERNELS:
    compiled.run = lambda *given, run=compiled.run, warmup=True, **more: run(*given, warmup=True, **more)
network(*SIZES[0])
first = variants()
for size in SIZES[1:]:
    network(*size)
print(*first, "then", *variants())
