"""The images of a training run, known again when it goes on: by names, classes, marks and, in part, by content."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from resnet_infer.data.source import Source
from resnet_infer.distributed.group import Processes
from resnet_infer.errors import ProcessError, UsageError
from resnet_infer.predictions.listing import content_of, marks_of, spread

SAMPLED = 1024
"""Images whose bytes are read for the comparison."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """N training images."""

    names: str
    """SHA-256 of every image's name and class, in order; folders above the class do not count."""
    contents: Sequence[str]
    """`content_hash` of a sample of the images, evenly spread; of all in a small set."""
    marks_N: Tensor
    """int64, see `data.source.Marked`."""

    def check(self, now: "Fingerprint", source: Source, folder: Path, used: Tensor) -> None:
        """Raise UsageError if the images are others now; `used` are the positions of those that the run has seen.

        One that it has not may have been mended meanwhile. Marks may all differ, as when the data were copied; where
        only some do, these images were written since.
        """
        if now.names != self.names:
            raise UsageError(
                f"{folder}: the run was made with other training images (names or classes differ); give the same data"
            )
        count = len(self.marks_N)
        differing_N = now.marks_N != self.marks_N
        seen_N = torch.zeros(count, dtype=torch.bool)
        seen_N[used] = True
        odd = [] if bool(differing_N.all()) else (differing_N & seen_N).nonzero().flatten().tolist()
        for index, mine, theirs in zip(spread(range(count), SAMPLED), self.contents, now.contents, strict=True):
            if mine != theirs and (seen_N[index] or not differing_N[index]):
                odd.append(index)
        if odd:
            raise UsageError(
                f"{folder}: {len(set(odd))} of {count} training images have changed since the run began, as "
                f"{source.samples[odd[0]].name}; bring them back, or start over"
            )


def fingerprint(source: Source) -> Fingerprint:
    """Of a source as it is now; reads a sample of its images."""
    names = hashlib.sha256()
    for sample in source.samples:
        names.update(f"{Path(sample.name).name}\t{sample.label}\n".encode("utf-8", "surrogateescape"))
    contents = [content_of(source, index) for index in spread(range(len(source.samples)), SAMPLED)]
    return Fingerprint(names.hexdigest(), contents, torch.from_numpy(marks_of(source)))


def agreed(own: Fingerprint, group: Processes) -> Fingerprint:
    """The images of the run; raises ProcessError if a process has others. Marks may differ from machine to machine."""
    first, *others = group.gathered((own.names, own.contents))
    odd = next((rank for rank, theirs in enumerate(others, start=1) if theirs != first), None)
    failure = None
    if odd is not None:
        failure = ProcessError(f"process {odd} has other training images than process 0; give all the same data", odd)
    group.settle(failure)
    return own
