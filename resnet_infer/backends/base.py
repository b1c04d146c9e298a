"""What every backend is: one verb, and a true statement of what it runs.

Shapes: B tiles, C channels (3 of a tile), H and W pixels, K classes, h and w positions of the score map (1 and 1 when
pooled).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from resnet_infer.spec.architectures import Head
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.shapes import ShapeRange

Provider = Literal["cpu", "cuda", "tensorrt"]
"""Execution providers of ONNX Runtime."""
Fusion = Literal["unfolded", "eager", "compiled", "fused"]
"""Which kernels a network runs as; see bench/roofline.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """What runs: never what was wished for."""

    name: str
    """torch, onnxruntime or tensorrt."""
    device: str
    """cpu, or cuda:0 and so on, as torch spells it."""
    precision: Precision
    """The type its layers really compute in, read off the tensors, the graph or the engine."""
    heads: tuple[Head, ...]
    """The heads that `run` can end in."""
    artifact: str
    """The checkpoint's key, or the file's name."""
    versions: Mapping[str, str] = field(default_factory=dict)
    fusion: Fusion = "fused"
    """What follows a convolution: kernels of their own, one for all of it, or the convolution's own end."""


Compile = Literal["default", "max-autotune", "cuda-graphs"]
"""torch.compile with joined kernels, or with those and the fastest of several for every product; or no compiler, but
the launches of every size of crops recorded once and replayed, for small batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a model is to be run; each option says whom it concerns, and is an error elsewhere."""

    compile: Compile | None = None
    """torch: compile the network, once for the size of crops and once for whole images of any size; or record it."""
    autocast: bool = False
    """torch, bf16 and fp16: keep fp32 weights and let autocast choose the type of every operation."""

    provider: Provider | None = None
    """ONNX Runtime: which execution provider; None is cuda on a CUDA device, else cpu."""
    prefer_nhwc: bool = False
    """ONNX Runtime on CUDA: convolutions with channels innermost, as tensor cores read them."""
    cuda_graph: bool = False
    """Engines, and ONNX Runtime on a GPU: record the launches of every input shape once and
    replay them. For small batches, which are bound by launches."""
    tf32: bool = False
    """ONNX Runtime on a GPU: let fp32 products round their inputs to TF32."""
    cache: Path | None = None
    """ONNX Runtime on TensorRT: folder of built engines and timings; by default in this package's cache folder."""
    profiles: tuple[ShapeRange, ...] = ()
    """ONNX Runtime on TensorRT: shapes to build engines for; by default those that the file's head is for."""


class Backend(Protocol):
    """Runs the network on batches of tiles."""

    info: BackendInfo
    shapes: tuple[ShapeRange, ...]
    """What it accepts: one range, or an engine's profiles."""

    def run(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """uint8 RGB tiles to logits, float32, of shape (B, K, h, w), on the backend's device.

        Normalisation is the backend's, on its device. Raises OutOfMemory if a smaller batch may fit.
        """
        ...

    def close(self) -> None:
        """Release the device's memory; `run` must not be called again."""
        ...


LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Of R, G and B in grey, as ITU-R BT.601 has it and Pillow's convert("L") rounds it: exact in float32."""


class Normalize:
    """RGB in 0..255 to the network's input: its channels, its range, its mean and std.

    That is a permutation, the luma or an opaque alpha, and then one multiplication and one addition. Grey is what
    Pillow's convert("L") makes of the same pixels, to the bit.
    """

    def __init__(self, preprocessing: Preprocessing, device: str | torch.device) -> None:
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        white = 255 if preprocessing.input_range == "0-1" else 1
        self.scale = (1 / (white * std)).float().view(1, -1, 1, 1).to(device)
        self.shift = (-mean / std).float().view(1, -1, 1, 1).to(device)
        self.channels = preprocessing.channels
        self.reversed = preprocessing.channel_order == "bgr"
        self.plain = preprocessing.plain
        """Whether multiplication and addition are all."""
        self.luma = torch.tensor(LUMA).view(1, 3, 1, 1).to(device) if self.channels == 1 else None

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 (B, channels, H, W) of the same memory layout."""
        if self.reversed:
            x_BCHW = x_BCHW.flip(1)
        if self.luma is not None:
            grey_BCHW = (x_BCHW.float() * self.luma).sum(1, keepdim=True)
            return torch.addcmul(self.shift, (grey_BCHW + 0.5).floor(), self.scale)
        if self.channels == 4:
            x_BCHW = torch.cat((x_BCHW, torch.full_like(x_BCHW[:, :1], 255)), 1)
        return torch.addcmul(self.shift, x_BCHW.float(), self.scale)
