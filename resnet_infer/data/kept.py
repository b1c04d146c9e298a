"""Images read once and kept, as pixels or as files, for a small set that is read many times."""

from dataclasses import replace

import numpy as np

from resnet_infer.data.decode import decode
from resnet_infer.data.samples import Chosen
from resnet_infer.data.sources import Pixels, Sample, Source
from resnet_infer.errors import DataError


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


def _position_and_sample(part: int, position: int, sample: Sample) -> tuple[int, Sample]:
    return position, sample


class Loaded:
    """A source whose files are in memory, encoded as they are; read at once, what cannot be read included."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.left_out = source.left_out
        self.samples = [replace(sample, key=position) for position, sample in enumerate(source.samples)]
        self._files = [_read(source, sample) for sample in source.samples]

    def read(self, sample: Sample) -> bytes | Pixels:
        """The file's bytes; raises the OSError or DataError that its source raised."""
        file: bytes | Pixels | Exception = self._files[sample.key]
        if isinstance(file, Exception):
            raise file
        return file


def _read(source: Source, sample: Sample) -> bytes | Pixels | Exception:
    try:
        return source.read(sample)
    except (OSError, DataError) as error:
        return error
