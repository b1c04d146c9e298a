"""Ten-crop as torchvision's documentation writes it: TenCrop on PIL images in a DataLoader, ten views as one batch.

Softmax is averaged where the documentation averages logits, which costs nothing and is what the paper did, so that the
two sides' probabilities can be compared.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Lambda, Normalize, Resize, TenCrop, ToTensor

from benchmarks.peers.eager import labelled, laid_out, ready, top1_errors
from benchmarks.peers.materials import photos, torchvision_network
from benchmarks.peers.ours import evaluation_sides
from benchmarks.peers.sides import Claim, Contest, Running, Side
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD

IMAGES = 32


class Stacked:
    """Ten PIL crops to one float tensor (10, 3, H, W); a class, because worker processes have to be sent it."""

    def __init__(self) -> None:
        self.each = Compose([ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def __call__(self, crops: tuple[Image.Image, ...]) -> Tensor:
        return torch.stack([self.each(crop) for crop in crops])


def start(
    folder: Path,
    *,
    arch: str,
    images: int,
    batch: int,
    workers: int,
    channels_last: bool = True,
    compile: str | None = None,
    device: str = "cpu",
    autocast: str | None = None,
) -> Running:
    """Network, data set and loader."""
    net = torchvision_network(folder, arch)
    net = ready(net, channels_last=channels_last, compile=compile, device=device, autocast=autocast)
    transform = Compose([Resize(256), TenCrop(224), Lambda(Stacked())])
    data = ImageFolder(photos(folder, images), transform)
    loader = DataLoader(data, batch, num_workers=workers, persistent_workers=workers > 0, pin_memory=device != "cpu")
    files = labelled(folder, images)
    assert [Path(path) for path, _ in data.samples] == [path for path, _ in files], "files in another order"

    def loop() -> Iterator[Tensor]:
        for x_BNCHW, _ in loader:
            with torch.inference_mode():
                scores_VK = net(laid_out(x_BNCHW.flatten(0, 1), channels_last, device))
                yield scores_VK.softmax(1).view(len(x_BNCHW), 10, -1).mean(1)

    classes = [index for _, index in files]
    return Running(
        outputs=lambda: torch.cat(list(loop())).cpu(),
        work=lambda: _errors(loop(), classes),
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__},
    )


def _errors(outputs: Iterator[Tensor], classes: list[int]) -> Mapping[str, Any]:
    return {"top1_errors": top1_errors(outputs, classes)}


def contests(images: int | None) -> list[Contest]:
    """resnet18, from files."""
    arch, count = "resnet18", images or IMAGES
    tried: list[tuple[str, dict[str, Any]]] = [
        ("channels_last, batch 8, workers 1", {"batch": 8, "workers": 1}),
        ("channels_last, batch 8, workers 0", {"batch": 8, "workers": 0}),
        ("channels_last, batch 1, workers 1", {"batch": 1, "workers": 1}),
        ("channels_last, batch 8, workers 2", {"batch": 8, "workers": 2}),
    ]
    eager = [Side(name=name, start=start, settings={"arch": arch, "images": count, **s}) for name, s in tried]
    extras = [
        Side(
            name="channels_last, batch 8, workers 1, allocator",
            start=start,
            settings={"arch": arch, "images": count, "batch": 8, "workers": 1},
            keep_freed_memory=True,
        ),
        Side(
            name="compile freezing, channels_last, batch 8, workers 1",
            start=start,
            settings={"arch": arch, "images": count, "batch": 8, "workers": 1, "compile": "freezing"},
            compiled=True,
        ),
    ]
    return [
        Contest(
            peer="torchvision_ten_crop",
            what=f"{arch}, ten-crop, fp32, {count} files",
            theirs=[*eager[:2], *extras, *eager[2:]],
            ours=evaluation_sides(arch, "ten-crop", count),
            claims=[
                Claim(name="eager, best settings", among=[side.name for side in eager], target=1.5),
                Claim(name="and with compile or our allocator setting"),
            ],
            images=count,
            tolerance=0.05,
            files=[f"photos-{count}", f"{arch}.pth", f"{arch}-pooled-fp32.onnx"],
            weight=3,
        )
    ]
