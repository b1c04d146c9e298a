"""A source read into memory, so that a benchmark can leave the disk out of its time."""

from dataclasses import replace

from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Pixels, Source
from resnet_infer.errors import DataError


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
