"""ONNX files of another tool: features and probabilities of a network that takes channels last, or bytes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_infer.model.checkpoints import Overrides
from resnet_infer.model.resnet import ResNet

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
FLAGS = Overrides(mean=MEAN, std=STD)
SIDE = 32


class Foreign(nn.Module):
    """Features and probabilities of a network that takes channels last, or bytes."""

    def __init__(self, net: Any, form: str) -> None:
        super().__init__()
        self.net, self.form = net, form
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1) * 255)

    def forward(self, x: torch.Tensor) -> Any:
        if self.form.endswith("-nhwc"):
            x = x.permute(0, 3, 1, 2)
        if self.form.startswith("uint8"):
            x = (x.float() - self.mean) / self.std
        features = self.net.features(x).mean((2, 3))
        return features, self.net.fc(features).softmax(1)


def foreign(net: ResNet, path: Path, form: str = "normalized", batch: int = 0, **options: Any) -> Path:
    kind = torch.uint8 if form.startswith("uint8") else torch.float32
    shape = (batch or 2, SIDE, SIDE, 3) if form.endswith("-nhwc") else (batch or 2, 3, SIDE, SIDE)
    free: dict[int, str] = {} if batch else {0: "n"}
    torch.onnx.export(
        Foreign(net, form).eval(),
        (torch.zeros(shape, dtype=kind),),
        str(path),
        dynamo=False,
        input_names=["image"],
        output_names=["features", "scores"],
        dynamic_axes={"image": free, "features": free, "scores": free},
        **{"opset_version": 17} | options,
    )
    return path
