"""Records of an evaluation written while it goes on, so that one that is killed goes on where it was.

Until the evaluation is complete its records lie in the folder `FILE.parts`, in files of the form of FILE, named
`SESSION-RANK-NUMBER`. A part appears whole or not at all and holds all records of each of its images, so a kill at any
moment loses the images since the last part and nothing else. At the end the parts are merged in order of index, the
result takes FILE's place in one step, and the folder goes.

Several processes write into one folder; where they have no common storage, their parts are handed over at the end.
"""

import itertools
import os
import shutil
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import DataError, ResnetInferError, UsageError
from resnet_infer.prediction_files import format_of, put_in_place
from resnet_infer.predictions import open_predictions
from resnet_infer.processes import Processes
from resnet_infer.records import Identity, Record
from resnet_infer.report.console import note
from resnet_infer.tally import Tally

PART_IMAGES = 1024
PART_S = 5.0
"""A part is written after so many images or seconds, whichever comes first."""
OPEN_PARTS = 8
"""Parts held in memory while merging."""
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
        self.path = asked.path
        self.folder = asked.path.with_name(asked.path.name + ".parts")
        self._form = format_of(asked.path)
        self._identity = identity
        self._group = group
        self._lock: IO[bytes] | None = None
        self._waiting: list[Record] = []
        self._images = 0
        self._written = 0
        self._written_at = time.monotonic()
        self._there: NDArray[np.bool_] = np.zeros(identity.images, np.bool_)
        self._own: NDArray[np.bool_] = self._there
        """Images whose earlier records this process counts."""
        self._finished = False
        failure: ResnetInferError | None = None
        try:
            if group.leads:
                self._begin(asked.resume)
        except ResnetInferError as error:
            failure = error
            self.close()
        group.settle(failure)
        self._session = self._agree()

    def _begin(self, resume: bool) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder / "lock")
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror or error})") from error
        if self._lock is None:
            raise UsageError(f"{self.folder}: another process is writing it; wait for its end")
        parts = self._parts()
        if not resume:
            if parts:
                raise UsageError(
                    f"{self.folder}: holds an interrupted evaluation; go on with --resume, or remove it to start anew"
                )
            return
        if self.path.is_file():
            try:
                self._check(open_predictions(self.path)[0], self.path)
                self._finished = True
                self._there = np.ones(self._identity.images, np.bool_)
            except ResnetInferError:
                if not parts:  # else an evaluation that is to take the file's place
                    raise
        elif not parts:
            note(f"{self.path}: nothing there to go on with; starting at the first image")

    def _agree(self) -> int:
        """Find out which images are there, and who counts them; the number of this session.

        The leader's folder comes first; of the others, what only they have.
        """
        names = self._group.from_leader([part.name for part in self._parts()] if self._group.leads else None)
        self._finished = self._group.from_leader(self._finished)
        own_names = {part.name for part in self._parts()} - (set() if self._group.leads else set(names))
        for part in self.folder.glob("*.tmp"):
            part.unlink(missing_ok=True)
        failure: ResnetInferError | None = None
        if not self._finished:
            try:
                for part in self._parts():
                    if part.name in own_names:
                        self._heal(part)
                self._there = self._survey(own_names)[0] >= 0
            except ResnetInferError as error:
                failure = error
        self._group.settle(failure)
        taken: NDArray[np.bool_] = np.zeros(self._identity.images, np.bool_)
        for rank, there in enumerate(self._group.gathered(np.packbits(self._there))):
            found = np.unpackbits(there, count=self._identity.images).astype(np.bool_)
            if rank == self._group.rank:
                self._own = found & ~taken
            taken |= found
        self._there = taken
        last = max((int(part.name.split("-")[0]) for part in self._parts()), default=0)
        return 1 + int(max(self._group.gathered(last)))

    @property
    def images_there(self) -> int:
        """How many images need not be scored again."""
        return int(self._there.sum())

    def missing(self) -> Sequence[int]:
        """The images that are still to be scored, in order; those that could not be read are among them."""
        if not self._there.any():
            return range(self._identity.images)
        return array("q", np.flatnonzero(~self._there).tolist())

    def count(self, tallies: Sequence[Tally]) -> None:
        """Add the earlier records that fall to this process to the tallies of their protocols."""
        tally_of = dict(zip(self._identity.protocol_names, tallies, strict=True))
        if self._finished:
            for record in open_predictions(self.path)[1] if self._group.leads else ():
                tally_of[record.protocol].add(record)
            return
        due = self._own.copy()
        for part in reversed(self._parts()):
            for image in self._images_of(part):
                if due[image[0].index] and not image[0].error:
                    due[image[0].index] = False
                    for record in image:
                        tally_of[record.protocol].add(record)

    def add(self, records: Sequence[Record]) -> None:
        """Take all records of one image; OSError if a part cannot be written."""
        if not self._identity.probabilities:
            records = [replace(record, probs_K=None) for record in records]
        self._waiting += records
        self._images += 1
        if self._images >= PART_IMAGES or time.monotonic() - self._written_at >= PART_S:
            self.flush()

    def flush(self) -> None:
        """Write a part of what waits."""
        if self._waiting:
            self._waiting.sort(key=lambda record: record.index)
            name = f"{self._session:06}-{self._group.rank:04}-{self._written:06}{self._form.suffix}"
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{name}.tmp"
            self._form.write(partial, self._identity, self._waiting)
            put_in_place(partial, self.folder / name)
            self._waiting, self._images, self._written = [], 0, self._written + 1
        self._written_at = time.monotonic()

    def finish(self) -> None:
        """Merge all parts into the file and remove them; every process calls it, after `flush`.

        Raises DataError if records are missing.
        """
        if not self._finished:
            self._hand_over()
            failure: Exception | None = None
            try:
                if self._group.leads:
                    self._merge()
            except (ResnetInferError, OSError) as error:
                failure = error
            self._group.settle(failure)
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let others write; what is there stays, and a folder without any part goes."""
        if self._lock is not None:
            if not self._parts():
                shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.close()
            self._lock = None

    def _hand_over(self) -> None:
        listings = self._group.gathered([part.name for part in self._parts()])
        have = set(listings[0])
        for rank, names in enumerate(listings):
            for name in (name for name in names if name not in have):
                have.add(name)
                path = self.folder / name
                if self._group.rank == rank:
                    data = path.read_bytes()
                    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
                    self._group.send(len(chunks), 0)
                    for chunk in chunks:
                        self._group.send(chunk, 0)
                elif self._group.leads:
                    partial = path.with_name(f"{name}.tmp")
                    with partial.open("wb") as file:
                        for _ in range(self._group.received(rank)):
                            file.write(self._group.received(rank))
                    put_in_place(partial, path)

    def _merge(self) -> None:
        parts = self._parts()
        part_of, place_of = self._survey({part.name for part in parts}, unreadable=True)
        if (part_of < 0).any():
            first = int(np.argmax(part_of < 0))
            raise DataError(f"{self.folder}: image {first} has no record; go on with --resume")
        loaded = lru_cache(maxsize=OPEN_PARTS)(lambda number: list(self._images_of(parts[number])))
        merged = self.folder / "merged.tmp"
        self._form.write(
            merged,
            self._identity,
            (record for part, place in zip(part_of, place_of, strict=True) for record in loaded(int(part))[place]),
        )
        put_in_place(merged, self.path)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"*-*-*{self._form.suffix}"))

    def _survey(self, names: set[str], unreadable: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """For every image, the latest part that has it, as its number among all parts (-1: none), and its place there.

        Images that could not be read are left out unless asked for.
        """
        part_of = np.full(self._identity.images, -1, np.int32)
        place_of = np.zeros(self._identity.images, np.int32)
        for number, part in enumerate(self._parts()):
            if part.name not in names:
                continue
            for place, image in enumerate(self._images_of(part)):
                if unreadable or not image[0].error:
                    part_of[image[0].index], place_of[image[0].index] = number, place
        return part_of, place_of

    def _images_of(self, part: Path) -> Iterator[list[Record]]:
        """The images of a part, each with its records in order; raises DataError where it is damaged."""
        found, records = self._form.open(part)
        self._check(found, self.folder)
        names = self._identity.protocol_names
        while image := list(itertools.islice(records, len(names))):
            index = image[0].index
            if [(record.index, record.protocol) for record in image] != [(index, name) for name in names]:
                raise DataError(f"{part}: damaged at image {index}")
            if not 0 <= index < self._identity.images:
                raise DataError(f"{part}: damaged: there is no image {index}")
            yield image

    def _heal(self, part: Path) -> None:
        """Leave of a part what is whole; only a disk or a copy that failed can have damaged it."""
        images: list[list[Record]] = []
        try:
            images.extend(self._images_of(part))
        except DataError as error:
            note(f"{error}; its other images are scored again")
            if not images:
                part.unlink()
                return
            partial = part.with_name(f"{part.name}.tmp")
            self._form.write(partial, self._identity, itertools.chain.from_iterable(images))
            put_in_place(partial, part)

    def _check(self, found: Identity, where: Path) -> None:
        if differing := self._identity.differences(found):
            raise UsageError(
                f"{where}: made otherwise than asked for now, so it cannot be gone on with: {'; '.join(differing)}; "
                "ask for the same, or choose another file"
            )


def _locked(path: Path) -> IO[bytes] | None:
    """The file, locked until it is closed or this process dies; None if another has it. Not on Windows.

    A lock of the process, not of the open file: decoding workers must not inherit it, since they live a little longer.
    """
    file = path.open("ab")
    if os.name == "posix":
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
    return file
