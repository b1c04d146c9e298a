"""ONNX files as other tools write them, and their scores by plain ONNX Runtime and NumPy."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from resnet_infer.model.checkpoints import Overrides

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
FLAGS = Overrides(mean=MEAN, std=STD)


class Ending(torch.nn.Module):
    """A network whose output goes through something else."""

    def __init__(self, net: torch.nn.Module, end: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.end = net, end

    def forward(self, x: torch.Tensor) -> Any:
        return self.end(self.net(x))


class Several(torch.nn.Module):
    """Features first, then logits, then whatever more is made of them."""

    def __init__(self, net: Any, *more: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.more = net, torch.nn.ModuleList(more)

    def forward(self, x: torch.Tensor) -> Any:
        features = self.net.features(x).mean((2, 3))
        logits = self.net.fc(features)
        return (features, logits, *(made(logits) for made in self.more))


def written(net: torch.nn.Module, path: Path, names: list[str] | None = None, **options: Any) -> Path:
    """The network as torch.onnx's older exporter writes it, with free sizes; `options` go to the exporter."""
    args = options.pop("args", (torch.zeros(2, 3, 32, 32),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            args,
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=names or ["scores"],
            **{"dynamic_axes": {"image": {0: "n", 2: "h", 3: "w"}}, "opset_version": 17} | options,
        )
    return path


def pixels(batch: int, side: int = 32) -> torch.Tensor:
    """uint8 (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)


def normalized(x_BCHW: torch.Tensor) -> NDArray[np.float32]:
    mean, std = (np.array(triple).reshape(1, 3, 1, 1) for triple in (MEAN, STD))
    return ((x_BCHW.numpy() / 255 - mean) / std).astype(np.float32)


def softmax(logits: NDArray[Any], axis: int = 1) -> NDArray[np.float64]:
    e = np.exp(logits.astype(np.float64) - logits.max(axis, keepdims=True))
    result: NDArray[np.float64] = e / e.sum(axis, keepdims=True)
    return result


def plain(path: Path, x: NDArray[Any], output: str | None = None) -> NDArray[Any]:
    """The file's own output in plain ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run([output or session.get_outputs()[0].name], {session.get_inputs()[0].name: x})
    result: NDArray[Any] = scores
    return result
