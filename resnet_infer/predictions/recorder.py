"""Records of an evaluation written while it goes on, so that one that is killed goes on where it was.

Until the evaluation is complete its records lie in the folder `FILE.parts`. A part is written every few seconds, so a
kill at any moment loses the images since the last part and nothing else. At the end the parts are merged in order of
index, the result takes FILE's place in one step, and the folder goes.

Several processes write into one folder; where they have no common storage, their parts are handed over at the end.
"""

import contextlib
import itertools
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_infer.console import note
from resnet_infer.distributed.group import Processes
from resnet_infer.errors import ProcessError, ResnetInferError, UsageError
from resnet_infer.predictions.files import open_predictions
from resnet_infer.predictions.parts import Parts
from resnet_infer.predictions.records import Identity, Record

PART_IMAGES = 1024
PART_S = 5.0
"""A part is written after so many images or seconds, whichever comes first."""
COUNTED = 1024
"""Earlier records that are read at once."""
CHUNK_BYTES = 2**24
"""Of a part that travels to the leading process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Where records are to go, as the user asks."""

    path: Path
    resume: bool = False
    """Go on where an interrupted evaluation was, if there is one."""
    probabilities: bool = False
    """Keep every class's probability, not only the best five."""


class Recorder:
    """The records of one evaluation, of this process and of those that came before."""

    def __init__(self, asked: Recording, identity: Identity, group: Processes) -> None:
        """Raises UsageError if another evaluation's records are there, or another process writes them."""
        self._path = asked.path
        self._parts = Parts(asked.path, identity)
        self._identity = identity
        self._group = group
        self._waiting: list[Record] = []
        self._images = 0
        self._written = 0
        self._written_at = time.monotonic()
        self._there: NDArray[np.bool_] = np.zeros(identity.images, np.bool_)
        self._own: NDArray[np.bool_] = self._there
        """Images whose earlier records this process counts."""
        self._finished = False
        try:
            failure: ResnetInferError | None = None
            try:
                if group.leads:
                    self._begin(asked.resume)
            except ResnetInferError as error:
                failure = error
            group.settle(failure)
            self._attempt = self._agree()
        except BaseException:
            self.close()
            raise

    def _begin(self, resume: bool) -> None:
        self._parts.lock()
        parts = self._parts.paths()
        if parts and self._parts.merged():
            self._parts.remove()
            parts = []
        if not resume and parts:
            raise UsageError(
                f"{self._parts.folder}: holds an interrupted evaluation; continue with --resume, or remove it to start "
                "over"
            )
        if not resume or parts:
            return
        if self._path.is_file():
            self._parts.check(open_predictions(self._path)[0], self._path)
            self._finished = True
            self._there = np.ones(self._identity.images, np.bool_)
        else:
            note(f"{self._path}: nothing to resume; starting with the first image")

    def _agree(self) -> int:
        """Find out which images are there, and who counts them; the number of this attempt.

        The leader's folder comes first; of the others, what only they have.
        """
        group = self._group
        self._finished = group.from_leader(self._finished)
        leaders = group.from_leader([path.name for path in self._parts.paths()])
        failure: ResnetInferError | None = None
        try:
            self._parts.sweep()
            if not self._finished:
                for part in self._only_here(leaders):
                    self._parts.heal(part)
                self._there = self._parts.survey(self._only_here(leaders))[0] >= 0
        except ResnetInferError as error:
            failure = error
        group.settle(failure)
        taken: NDArray[np.bool_] = np.zeros(self._identity.images, np.bool_)
        for rank, there in enumerate(group.gathered(np.packbits(self._there))):
            found = np.unpackbits(there, count=self._identity.images).astype(np.bool_)
            if rank == group.rank:
                self._own = found & ~taken
            taken |= found
        self._there = taken
        return 1 + int(max(group.gathered(self._parts.last_attempt())))

    def _only_here(self, leaders: Sequence[str]) -> list[Path]:
        return [path for path in self._parts.paths() if self._group.leads or path.name not in leaders]

    @property
    def path(self) -> Path:
        """The file that the records are to become."""
        return self._path

    @property
    def images_there(self) -> int:
        """How many images need not be scored again."""
        return int(self._there.sum())

    @property
    def keeps_probabilities(self) -> bool:
        """Whether records are to hold every class's probability."""
        return self._identity.probabilities

    def missing(self) -> Sequence[int]:
        """The images that are still to be scored, in order; those that could not be read are among them."""
        if not self._there.any():
            return range(self._identity.images)
        return array("q", np.flatnonzero(~self._there).tolist())

    def earlier(self) -> Iterator[list[Record]]:
        """The earlier records that fall to this process to count, some at a time."""
        records = self._earlier()
        while some := list(itertools.islice(records, COUNTED)):
            yield some

    def _earlier(self) -> Iterator[Record]:
        if self._finished:
            yield from open_predictions(self._path)[1] if self._group.leads else ()
            return
        due = self._own.copy()
        for part in reversed(self._parts.paths()) if due.any() else ():
            for image in self._parts.images_of(part):
                if due[image[0].index] and not image[0].error:
                    due[image[0].index] = False
                    yield from image

    def add(self, records: Sequence[Record]) -> None:
        """Take all records of one image; DataError if a part cannot be written."""
        self._waiting += records
        self._images += 1
        if self._images >= PART_IMAGES or time.monotonic() - self._written_at >= PART_S:
            self.flush()

    def flush(self) -> None:
        """Write a part of what waits."""
        if self._waiting:
            self._waiting.sort(key=lambda record: record.index)
            self._parts.write(self._parts.name(self._attempt, self._group.rank, self._written), self._waiting)
            self._waiting, self._images, self._written = [], 0, self._written + 1
        self._written_at = time.monotonic()

    def finish(self) -> None:
        """Merge all parts into the file and remove them; every process calls it, after `flush`.

        Raises DataError if records are missing.
        """
        if not self._finished:
            self._hand_over()
            failure: ResnetInferError | None = None
            try:
                if self._group.leads:
                    self._parts.merge()
            except ResnetInferError as error:
                failure = error
            self._group.settle(failure)
        self._parts.remove()
        with contextlib.suppress(ProcessError):  # nobody removes what somebody begins when the lock is gone
            self._group.gathered(None)
        self.close()

    def close(self) -> None:
        """Let others write; what is there stays."""
        self._parts.unlock()

    def _hand_over(self) -> None:
        """Send the leading process the parts that it does not see, each once."""
        have, *listings = self._group.gathered([path.name for path in self._parts.paths()])
        known = set(have)
        for rank, names in enumerate(listings, start=1):
            for name in names:
                if name in known:
                    continue
                known.add(name)
                if self._group.rank == rank:
                    data = (self._parts.folder / name).read_bytes()
                    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
                    self._group.send(len(chunks), 0)
                    for chunk in chunks:
                        self._group.send(chunk, 0)
                elif self._group.leads:
                    self._parts.take(name, (self._group.received(rank) for _ in range(self._group.received(rank))))
