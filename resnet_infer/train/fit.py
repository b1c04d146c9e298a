"""A minimal fit of a small network to images that fit the memory: SGD, one learning-rate cycle.

It serves the demo. The recipe is the paper's in small: SGD with momentum 0.9, random scale, crop and mirror, with a
one-cycle schedule in place of 64,000 iterations.

Shapes: B images, N all images, C is 3, H and W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from resnet_infer.backends.base import Normalize
from resnet_infer.model.resnet import ResNet
from resnet_infer.preprocessing import Preprocessing
from resnet_infer.specs import ModelSpec

PAD = 4
"""Pixels a side."""
SCALES = (95, 115)
"""Percent of the image's size."""


def fit(
    spec: ModelSpec,
    images_NCHW: Tensor,
    classes_N: Tensor,
    preprocessing: Preprocessing,
    *,
    iterations: int,
    batch: int = 64,
    lr: float = 0.2,
    weight_decay: float = 5e-4,
    seed: int = 0,
    advance: Callable[[float], None] = lambda iterations: None,
) -> tuple[dict[str, Tensor], float]:
    """Train from random weights on uint8 images; returns the state dict and the last iterations' training error in %.

    The same seed, machine and versions give the same weights. `advance` is called with 1 after every iteration.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = ResNet(spec).to(memory_format=torch.channels_last).train()
    normalize = Normalize(preprocessing, "cpu")
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=iterations)
    wrong = []
    for _ in range(iterations):
        chosen = torch.randint(len(images_NCHW), (batch,), generator=generator)
        x_BCHW = normalize(augment(images_NCHW[chosen], generator)).contiguous(memory_format=torch.channels_last)
        logits_BK = net(x_BCHW)
        loss = F.cross_entropy(logits_BK, classes_N[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        wrong.append((logits_BK.argmax(1) != classes_N[chosen]).float().mean())
        advance(1)
    return net.eval().state_dict(), 100 * float(torch.stack(wrong[-20:]).mean())


def augment(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """The batch at a random scale, padded and cropped to its size at random, every other image mirrored.

    Scale, as in the paper's ImageNet training (section 3.4), is what lets the network be tested at several; crop and
    mirror are section 4.2's. One scale a batch is enough here.
    """
    batch, _, height, width = images_BCHW.shape
    percent = int(torch.randint(SCALES[0], SCALES[1] + 1, (), generator=generator))
    scaled = resize(images_BCHW, [height * percent // 100, width * percent // 100], antialias=True)
    padded = F.pad(scaled, (PAD, PAD, PAD, PAD))
    tops = torch.randint(padded.shape[2] - height + 1, (batch,), generator=generator).tolist()
    lefts = torch.randint(padded.shape[3] - width + 1, (batch,), generator=generator).tolist()
    mirrored = (torch.rand(batch, generator=generator) < 0.5).tolist()
    crops = [
        image[:, top : top + height, left : left + width] for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack([crop.flip(2) if flip else crop for crop, flip in zip(crops, mirrored, strict=True)])
