"""Views of one decoded image: resize once for every size asked, then cut tiles, all on uint8.

torchvision's antialiased resize of uint8 with channels innermost is within two levels of Pillow's, within one but for
about two values in a million of photographs, and, being vectorised for that layout, faster than on any other. On a GPU
it works in float and rounds, within one level of the CPU's. Lanczos is Pillow's own, on the CPU alone: PyTorch has it
in its newest releases only, and on no GPU.

Shapes: C is 3, H and W pixels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from resnet_infer.errors import ImageError
from resnet_infer.spec.protocols import Protocol, Size, Tile

MAX_PIXELS = 2**24
"""Of one resized image. A 640-pixel side allows an aspect ratio of 40."""
MAX_PIXELS_TOGETHER = 2**25
"""Of all the sizes that one image is resized to: the paper's five scales allow an aspect ratio of 37."""


@lru_cache(maxsize=4096)
def distinct_tiles(protocols: tuple[Protocol, ...], height: int, width: int) -> tuple[Tile, ...]:
    """The tiles that all the protocols need of an image of this size, each once, in a fixed order."""
    return tuple(dict.fromkeys(view.tile for p in protocols for view in p.views(height, width)))


@lru_cache(maxsize=4096)
def regions(tiles: tuple[Tile, ...]) -> tuple[Tile, ...]:
    """For every resized image, the smallest tile that holds all of these: what has to travel, no pixel twice."""
    found: dict[tuple[Size, str], Tile] = {}
    for tile in tiles:
        kind = (tile.resize, tile.interpolation)
        found[kind] = _around(found.get(kind, tile), tile)
    return tuple(found.values())


def _around(one: Tile, other: Tile) -> Tile:
    top, left = min(one.top, other.top), min(one.left, other.left)
    bottom = max(one.top + one.height, other.top + other.height)
    right = max(one.left + one.width, other.left + other.width)
    return Tile(one.resize, top, left, bottom - top, right - left, one.interpolation)


def render(x_CHW: Tensor, tiles: Iterable[Tile]) -> list[Tensor]:
    """The tiles of an image, each uint8 of shape (height, width, 3): views of the resized images, not copies.

    Images of one size may come together as x_BCHW, whose tiles are (B, height, width, 3).
    Raises ImageError if the image is so long and thin that its resized form would not fit the memory.
    """
    tiles = list(tiles)
    check_pixels(tiles, (x_CHW.shape[-2], x_CHW.shape[-1]))
    resized: dict[tuple[Size, str], Tensor] = {}
    rendered = []
    for tile in tiles:
        kind = (tile.resize, tile.interpolation)
        if kind not in resized:
            resized[kind] = _resize(x_CHW, tile.resize, tile.interpolation)
        bottom, right = tile.top + tile.height, tile.left + tile.width
        rendered.append(resized[kind][..., tile.top : bottom, tile.left : right].movedim(-3, -1))
    return rendered


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an image's tiles lie in its rendered regions, one region after another, and which views they are.

    Images with the same layout can be batched as one, whatever their sizes: a centre crop has it of all of them.
    """

    length: int
    """Bytes of all regions."""
    tiles: tuple[tuple[int, int, int, int], ...]
    """(offset of the first byte, bytes from row to row, height, width), in the order of `distinct_tiles`."""
    views: tuple[tuple[tuple[int, bool, float], ...], ...]
    """Of every protocol: (position of the tile, mirrored, weight)."""


@lru_cache(maxsize=16)
def layouts(protocols: tuple[Protocol, ...]) -> Callable[[int, int], Layout]:
    """The layout of an image of (height, width) pixels; the same object for the same layout."""
    same = lru_cache(maxsize=4096)(lambda layout: layout)

    @lru_cache(maxsize=4096)
    def layout_of(height: int, width: int) -> Layout:
        tiles = distinct_tiles(protocols, height, width)
        number = {tile: place for place, tile in enumerate(tiles)}
        views = tuple(
            tuple((number[view.tile], view.mirrored, view.weight) for view in protocol.views(height, width))
            for protocol in protocols
        )
        layout: Layout = same(Layout(*in_regions(tiles), views))
        return layout

    return layout_of


def in_regions(tiles: tuple[Tile, ...]) -> tuple[int, tuple[tuple[int, int, int, int], ...]]:
    """`Layout.length` and `Layout.tiles` of these."""
    held: dict[tuple[Size, str], tuple[Tile, int]] = {}
    length = 0
    for region in regions(tiles):
        held[region.resize, region.interpolation] = region, length
        length += 3 * region.height * region.width
    found = []
    for tile in tiles:
        region, start = held[tile.resize, tile.interpolation]
        inside = (tile.top - region.top) * region.width + tile.left - region.left
        found.append((start + 3 * inside, 3 * region.width, tile.height, tile.width))
    return length, tuple(found)


def check_pixels(tiles: Iterable[Tile], size: Size) -> None:
    """Raise ImageError if an image of (height, width) pixels is too large once it is resized for these tiles."""
    resized = list(dict.fromkeys((tile.resize, tile.interpolation) for tile in tiles))
    image = f"{size[1]}x{size[0]} is too long and thin"
    for (height, width), _ in resized:
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"{image}: at {width}x{height} it is over the limit of {MAX_PIXELS / 1e6:.0f} million pixels"
            )
    together = sum(height * width for (height, width), _ in resized)
    if together > MAX_PIXELS_TOGETHER:
        raise ImageError(
            f"{image}: its {len(resized)} resized forms have {together / 1e6:.1f} million pixels together, over the "
            f"limit of {MAX_PIXELS_TOGETHER / 1e6:.0f} million; give fewer --scales"
        )


def _resize(x_CHW: Tensor, size: Size, interpolation: str) -> Tensor:
    if interpolation == "lanczos":
        height, width = size
        image = Image.fromarray(x_CHW.permute(1, 2, 0).contiguous().numpy())
        return torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.LANCZOS))).permute(2, 0, 1)
    resized_CHW: Tensor = resize(x_CHW, list(size), InterpolationMode(interpolation), antialias=True)
    return resized_CHW
