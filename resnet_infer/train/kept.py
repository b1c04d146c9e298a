"""Images decoded once and kept, for a small set that is read many times."""

import numpy as np

from resnet_infer.data.samples import Chosen, Sample
from resnet_infer.data.source import Pixels, Source, mark_of
from resnet_infer.pipeline.decode import decode


class Kept:
    """A source whose pixels stay in this process from their first reading on."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.left_out = source.left_out
        self.samples = Chosen([source.samples], _position_and_sample)
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

    def mark(self, sample: Sample) -> int:
        """What the source knows."""
        return mark_of(self._source, sample.key[1])


def _position_and_sample(part: int, position: int, sample: Sample) -> tuple[int, Sample]:
    return position, sample
