"""Views of one decoded image: resize once for every size asked, then cut tiles, all on uint8.

torchvision's antialiased resize of uint8 with channels innermost is within two levels of Pillow's, within one but for
about two values in a million of photographs, and, being vectorised for that layout, faster than on any other. On a GPU
it works in float and rounds, within one level of the CPU's.

Shapes: C is 3, H and W pixels.
"""

from collections.abc import Iterable
from functools import lru_cache

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from resnet_infer.errors import ImageError
from resnet_infer.protocols import Protocol, Size, Tile

MAX_PIXELS = 2**24
"""Of one resized image. A 640-pixel side allows an aspect ratio of 40."""


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
    resized: dict[tuple[Size, str], Tensor] = {}
    rendered = []
    for tile in tiles:
        kind = (tile.resize, tile.interpolation)
        if kind not in resized:
            resized[kind] = _resize(x_CHW, tile.resize, tile.interpolation)
        bottom, right = tile.top + tile.height, tile.left + tile.width
        rendered.append(resized[kind][..., tile.top : bottom, tile.left : right].movedim(-3, -1))
    return rendered


def cut(found: Iterable[tuple[Tile, Tensor]], tiles: Iterable[Tile]) -> list[Tensor]:
    """The tiles out of rendered regions, each (height, width, 3): views, not copies."""
    held = {(region.resize, region.interpolation): (region, x_HWC) for region, x_HWC in found}
    rendered = []
    for tile in tiles:
        region, x_HWC = held[tile.resize, tile.interpolation]
        top, left = tile.top - region.top, tile.left - region.left
        rendered.append(x_HWC[top : top + tile.height, left : left + tile.width])
    return rendered


def _resize(x_CHW: Tensor, size: Size, interpolation: str) -> Tensor:
    if size[0] * size[1] > MAX_PIXELS:
        height, width = x_CHW.shape[-2:]
        raise ImageError(
            f"{width}x{height} is too long and thin: at {size[1]}x{size[0]} it is over the limit of "
            f"{MAX_PIXELS / 1e6:.0f} million pixels"
        )
    resized_CHW: Tensor = resize(x_CHW, list(size), InterpolationMode(interpolation), antialias=True)
    return resized_CHW
