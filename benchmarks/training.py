"""Training throughput: our loop against a plain PyTorch loop of the same network and batch, in one run.

- plain: a Dataset of uint8 arrays, torchvision's transforms on PIL images (pad 4, crop, mirror, to a float tensor,
  normalise), a DataLoader in the same process, float32, contiguous NCHW, eager, SGD: the loop of a tutorial.
- ours: what `resnet-infer train --recipe cifar10` does: images in memory, batches augmented at once, channels_last,
  bf16 where the hardware has it, fused SGD; on a GPU the step is a CUDA graph.
- ours_compiled: the same with `--compile`.

Every side has a process of its own and the same number of threads; they take turns; figures are medians. Loading,
augmentation and the copy to the device are within the time. The images are random: none of the times depends on them.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.timing import compare, processes
from resnet_infer.allocator import keep_freed_memory
from resnet_infer.backends.base import Normalize
from resnet_infer.backends.devices import torch_device
from resnet_infer.environment import environment
from resnet_infer.files import replacing
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.train import network
from resnet_infer.train.images import InMemory
from resnet_infer.train.recipe import recipe_for
from resnet_infer.train.step import CapturedStep, EagerStep, resolved_precision, sgd
from resnet_infer.train.stream import Stream

SIDES = ("plain", "ours", "ours_compiled")
IMAGES = 2560
TARGETS = {"cpu": 1.3, "cuda": 3.0}
"""How many times as fast as the plain loop ours should be."""

_steps: Iterator[Tensor]
"""This process's side: the loss of one iteration after another."""


class Arrays(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 holds and gives them."""

    def __init__(self, images_NHWC: Tensor, classes: list[int]) -> None:
        self.images = images_NHWC.numpy()
        self.classes = classes
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.491, 0.482, 0.447], [1.0, 1.0, 1.0]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.classes[index]


def plain(data: Arrays, arch: str, batch: int, device: torch.device) -> Iterator[Tensor]:
    """The plain loop, without end."""
    torch.manual_seed(0)
    net = ResNet(spec_from_name(arch)).to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    while True:
        for x_BCHW, classes_B in DataLoader(data, batch, shuffle=True, drop_last=True):
            loss = F.cross_entropy(net(x_BCHW.to(device)), classes_B.to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield loss.detach()


def ours(data: Arrays, arch: str, batch: int, device: torch.device, *, compiled: bool) -> Iterator[Tensor]:
    """Our loop, without end and without tests and checkpoints."""
    spec = spec_from_name(arch)
    recipe = recipe_for("cifar10", spec, {"batch": batch, "mean": "channel", "compile": compiled})
    recipe = recipe.with_values({"precision": resolved_precision(recipe, device)})
    held = InMemory(torch.from_numpy(data.images), data.classes, Stream(len(data), batch, 0), recipe, device)
    mean_HWC = held.mean_image()
    net = network.fresh(spec, recipe, mean_HWC).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    trained: torch.nn.Module = torch.compile(net) if compiled else net  # type: ignore[assignment]
    normalize = Normalize(network.preprocessing_of(mean_HWC, recipe), device)
    eager = EagerStep(trained, sgd(net, recipe), normalize, recipe)
    step = CapturedStep(eager) if device.type == "cuda" else eager
    for each in held.batches(0, 2**40):
        yield step(each, 0.1)[0]


def start(side: str, arch: str, batch: int, device: str, threads: int) -> None:
    """Set one side up in this process."""
    global _steps
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    images_NHWC = torch.from_numpy(rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8))
    data = Arrays(images_NHWC, rng.integers(0, 10, IMAGES).tolist())
    if side == "plain":
        _steps = plain(data, arch, batch, torch_device(device))
        return
    keep_freed_memory()  # as the command line does
    _steps = ours(data, arch, batch, torch_device(device), compiled=side == "ours_compiled")


def seconds(iterations: int) -> float:
    """Of so many iterations, the device's work included."""
    started = time.perf_counter()
    for _ in range(iterations):
        loss = next(_steps)
    float(loss)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description="Our training loop against a plain PyTorch loop.")
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=8, help="of one timing (default 8)")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each side (default 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    device = torch_device(args.device)
    given = f"--arch {args.arch} --batch {args.batch} --iterations {args.iterations} --repeats {args.repeats}"
    with processes(SIDES, start, args.arch, args.batch, str(device), args.threads) as calls:
        sides: Mapping[str, Callable[[], float]] = {
            side: partial(call, seconds, args.iterations) for side, call in calls.items()
        }
        images, target = args.batch * args.iterations, TARGETS[device.type]
        measured = compare(sides, args.repeats, images=images, reference="plain", target=target)
    result: dict[str, Any] = {
        "what": f"training of {args.arch}, batch {args.batch}, on {device}",
        "command": f"python -m benchmarks.training {given} --threads {args.threads}",
        "environment": environment(),
        "threads": args.threads,
    }
    print(f"{args.arch}, batch {args.batch}, {device}, {args.threads} threads: images/s (times the plain loop's)")
    for side in SIDES:
        print(f"{side:16}{measured['images_per_s'][side]:9.1f}{measured['ratio'][side]:8.2f}x")
    if args.output:
        with replacing(args.output) as unfinished:
            unfinished.write_text(json.dumps(result | measured, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
