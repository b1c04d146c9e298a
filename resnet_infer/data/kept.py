"""Images decoded once and kept, for a small set that is read many times."""

from dataclasses import replace

import numpy as np

from resnet_infer.data.decode import decode
from resnet_infer.data.sources import Pixels, Sample, Source


class Kept:
    """A source whose pixels stay in this process from their first reading on."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.left_out = source.left_out
        self.samples = [replace(sample, key=(position, sample)) for position, sample in enumerate(source.samples)]
        self._source = source
        self._pixels: dict[int, Pixels] = {}

    def read(self, sample: Sample) -> Pixels:
        """The image's pixels; raises OSError or DataError."""
        position: int
        own: Sample
        position, own = sample.key
        if position not in self._pixels:
            self._pixels[position] = np.ascontiguousarray(decode(self._source.read(own)).permute(1, 2, 0).numpy())
        return self._pixels[position]
