"""What every backend is: one verb, and a true statement of what it runs.

Shapes: B tiles, C is 3, H and W pixels, K classes, h and w positions of the score map (1 and 1 when pooled).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from resnet_infer.preprocessing import Preprocessing
from resnet_infer.specs import Head

Shape = tuple[int, int, int]
"""(batch, height, width)."""

ANY = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """What runs: never what was wished for."""

    name: str
    """torch or onnxruntime."""
    device: str
    """cpu, or cuda:0 and so on, as torch spells it."""
    precision: str
    """fp32, bf16 or fp16: the type that weights and activations really have."""
    heads: tuple[Head, ...]
    """The heads that `run` can end in."""
    artifact: str
    """The checkpoint's key, or the file's name."""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """The input shapes a backend accepts, and the one it likes best."""

    min: Shape
    opt: Shape
    max: Shape

    def refuses(self, height: int, width: int) -> bool:
        """Whether tiles of this size in pixels cannot be run."""
        (_, low_h, low_w), (_, high_h, high_w) = self.min, self.max
        return not (low_h <= height <= high_h and low_w <= width <= high_w)


class Backend(Protocol):
    """Runs the network on batches of tiles."""

    info: BackendInfo
    shapes: ShapeRange

    def run(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """uint8 RGB tiles to logits, float32, of shape (B, K, h, w), on the backend's device.

        Normalisation is the backend's, on its device. Raises OutOfMemory if a smaller batch may fit.
        """
        ...

    def close(self) -> None:
        """Release the device's memory; `run` must not be called again."""
        ...


class Normalize:
    """RGB in 0..255 to the network's input: (x / 255 - mean) / std, as one multiplication and one addition."""

    def __init__(self, preprocessing: Preprocessing, device: str | torch.device) -> None:
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        self.scale = (1 / (255 * std)).float().view(1, 3, 1, 1).to(device)
        self.shift = (-mean / std).float().view(1, 3, 1, 1).to(device)

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 of the same shape and memory layout."""
        return torch.addcmul(self.shift, x_BCHW.float(), self.scale)
