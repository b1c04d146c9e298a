"""Training images on their way to the network: all of them on the device, or decoded as they come.

`memory` holds every image, uint8, on the device and augments a batch at once: CIFAR-10 is 154 MB. `stream` reads,
decodes and augments in worker processes, a batch in each: photographs. What an iteration sees is `stream.py`'s word.

Shapes: N training images, B of a batch, H and W pixels, C is 3.
"""

import signal
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_infer.allocator import keep_freed_memory
from resnet_infer.console import note
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError
from resnet_infer.pipeline.decode import decode
from resnet_infer.pipeline.loader import auto_workers, load
from resnet_infer.pipeline.worker import frozen
from resnet_infer.spec.protocols import single_crop
from resnet_infer.train.augment import augment_batch, augment_image
from resnet_infer.train.recipe import Recipe
from resnet_infer.train.stream import Stream

MEAN_IMAGES = 5000
"""Of a stream, evenly spaced, from which its mean is taken; the mean of a channel is then good to a quarter level."""

Batch = tuple[Tensor, Tensor, Tensor]
"""x_BCHW uint8, classes_B int64, normal_B3 float32 (of the colour shift); on the device."""


class Images(Protocol):
    """A training set."""

    def mean_image(self) -> Tensor:
        """The mean image in [0, 1], float64, of the network's input size."""
        ...

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of iterations `first` to `last` - 1."""
        ...


class InMemory:
    """All images on the device."""

    def __init__(
        self, images_NHWC: Tensor, classes_N: Sequence[int], stream: Stream, recipe: Recipe, device: torch.device
    ) -> None:
        self.images_NHWC = images_NHWC.to(device)
        self.classes_N = torch.tensor(classes_N, device=device)
        self.stream = stream
        self.recipe = recipe
        self.device = device

    def mean_image(self) -> Tensor:
        """See Images."""
        return (self.images_NHWC.sum(0, dtype=torch.float64) / len(self.images_NHWC) / 255).cpu()

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """See Images."""
        for iteration in range(first, last):
            draws = self.stream.draws(iteration)
            chosen_B = draws.chosen_B.to(self.device, non_blocking=True)
            x_BCHW = self.images_NHWC[chosen_B].permute(0, 3, 1, 2)
            x_BCHW = augment_batch(x_BCHW, draws.uniform_B4.to(self.device, non_blocking=True), self.recipe)
            yield x_BCHW, self.classes_N[chosen_B], draws.normal_B3.to(self.device, non_blocking=True)


class Streamed:
    """Images read, decoded and augmented by worker processes."""

    def __init__(
        self,
        source: Source,
        classes_N: Sequence[int],
        stream: Stream,
        recipe: Recipe,
        device: torch.device,
        workers: int | None,
    ) -> None:
        self.source = source
        self.classes_N = torch.tensor(classes_N)
        self.stream = stream
        self.recipe = recipe
        self.device = device
        self.workers = auto_workers(len(source.samples), device.type) if workers is None else workers

    def mean_image(self) -> Tensor:
        """See Images; of at most MEAN_IMAGES images, their centre crops."""
        count = len(self.source.samples)
        positions = range(0, count, max(1, count // MEAN_IMAGES))
        total_HWC = torch.zeros(self.recipe.crop, self.recipe.crop, 3, dtype=torch.float64)
        for tile_HWC in tiles(
            self.source, positions, self.recipe.crop, round(self.recipe.crop * 256 / 224), self.workers
        ):
            total_HWC += tile_HWC
        return total_HWC / len(positions) / 255

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """See Images; raises DataError at an image that cannot be read."""
        loader: DataLoader[Any] = DataLoader(
            _Batches(self.source, self.classes_N, self.stream, self.recipe),
            batch_size=None,
            sampler=range(first, last),
            worker_init_fn=_in_worker,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),
        )
        with frozen():  # workers begin here
            batches = iter(loader)
        for x_BHWC, classes_B, normal_B3, error in batches:
            if error:
                raise DataError(f"{self.source.name}: {error}; fix or remove it")
            x_BCHW = x_BHWC.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            yield x_BCHW, classes_B.to(self.device), normal_B3.to(self.device)


class _Batches(Dataset[tuple[Tensor, Tensor, Tensor, str]]):
    """Whole batches by their iteration."""

    def __init__(self, source: Source, classes_N: Tensor, stream: Stream, recipe: Recipe) -> None:
        self.source = source
        self.classes_N = classes_N
        self.stream = stream
        self.recipe = recipe

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor, str]:
        draws = self.stream.draws(iteration)
        x_BHWC = torch.empty(len(draws.chosen_B), self.recipe.crop, self.recipe.crop, 3, dtype=torch.uint8)
        error = ""
        for x_HWC, position, uniform_4 in zip(x_BHWC, draws.chosen_B.tolist(), draws.uniform_B4, strict=True):
            sample = self.source.samples[position]
            try:
                x_CHW = decode(self.source.read(sample))
                self._check_size(x_CHW)
                x_HWC.copy_(augment_image(x_CHW, uniform_4, self.recipe).permute(1, 2, 0))
            except (OSError, DataError) as problem:
                error = f"{sample.name}: {problem}"
                break
        return x_BHWC, self.classes_N[draws.chosen_B], draws.normal_B3, error

    def _check_size(self, x_CHW: Tensor) -> None:
        height, width = x_CHW.shape[1:]
        if not self.recipe.scale_max and min(height, width) + 2 * self.recipe.pad < self.recipe.crop:
            raise DataError(f"{width}x{height} is smaller than the crop of {self.recipe.crop} pixels")


def _in_worker(number: int) -> None:
    for name in ("SIGINT", "SIGHUP"):  # a terminal's go to all; the run itself saves and ends its workers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()


def read_into_memory(source: Source, side: int, workers: int | None) -> Tensor:
    """Every image as uint8 (N, side, side, 3); larger ones are made smaller and cut to their centre square.

    Raises DataError, with every culprit named on stderr, if images cannot be read or are smaller than that.
    """
    images_NHWC = torch.empty(len(source.samples), side, side, 3, dtype=torch.uint8)
    workers = auto_workers(len(source.samples), "cpu") if workers is None else workers
    for x_HWC, tile_HWC in zip(
        images_NHWC, tiles(source, range(len(source.samples)), side, side, workers), strict=True
    ):
        x_HWC.copy_(tile_HWC)
    return images_NHWC


def tiles(source: Source, positions: Sequence[int], side: int, resize: int, workers: int) -> Iterator[Tensor]:
    """The centre squares of images at `resize` pixels, uint8 (side, side, 3); raises DataError as above."""
    unreadable: dict[int, str] = {}
    small: dict[int, str] = {}
    for image in load(source, [single_crop(resize, side)], positions, workers):
        if image.error:
            unreadable[image.index] = image.error
        elif resize == side and min(image.size) < side:
            small[image.index] = f"{image.size[1]}x{image.size[0]} is smaller than {side} pixels"
        elif not unreadable and not small:
            yield image.tiles[0]
    for index, reason in sorted((unreadable | small).items()):
        note(f"{source.samples[index].name}: {reason}")
    if unreadable:
        raise DataError(
            f"{source.name}: {len(unreadable)} of {len(positions)} images cannot be read (listed above); "
            "fix or remove them"
        )
    if small:
        raise DataError(
            f"{source.name}: {len(small)} of {len(positions)} images are smaller than the network's input of {side} "
            f"pixels (listed above); remove them, or give a smaller --crop"
        )
