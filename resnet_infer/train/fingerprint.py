"""The images of a training run, known again when it goes on: by names, classes, marks and, in part, by content."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from resnet_infer.data.source import Source
from resnet_infer.distributed.group import Processes
from resnet_infer.errors import ProcessError, UsageError
from resnet_infer.predictions.listing import content_of, listing_of

SAMPLED = 1024
"""Images whose bytes are read for the comparison."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """N training images."""

    names: str
    """SHA-256 of every image's name and class, in order; folders above the class do not count."""
    contents: str
    """SHA-256 of the bytes of a sample of the images, evenly spread; the whole of a small set."""
    marks_N: Tensor
    """int64, see `data.source.Marked`."""

    def check(self, now: "Fingerprint", source: Source, folder: Path) -> None:
        """Raise UsageError if the images are others now.

        Marks may all differ, as when the data were copied; where only some do, these images were written since.
        """
        if now.names != self.names:
            raise UsageError(
                f"{folder}: the run was made with other training images (names or classes differ); give the same data"
            )
        changed = (now.marks_N != self.marks_N).nonzero().flatten().tolist()
        if 0 < len(changed) < len(self.marks_N):
            raise UsageError(
                f"{folder}: {len(changed)} of {len(self.marks_N)} training images have changed since the run began, as "
                f"{source.samples[changed[0]].name}; bring them back, or start over"
            )
        if now.contents != self.contents:
            raise UsageError(
                f"{folder}: the run was made with other training images (the same names, other bytes); give the same "
                "data, or start over"
            )


def fingerprint(source: Source) -> Fingerprint:
    """Of a source as it is now; reads a sample of its images."""
    names, contents = hashlib.sha256(), hashlib.sha256()
    count = len(source.samples)
    for sample in source.samples:
        names.update(f"{Path(sample.name).name}\t{sample.label}\n".encode("utf-8", "surrogateescape"))
    for index in range(0, count, -(-count // SAMPLED) or 1):
        contents.update(content_of(source, index).encode())
    return Fingerprint(names.hexdigest(), contents.hexdigest(), torch.from_numpy(listing_of(source).marks_N))


def agreed(own: Fingerprint, group: Processes) -> Fingerprint:
    """The images of the run; raises ProcessError if a process has others. Marks may differ from machine to machine."""
    first, *others = group.gathered((own.names, own.contents))
    odd = next((rank for rank, theirs in enumerate(others, start=1) if theirs != first), None)
    failure = None
    if odd is not None:
        failure = ProcessError(f"process {odd} has other training images than process 0; give all the same data", odd)
    group.settle(failure)
    return own
