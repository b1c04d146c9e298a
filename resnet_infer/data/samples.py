"""The images of a source as columns: a million of them cost tens of megabytes and are shared with forked workers.

A list of a million objects would cost half a gigabyte, and each worker that touches their reference counts a copy.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar, overload

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image: the name users know it by, the class they say it has, and what its source reads it by."""

    name: str
    label: str | None = None
    """Class folder, or label of a list file; None where the source states no class."""
    key: Any = None


class Lazy(Sequence[Value]):
    """A sequence whose values are made when they are asked for, by `at`."""

    def at(self, index: int) -> Value:
        """The value at a position from 0 on."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> list[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | list[Value]:
        length = len(self)
        if isinstance(index, slice):
            return [self.at(i) for i in range(*index.indices(length))]
        if not -length <= index < length:
            raise IndexError(index)
        return self.at(index % length)

    def __iter__(self) -> Iterator[Value]:
        return map(self.at, range(len(self)))


class Strings(Lazy[str]):
    """Text in one buffer: its bytes and 8 more for each."""

    def __init__(self, texts: Iterable[str] = (), prefix: str = "") -> None:
        self.prefix = prefix
        """Before every text, not stored with it."""
        self._bytes = bytearray()
        self._ends = array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a text; bytes that are no UTF-8 come back as they were."""
        self._bytes += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._bytes))

    def encoded(self, index: int) -> bytes:
        """One text without the prefix, as UTF-8."""
        return bytes(self._bytes[self._ends[index - 1] if index else 0 : self._ends[index]])

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, index: int) -> str:
        """See Lazy."""
        return self.prefix + self.encoded(index).decode("utf-8", "surrogateescape")


class LabelColumn(Lazy[str | None]):
    """A label for each image, or None: 4 bytes each, and every distinct text once."""

    def __init__(self, labels: Iterable[str | None] = ()) -> None:
        self.codes = array("i")
        """Position in `texts`, or -1."""
        self.texts: list[str] = []
        self._code_of: dict[str, int] = {}
        for label in labels:
            self.append(label)

    def append(self, label: str | None) -> None:
        """Add one."""
        if label is None:
            self.codes.append(-1)
            return
        code = self._code_of.get(label)
        if code is None:
            code = self._code_of[label] = len(self.texts)
            self.texts.append(label)
        self.codes.append(code)

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, index: int) -> str | None:
        """See Lazy."""
        code = self.codes[index]
        return None if code < 0 else self.texts[code]


class Places(Lazy[tuple[int, ...]]):
    """Whole numbers for each image, as where its bytes are: 8 bytes each."""

    def __init__(self, *columns: "array[int]") -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def at(self, index: int) -> tuple[int, ...]:
        """See Lazy."""
        return tuple(column[index] for column in self.columns)


class Samples(Lazy[Sample]):
    """Columns of names, labels and keys as a sequence of samples, each made when it is asked for."""

    def __init__(self, names: Sequence[str], labels: Sequence[str | None], keys: Sequence[Any]) -> None:
        self.names = names
        self.labels = labels
        self.keys = keys

    def __len__(self) -> int:
        return len(self.names)

    def at(self, index: int) -> Sample:
        """See Lazy."""
        return Sample(name=self.names[index], label=self.labels[index], key=self.keys[index])


class Chosen(Lazy[Sample]):
    """Samples of other sequences, each changed as it is asked for."""

    def __init__(
        self,
        parts: Sequence[Sequence[Sample]],
        key: Callable[[int, int, Sample], Any],
        positions: Sequence[int] | None = None,
    ) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))
        self._key = key
        """key(part, position in it, its sample): the new sample's key."""
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions) if self._positions is not None else self._ends[-1] if self._ends else 0

    def at(self, index: int) -> Sample:
        """See Lazy."""
        if self._positions is not None:
            index = int(self._positions[index])
        part = bisect_right(self._ends, index)
        within = index - (self._ends[part - 1] if part else 0)
        sample = self._parts[part][within]
        return replace(sample, key=self._key(part, within, sample))


def labels_of(samples: Sequence[Sample]) -> Iterator[str | None]:
    """Every sample's label in order, without making the samples where they are columns."""
    if isinstance(samples, Samples):
        yield from samples.labels
    else:
        yield from (sample.label for sample in samples)
