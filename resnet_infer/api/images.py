"""Images as users have them, as a source: paths, sources, and Pillow, NumPy or PyTorch images in memory."""

import io
import os
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnet_infer.data.open import open_inputs, open_source
from resnet_infer.data.reading import Reading
from resnet_infer.data.source import Joined, Memory, Pixels, Source
from resnet_infer.errors import ImageError, UsageError
from resnet_infer.pipeline.rgb import upright_rgb

Path = str | os.PathLike[str]
Images = Path | Image.Image | Pixels | Tensor | Source | Iterable[Path | Image.Image | Pixels | Tensor]
"""A path or pattern of whatever `open_source` reads; an image; or several of these."""


def as_source(images: Images, *, merged: bool = False) -> Source:
    """The images as one source, in their order; those in memory are named `image 0`, `image 1`, ...

    A NumPy image is uint8 RGB, (height, width, 3); a PyTorch one uint8 RGB, (3, height, width); both may have a first
    dimension of several images. A Pillow image is converted as its file would be: upright, alpha over white.

    `merged` takes the splits of a data set together, which is for images whose errors are not counted.

    Raises UsageError for anything else, DataError for a path that cannot be read, ImageError for a Pillow image that
    cannot be converted.
    """
    if isinstance(images, (str, os.PathLike)):
        return open_source(images, reading=Reading(merged=merged))
    if isinstance(images, Image.Image):
        return _in_memory([images], 0)
    if isinstance(images, (np.ndarray, Tensor)):
        return _in_memory(list(images) if images.ndim == 4 else [images], 0)
    if isinstance(images, Source):
        return images
    if not isinstance(images, Iterable):
        raise UsageError(f"images are paths, or Pillow, NumPy or PyTorch images; got {type(images).__name__}")
    sources: list[Source] = []
    number = 0
    for paths, group in groupby(images, lambda image: isinstance(image, (str, os.PathLike))):
        some = list(group)
        sources.append(
            open_inputs([os.fspath(path) for path in some], io.BytesIO(), reading=Reading(merged=merged))
            if paths
            else _in_memory(some, number)
        )
        number += len(some)
    if not sources:
        raise UsageError("there are no images in the list")
    return sources[0] if len(sources) == 1 else Joined(sources)


def _in_memory(images: list[Any], first: int) -> Memory:
    named = [(f"image {number}", image) for number, image in enumerate(images, start=first)]
    title = named[0][0] if len(named) == 1 else f"{len(named)} images"
    return Memory(title, [(name, _pixels(image, name)) for name, image in named])


def _pixels(image: Any, name: str) -> Pixels:
    if isinstance(image, Image.Image):
        try:
            return upright_rgb(image)
        except (ImageError, OSError) as error:
            raise ImageError(f"{name}: {error}") from error
    if isinstance(image, Tensor):
        _check(
            image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3, image, name, "(3, height, width)"
        )
        return image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    if isinstance(image, np.ndarray):
        fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        _check(fits, image, name, "(height, width, 3)")
        return np.ascontiguousarray(image)
    raise UsageError(f"{name}: is {type(image).__name__}; give a path, or a Pillow, NumPy or PyTorch image")


def _check(fits: bool, image: Any, name: str, shape: str) -> None:
    if not fits or 0 in image.shape:
        dtype = str(image.dtype).removeprefix("torch.")
        raise UsageError(f"{name}: is {dtype} of shape {tuple(image.shape)}; give RGB as uint8 in 0..255, {shape}")
