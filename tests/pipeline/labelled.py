"""Pictures of several sizes with classes, and protocols of every kind, for tests of whole passes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from resnet_infer.data.source import Memory
from resnet_infer.spec.protocols import multi_scale, single_crop, ten_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
SIZES = ((48, 60), (48, 60), (60, 48), (32, 32), (33, 70), (48, 61), (48, 60))
MIXED = (single_crop(40, 32), ten_crop(41, 32), multi_scale((32, 41)), multi_scale((36,), average="gap"))
COUNT = 3 * len(SIZES)


class Labelled(Memory):
    """Pictures in memory with classes in turns."""

    def __init__(self, images: Sequence[Picture], classes: int) -> None:
        super().__init__("labelled", [(str(number), image) for number, image in enumerate(images)])
        self.samples = [replace(s, label=f"class {n % classes}") for n, s in enumerate(self.samples)]
