"""What a source says of its images without reading them, and whether they are still the images they were.

Names and classes are the listing's identity: where they differ, so do the data. An image's mark may differ though its
bytes do not, as when the data were copied; it says which images are worth reading again. Of the others a sample is
read. What is compared is a hash of the bytes.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.source import Source, content_hash, mark_of
from resnet_infer.distributed.group import Processes
from resnet_infer.errors import DataError, ProcessError, UsageError
from resnet_infer.predictions.records import Record

Indices = TypeVar("Indices", bound=Sequence[int])

SAMPLED = 256
"""Images that are read for comparison though nothing says that they have changed."""
MOST_MARKED = 4096
"""Images that several processes read for comparison because their marks differ."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a source as they are listed."""

    sha256: str
    """Of every image's name and class in order. Names are those below what the user gave: the data may move."""
    marks_N: NDArray[np.int64]

    def sample(self, indices: Sequence[int]) -> list[int]:
        """Some of these, the same ones whenever and wherever the listing is the same; in order."""
        return sorted(random.Random(self.sha256).sample(indices, min(SAMPLED, len(indices))))


def listing_of(source: Source) -> Listing:
    """Asks the source for every image's mark."""
    digest = hashlib.sha256()
    for sample in source.samples:
        name = sample.name.removeprefix(source.name).lstrip("/\\")
        digest.update(repr((name, sample.label)).encode("utf-8", "backslashreplace"))
    return Listing(digest.hexdigest(), marks_of(source))


def marks_of(source: Source) -> NDArray[np.int64]:
    """Every image's mark, (N,)."""
    return np.fromiter((mark_of(source, sample) for sample in source.samples), np.int64, len(source.samples))


def content_of(source: Source, index: int) -> str:
    """`content_hash` of an image as it is now; of one that cannot be read, nothing."""
    try:
        return content_hash(source.read(source.samples[index]))
    except (OSError, DataError):
        return ""


def check_same_content(group: Processes, source: Source, listing: Listing) -> None:
    """Raise ProcessError if the processes see other bytes under the same names; all of them call it.

    Compared are a sample and, up to a number, images whose marks differ from the leading process's.
    """
    if group.world == 1:
        return
    marks_N = group.from_leader(listing.marks_N)
    differing = np.flatnonzero(listing.marks_N != marks_N).tolist()
    wanted = {index for some in group.gathered(spread(differing, MOST_MARKED)) for index in some}
    chosen = group.from_leader(sorted(wanted.union(listing.sample(range(len(marks_N))))))
    first, *others = group.gathered([content_of(source, index) for index in chosen])
    failure: ProcessError | None = None
    for rank, found in enumerate(others, start=1):
        odd = [index for index, mine, theirs in zip(chosen, first, found, strict=True) if mine != theirs]
        if odd and failure is None:
            failure = ProcessError(
                f"process {rank} has other images than process 0 under the same names: {len(odd)} of {len(chosen)} "
                f"compared differ, as {source.samples[odd[0]].name}; give all of them the same data",
                rank,
            )
    group.settle(failure)


def spread(indices: Indices, most: int) -> Indices:
    """At most so many of these, evenly spread."""
    return indices[:: -(-len(indices) // most) or 1]  # type: ignore[return-value]


class Earlier:
    """Images that were scored before, with the hashes of what was scored."""

    def __init__(self, source: Source, listing: Listing) -> None:
        self._source = source
        self._listing = listing
        self._content: dict[int, bytes] = {}
        self._marked: list[int] = []

    def add(self, records: Sequence[Record]) -> None:
        """Take records of earlier; those of images that could not be read say nothing."""
        for record in records:
            if record.content_sha256 and record.index not in self._content:
                self._content[record.index] = bytes.fromhex(record.content_sha256)
                if record.source_mark != self._listing.marks_N[record.index]:
                    self._marked.append(record.index)

    def check(self, where: Path) -> None:
        """Read a sample and every image whose mark has changed; UsageError, naming the records, if one is another."""
        rest = set(self._content).difference(self._marked)
        chosen = sorted({*self._marked, *self._listing.sample(sorted(rest))})
        odd = [index for index in chosen if content_of(self._source, index) != self._content[index].hex()]
        if odd:
            raise UsageError(
                f"{where}: {len(odd)} of {len(chosen)} images compared are not the ones that were scored there, as "
                f"{self._source.samples[odd[0]].name}; --resume goes on with the same images only: bring them back, "
                "or choose another file"
            )
