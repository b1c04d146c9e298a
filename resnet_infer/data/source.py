"""What a collection of images is, and collections made of others or of what is in memory.

A source lists its samples once, in columns, and reads one at a time. Sources travel to worker processes, so they hold
names and offsets, never a position in an open file.
"""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.samples import Chosen, Sample, Strings
from resnet_infer.errors import DataError

Pixels = NDArray[np.uint8]
"""(height, width, 3), RGB."""
Part = Literal["train", "test"]


def held_bytes(source: "Source") -> int:
    """What each process that reads from a source keeps in memory at most, beside the image it reads."""
    return int(getattr(source, "held_bytes", 0))


@runtime_checkable
class Source(Protocol):
    """A collection of images."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def samples(self) -> Sequence[Sample]:
        """Its images, in a fixed order."""
        ...

    @property
    def left_out(self) -> Sequence[str]:
        """Files that were not taken for images because of their suffix."""
        ...

    def read(self, sample: Sample) -> bytes | Pixels:
        """The encoded image, or its pixels; raises OSError or DataError."""
        ...


@runtime_checkable
class Marked(Protocol):
    """A source that knows something of its images' bytes without reading them; most do."""

    def mark(self, sample: Sample) -> int:
        """A signed 64-bit number that changes when the image's bytes do: of their number and checksum, or of when they
        were written. Raises OSError or DataError."""
        ...


def mark_of(source: Source, sample: Sample) -> int:
    """The source's mark of an image; 0 from a source that knows nothing, or for an image that is not there."""
    try:
        return source.mark(sample) if isinstance(source, Marked) else 0
    except (OSError, DataError):
        return 0


def mixed(*known: int) -> int:
    """One mark of all that is known of an image's bytes."""
    return int.from_bytes(hashlib.blake2b(repr(known).encode(), digest_size=8).digest(), "little", signed=True)


def content_hash(image: bytes | Pixels) -> str:
    """The first 32 hex digits of the SHA-256 of an image's bytes, or of its shape and pixels."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()[:32]
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32]


def said(source: Source | Sequence[Source], name: str, default: Any = None) -> Any:
    """What a source says of its classes under a name, or what all of several say alike; else the default.

    `class_names`: what it calls the classes 0, 1, 2, ...; `labels_are_indices`: its labels are class indices, not names
    of folders; `class_order`: how the user says that its folders are numbered.
    """
    if isinstance(source, Sequence):
        values = [said(each, name, default) for each in source]
        return values[0] if values and all(value == values[0] for value in values) else default
    return getattr(source, name, default)


class Says:
    """A source of other sources, which says of its classes what they say."""

    _inner: Any

    @property
    def class_names(self) -> Sequence[str]:
        """See `said`."""
        names: Sequence[str] = said(self._inner, "class_names", ())
        return names

    @property
    def labels_are_indices(self) -> bool:
        """See `said`."""
        return bool(said(self._inner, "labels_are_indices", False))

    @property
    def class_order(self) -> str | None:
        """See `said`."""
        order: str | None = said(self._inner, "class_order")
        return order


class Ordered(Says):
    """A source whose class folders are numbered as the user says."""

    def __init__(self, source: Source, order: str) -> None:
        self.name = source.name
        self.samples = source.samples
        self.left_out = source.left_out
        self.held_bytes = held_bytes(source)
        self._inner = self._source = source
        self._order = order

    @property
    def class_order(self) -> str:
        """`numeric`, `sorted` or a file."""
        return self._order

    def read(self, sample: Sample) -> bytes | Pixels:
        """What the source reads."""
        return self._source.read(sample)

    def mark(self, sample: Sample) -> int:
        """What the source knows."""
        return mark_of(self._source, sample)


class Memory:
    """Images whose bytes are already here."""

    left_out = ()

    def __init__(self, name: str, images: Sequence[tuple[str, bytes | Pixels]]) -> None:
        self.name = name
        self.samples = [Sample(name=title, key=index) for index, (title, _) in enumerate(images)]
        self._images: list[Any] = [image for _, image in images]

    def read(self, sample: Sample) -> bytes | Pixels:
        """The bytes or pixels given."""
        image: bytes | Pixels = self._images[sample.key]
        return image

    def mark(self, sample: Sample) -> int:
        """Of their checksum."""
        return mark_of_bytes(self._images[sample.key])


class Unopened:
    """An input that cannot be opened, as one image that cannot be read: the others of a command go on."""

    left_out = ()

    def __init__(self, name: str, error: str) -> None:
        self.name = name
        self.samples = [Sample(name=name)]
        self._error = error.removeprefix(f"{name}: ")

    def read(self, sample: Sample) -> bytes:
        """Raises DataError."""
        raise DataError(self._error)


def mark_of_bytes(image: bytes | Pixels) -> int:
    """Of an image that is in memory."""
    data = image if isinstance(image, bytes) else image.tobytes()
    return mixed(len(data), zlib.crc32(data))


class Joined(Says):
    """Several sources one after another."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.name = sources[0].name if len(sources) == 1 else f"{len(sources)} inputs"
        self.samples = Chosen([source.samples for source in sources], _part_and_sample)
        self.left_out = Strings(name for source in sources for name in source.left_out)
        self.held_bytes = sum(map(held_bytes, sources))
        self._inner = self._sources = list(sources)

    def read(self, sample: Sample) -> bytes | Pixels:
        """What the sample's own source reads."""
        index: int
        own: Sample
        index, own = sample.key
        return self._sources[index].read(own)

    def mark(self, sample: Sample) -> int:
        """What the sample's own source knows."""
        index, own = sample.key
        return mark_of(self._sources[index], own)


class Subset(Says):
    """Some images of a source, in the order of the given positions."""

    left_out = ()

    def __init__(self, name: str, source: Source, positions: Sequence[int]) -> None:
        self.name = name
        self.samples = Chosen([source.samples], _own_key, positions)
        self.held_bytes = held_bytes(source)
        self._inner = self._source = source

    def read(self, sample: Sample) -> bytes | Pixels:
        """What the source reads."""
        return self._source.read(sample)

    def mark(self, sample: Sample) -> int:
        """What the source knows."""
        return mark_of(self._source, sample)


def _part_and_sample(part: int, within: int, sample: Sample) -> tuple[int, Sample]:
    return part, sample


def _own_key(part: int, within: int, sample: Sample) -> Any:
    return sample.key
