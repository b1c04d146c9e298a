"""Views of one decoded image: resize once for every size asked, then cut tiles, all on uint8.

torchvision's antialiased resize of uint8 with channels innermost is within two levels of Pillow's, within one but for
about two values in a million of photographs, and, being vectorised for that layout, faster than on any other.

Shapes: C is 3, H and W pixels.
"""

from collections.abc import Iterable

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from resnet_infer.errors import ImageError
from resnet_infer.protocols import Size, Tile

MAX_PIXELS = 2**24
"""Of one resized image. A 640-pixel side allows an aspect ratio of 40."""


def render(x_CHW: Tensor, tiles: Iterable[Tile], interpolation: str) -> list[Tensor]:
    """The tiles of an image, each uint8 of shape (height, width, 3): views of the resized images, not copies.

    Raises ImageError if the image is so long and thin that its resized form would not fit the memory.
    """
    resized: dict[Size, Tensor] = {}
    rendered = []
    for tile in tiles:
        if tile.resize not in resized:
            resized[tile.resize] = _resize(x_CHW, tile.resize, interpolation)
        bottom, right = tile.top + tile.height, tile.left + tile.width
        rendered.append(resized[tile.resize][:, tile.top : bottom, tile.left : right].permute(1, 2, 0))
    return rendered


def _resize(x_CHW: Tensor, size: Size, interpolation: str) -> Tensor:
    if size[0] * size[1] > MAX_PIXELS:
        height, width = x_CHW.shape[1:]
        raise ImageError(
            f"{width}x{height} is too long and thin: at {size[1]}x{size[0]} it is over the limit of "
            f"{MAX_PIXELS / 1e6:.0f} million pixels"
        )
    resized_CHW: Tensor = resize(x_CHW, list(size), InterpolationMode(interpolation), antialias=True)
    return resized_CHW
