"""Layer responses, the paper's Fig. 7: how strong the output of every 3x3 layer is.

Section 4.2: the standard deviation of a 3x3 layer's outputs, after batch norm and before the other nonlinearity (ReLU
or addition). Taken here over images, channels and positions together; the paper does not say which images it took.

Shapes: B images, C channels, H and W pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnet_infer.backends.base import Normalize
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import build
from resnet_infer.pipeline.loader import auto_workers, load
from resnet_infer.spec.protocols import protocol_for

BATCH = 250


def layer_responses(
    checkpoint: Checkpoint,
    source: Source,
    *,
    workers: int | None = None,
    advance: Callable[[float], None] = lambda images: None,
) -> list[tuple[str, float]]:
    """(layer, standard deviation) of every 3x3 layer in order; raises DataError at an image that cannot be read."""
    spec, preprocessing = checkpoint.manifest.spec, checkpoint.manifest.preprocessing
    net = build(spec, dict(checkpoint.state_dict)).to(memory_format=torch.channels_last)
    sums = {c.name: torch.zeros(3, dtype=torch.float64) for c in spec.convs() if c.kernel == 3}
    for name, total in sums.items():
        net.get_submodule(name.replace("conv", "bn")).register_forward_hook(_adding_to(total))
    normalize = Normalize(preprocessing, "cpu")
    workers = auto_workers(len(source.samples), "cpu") if workers is None else workers
    tiles: list[Tensor] = []
    for image in load(source, [protocol_for("single-crop", spec, preprocessing)], range(len(source.samples)), workers):
        if image.error:
            raise DataError(f"{source.samples[image.index].name}: {image.error}; fix or remove it")
        tiles.append(image.tiles[0])
        if len(tiles) == BATCH or image.index == len(source.samples) - 1:
            _pass(net, normalize, tiles)
            tiles.clear()
        advance(1)
    return [(name, _std(total)) for name, total in sums.items()]


@torch.inference_mode()
def _pass(net: nn.Module, normalize: Normalize, tiles: Sequence[Tensor]) -> None:
    net(normalize(torch.stack(list(tiles)).permute(0, 3, 1, 2)))


def _adding_to(total: Tensor) -> Callable[[nn.Module, Any, Tensor], None]:
    def add(module: nn.Module, inputs: Any, y_BCHW: Tensor) -> None:
        variance, mean = torch.var_mean(y_BCHW.double(), correction=0)
        count = y_BCHW.numel()
        total.add_(torch.stack((mean * count, (variance + mean**2) * count, torch.tensor(count))))

    return add


def _std(total: Tensor) -> float:
    mean, square = (total[:2] / total[2]).tolist()
    return float((square - mean**2) ** 0.5)
