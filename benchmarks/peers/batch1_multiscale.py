"""The usual multi-scale loop: one image at a time, every scale and its mirror image through a convolutional network.

The network is torchvision's, its classifier moved over the last feature map behind a 7x7 average, and softmax is
averaged over windows, mirror and scales, as in our default. Decoding an image once for all scales is the strong form,
decoding it for every scale the usual one; torch.compile(dynamic=True) is stronger still.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from benchmarks.peers.eager import labelled, laid_out, ready, top1_errors
from benchmarks.peers.materials import torchvision_network
from benchmarks.peers.ours import evaluation_sides
from benchmarks.peers.sides import Claim, Contest, Running, Side
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnet_infer.spec.protocols import PAPER_SCALES

IMAGES = 12
WINDOW = 7
"""Side of the feature map that the classifier was made for."""


class FullyConvolutional(torch.nn.Module):
    """torchvision's ResNet with its classifier as a 1x1 convolution behind a sliding average: (B, K, h, w)."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4
        )
        self.classifier = torch.nn.Conv2d(net.fc.in_features, net.fc.out_features, 1)
        self.classifier.weight = torch.nn.Parameter(net.fc.weight[:, :, None, None])
        self.classifier.bias = torch.nn.Parameter(net.fc.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of every window."""
        scores_BKhw: Tensor = self.classifier(F.avg_pool2d(self.features(x_BCHW), WINDOW, 1))
        return scores_BKhw


def start(
    folder: Path,
    *,
    arch: str,
    images: int,
    decode_once: bool,
    channels_last: bool = True,
    compile: str | None = None,
    device: str = "cpu",
    autocast: str | None = None,
    scales: Sequence[int] = PAPER_SCALES,
) -> Running:
    """Network and transforms."""
    net = ready(
        FullyConvolutional(torchvision_network(folder, arch)),
        channels_last=channels_last,
        compile=compile,
        dynamic=True if compile else None,
        device=device,
        autocast=autocast,
    )
    transforms = [Compose([Resize(s), ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)]) for s in scales]
    files = labelled(folder, images)

    def loop() -> Iterator[Tensor]:
        for path, _ in files:
            image = Image.open(path).convert("RGB")
            found: list[Tensor] = []
            for number, transform in enumerate(transforms):
                if number and not decode_once:
                    image = Image.open(path).convert("RGB")
                x_BCHW = transform(image)[None]
                for view_BCHW in (x_BCHW, x_BCHW.flip(3)):
                    with torch.inference_mode():
                        scores_BKhw = net(laid_out(view_BCHW, channels_last, device))
                        found.append(scores_BKhw.softmax(1).mean((2, 3)))
            yield torch.stack(found).mean(0)

    classes = [index for _, index in files]
    return Running(
        outputs=lambda: torch.cat(list(loop())).cpu(),
        work=lambda: {"top1_errors": top1_errors(loop(), classes)},
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__},
    )


def contests(images: int | None) -> list[Contest]:
    """resnet18, the paper's five scales and their mirror images, from files."""
    arch, count = "resnet18", images or IMAGES
    tried: list[tuple[str, dict[str, Any]]] = [
        ("eager, decode per scale", {"decode_once": False}),
        ("eager, decode once", {"decode_once": True}),
    ]
    eager = [Side(name=name, start=start, settings={"arch": arch, "images": count, **s}) for name, s in tried]
    allocator = Side(
        name="eager, decode once, allocator", start=start, settings=eager[1].settings, keep_freed_memory=True
    )
    dynamic = Side(
        name="compile dynamic, decode once",
        start=start,
        settings={**eager[1].settings, "compile": "default"},
        compiled=True,
    )
    return [
        Contest(
            peer="batch1_multiscale",
            what=f"{arch}, multiscale, fp32, {count} files",
            theirs=[*eager, dynamic, allocator],
            ours=evaluation_sides(arch, "multiscale", count),
            claims=[
                Claim(name="the usual loop, best settings", among=[side.name for side in eager], target=1.5),
                Claim(name="and with compile or our allocator setting"),
            ],
            images=count,
            tolerance=0.05,
            files=[f"photos-{count}", f"{arch}.pth", f"{arch}-dense-fp32.onnx"],
            weight=6,
        )
    ]
