"""What the PyTorch peers share: a network made ready with their settings, and files in the order of their names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.materials import class_map, photos


def ready(
    net: torch.nn.Module,
    *,
    channels_last: bool,
    compile: str | None,
    dynamic: bool | None = None,
    device: str = "cpu",
    autocast: str | None = None,
) -> Any:
    """The network in evaluation mode on its device, in its memory format, compiled where asked for.

    `compile` is a mode of torch.compile, or `freezing`: the default mode with the weights as constants, which lets
    inductor fold batch norms and lay weights out beforehand. `autocast` is bfloat16 or float16; outputs are float32. On
    a GPU, cuDNN chooses its kernels by trial and fp32 products may round to TF32, as timm's scripts set it.
    """
    net = net.eval().requires_grad_(False).to(device)
    if device != "cpu":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    if compile is not None:
        import torch._inductor.config as inductor

        inductor.freezing = compile == "freezing"
        compiled: Any = torch.compile(net, mode=None if compile == "freezing" else compile, dynamic=dynamic)
        net = compiled
    return net if autocast is None else Autocast(net, torch.device(device).type, getattr(torch, autocast))


class Autocast:
    """A network under autocast."""

    def __init__(self, net: torch.nn.Module, device_type: str, dtype: torch.dtype) -> None:
        self.net, self.device_type, self.dtype = net, device_type, dtype

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        with torch.autocast(self.device_type, self.dtype):
            scores: Tensor = self.net(x_BCHW)
        return scores.float()


def laid_out(x_BCHW: Tensor, channels_last: bool, device: str = "cpu") -> Tensor:
    """The batch on the network's device and in its memory format."""
    x_BCHW = x_BCHW.to(device, non_blocking=True)
    return x_BCHW.contiguous(memory_format=torch.channels_last) if channels_last else x_BCHW


def finish(device: str) -> None:
    """Wait for what the device still does."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def labelled(folder: Path, images: int) -> list[tuple[Path, int]]:
    """Every photo and its class index, in the order of their names."""
    root = photos(folder, images)
    index = class_map()
    return [
        (path, index[path.parent.name]) for path in sorted(root.glob("*/*"), key=lambda p: str(p.relative_to(root)))
    ]


def top1_errors(outputs: Iterator[Tensor], classes: list[int]) -> int:
    """How many best classes of (B, K) outputs are wrong."""
    best = [int(index) for scores_BK in outputs for index in scores_BK.argmax(1).tolist()]
    return sum(a != b for a, b in zip(best, classes, strict=True))
