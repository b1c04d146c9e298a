"""What the PyTorch peers share: a network made ready with their settings, and files in the order of their names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.materials import class_map, photos


def ready(net: torch.nn.Module, *, channels_last: bool, compile: str | None, dynamic: bool | None = None) -> Any:
    """The network in evaluation mode, in its memory format, compiled where asked for.

    `compile` is a mode of torch.compile, or `freezing`: the default mode with the weights as constants, which lets
    inductor fold batch norms and lay weights out beforehand.
    """
    net = net.eval().requires_grad_(False)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    if compile is None:
        return net
    import torch._inductor.config as inductor

    inductor.freezing = compile == "freezing"
    return torch.compile(net, mode=None if compile == "freezing" else compile, dynamic=dynamic)


def laid_out(x_BCHW: Tensor, channels_last: bool) -> Tensor:
    """The batch in the network's memory format."""
    return x_BCHW.contiguous(memory_format=torch.channels_last) if channels_last else x_BCHW


def labelled(folder: Path, images: int) -> list[tuple[Path, int]]:
    """Every photo and its class index, in the order of their names."""
    root = photos(folder, images)
    index = class_map()
    return [
        (path, index[path.parent.name]) for path in sorted(root.glob("*/*"), key=lambda p: str(p.relative_to(root)))
    ]


def top1_errors(outputs: Iterator[Tensor], classes: list[int]) -> int:
    """How many best classes of (B, K) outputs are wrong."""
    best = [int(index) for scores_BK in outputs for index in scores_BK.argmax(1)]
    return sum(a != b for a, b in zip(best, classes, strict=True))
