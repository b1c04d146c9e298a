"""Small pictures of a source's images, for a page: bounded in number and in size."""

import base64
import io
from collections.abc import Iterable

from PIL import Image

from resnet_infer.data.source import Source
from resnet_infer.errors import DataError
from resnet_infer.pipeline.decode import decode

SIDE = 112
"""Longer side in pixels at most; smaller images stay as they are."""
QUALITY = 80


def thumbnails(source: Source, indices: Iterable[int]) -> dict[int, str]:
    """JPEG pictures of these images, base64, by index; those that cannot be read are left out."""
    found = {}
    for index in indices:
        try:
            x_CHW = decode(source.read(source.samples[index]))
        except (OSError, DataError):
            continue
        picture = Image.fromarray(x_CHW.permute(1, 2, 0).numpy())
        picture.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        found[index] = base64.b64encode(file.getvalue()).decode("ascii")
    return found
