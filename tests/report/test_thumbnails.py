"""Thumbnails: bounded, upright, and missing where an image cannot be read."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from resnet_infer.data.source import Memory
from resnet_infer.report.thumbnails import SIDE, thumbnails


def test_pictures_are_small_and_of_the_image(picture: Callable[..., Any], encode: Callable[..., bytes]) -> None:
    large, small = picture(300, 900, 1), picture(20, 24, 2)
    turned = Image.Exif()
    turned[0x0112] = 6
    source = Memory(
        "memory",
        [
            ("large", encode(large)),
            ("small", small),
            ("broken", b"\xff\xd8\xff"),
            ("turned", encode(large, "JPEG", exif=turned)),
            ("unwanted", encode(large)),
        ],
    )
    found = thumbnails(source, [0, 1, 2, 3])
    assert sorted(found) == [0, 1, 3]
    opened = {index: Image.open(io.BytesIO(base64.b64decode(text))) for index, text in found.items()}
    assert {image.format for image in opened.values()} == {"JPEG"}
    assert [opened[index].size for index in (0, 1, 3)] == [(SIDE, 37), (24, 20), (37, SIDE)]
    assert max(map(len, found.values())) < 8000
    difference = np.abs(np.asarray(opened[1], dtype=int) - small)
    assert difference.mean() < 12
