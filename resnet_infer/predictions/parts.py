"""The folder of an unfinished predictions file: parts that appear whole or not at all, and their merging.

Parts have the form of the file and are named `ATTEMPT-RANK-NUMBER`. Each holds all records of each of its images.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_infer.console import note
from resnet_infer.errors import DataError, ResnetInferError, UsageError
from resnet_infer.files import put_in_place, sync_folder
from resnet_infer.locks import Lock
from resnet_infer.predictions.files import format_of, open_predictions
from resnet_infer.predictions.records import Identity, Record

OPEN_PARTS = 8
"""Parts held in memory while merging."""


class Parts:
    """The parts that lie beside a predictions file."""

    def __init__(self, file: Path, identity: Identity) -> None:
        """Raises UsageError for a file of another kind than .parquet and .jsonl."""
        self.folder = file.with_name(file.name + ".parts")
        self._file = file
        self._form = format_of(file)
        self._identity = identity
        self._lock: Lock | None = None

    def lock(self) -> None:
        """Make the folder, and keep other processes from writing it; UsageError if one does, or it cannot be made."""
        self._lock = Lock(self.folder, f"{self.folder}: another process is writing it; wait for its end")
        with self._writing():
            sync_folder(self.folder.parent)

    def unlock(self) -> None:
        """Let others write; what is there stays, and a folder with nothing in it goes."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        with contextlib.suppress(OSError):  # it has parts, or is another's by now
            self.folder.rmdir()

    def remove(self) -> None:
        """Remove all parts; the folder goes with the lock."""
        self.sweep()
        for path in self.paths():
            path.unlink(missing_ok=True)

    def paths(self) -> list[Path]:
        """The whole parts, the oldest first."""
        return sorted(self.folder.glob(f"*-*-*{self._form.suffix}"))

    def sweep(self) -> None:
        """Remove what was being written when a process died."""
        for partial in self.folder.glob("*.tmp"):
            partial.unlink(missing_ok=True)

    def last_attempt(self) -> int:
        """The number of the last attempt that wrote a part; 0 if there is none."""
        return max((int(path.name.split("-")[0]) for path in self.paths()), default=0)

    def name(self, attempt: int, rank: int, number: int) -> str:
        """What a part is called."""
        return f"{attempt:06}-{rank:04}-{number:06}{self._form.suffix}"

    def write(self, name: str, records: Iterable[Record]) -> None:
        """Write a part, or replace it."""
        with self._writing(), self._partial(name) as partial:
            if not self.folder.exists():  # of a process that has its own storage
                self.folder.mkdir(parents=True, exist_ok=True)
                sync_folder(self.folder.parent)
            self._form.write(partial, self._identity, records)
            put_in_place(partial, self.folder / name, durable=True)

    def take(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a part that another machine has made."""
        with self._writing(), self._partial(name) as partial:
            with partial.open("wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            put_in_place(partial, self.folder / name, durable=True)

    @contextlib.contextmanager
    def _partial(self, name: str) -> Iterator[Path]:
        """The file that a part is written to; it does not stay if that is interrupted."""
        partial = self.folder / f"{name}.tmp"
        try:
            yield partial
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise DataError(
                f"{self._file}: its records cannot be written ({reason}); those before are kept: free some space, and "
                "continue with --resume"
            ) from error

    def images_of(self, part: Path) -> Iterator[list[Record]]:
        """The images of a part, each with its records in order.

        Raises DataError where it is damaged, UsageError if it was made with something else.
        """
        found, records = self._form.open(part)
        self.check(found, self.folder)
        names = self._identity.protocol_names
        while image := list(itertools.islice(records, len(names))):
            index = image[0].index
            if [(record.index, record.protocol) for record in image] != [(index, name) for name in names]:
                raise DataError(f"{part}: damaged at image {index}")
            if not 0 <= index < self._identity.images:
                raise DataError(f"{part}: damaged: there is no image {index}")
            yield image

    def merged(self) -> bool:
        """Whether the file itself is there, whole, and of this evaluation: then parts are what a kill left behind."""
        if not self._file.is_file():
            return False
        try:
            found, records = open_predictions(self._file)
            return not self._identity.differences(found) and sum(1 for _ in records) > 0
        except (ResnetInferError, OSError):
            return False

    def check(self, found: Identity, where: Path) -> None:
        """Raise UsageError, saying what differs, if records were made with something else."""
        if differing := self._identity.differences(found):
            raise UsageError(
                f"{where}: was recorded with other settings, so --resume cannot continue it: {'; '.join(differing)}; "
                "ask for the same, or choose another file"
            )

    def heal(self, part: Path) -> None:
        """Leave of a part what is whole; only a disk or a copy that failed can have damaged it."""
        images: list[list[Record]] = []
        try:
            images.extend(self.images_of(part))
        except DataError as error:
            note(f"{error}; its other images are scored again")
            if images:
                self.write(part.name, itertools.chain.from_iterable(images))
            else:
                part.unlink()

    def survey(self, parts: Sequence[Path], *, unreadable: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """For every image, the latest part that has it, as its number in `parts` (-1: none), and its place in there.

        Images that could not be read are left out unless asked for.
        """
        part_of = np.full(self._identity.images, -1, np.int32)
        place_of = np.zeros(self._identity.images, np.int32)
        for number, part in enumerate(parts):
            for place, image in enumerate(self.images_of(part)):
                if unreadable or not image[0].error:
                    part_of[image[0].index], place_of[image[0].index] = number, place
        return part_of, place_of

    def merge(self) -> None:
        """Put the file in place: every image once, in order, by its latest record. DataError if one has none."""
        parts = self.paths()
        part_of, place_of = self.survey(parts, unreadable=True)
        if (part_of < 0).any():
            raise DataError(f"{self.folder}: image {np.argmax(part_of < 0)} has no record; continue with --resume")

        @lru_cache(maxsize=OPEN_PARTS)
        def loaded(number: int) -> list[list[Record]]:
            return list(self.images_of(parts[number]))

        images = (loaded(int(part))[place] for part, place in zip(part_of, place_of, strict=True))
        merged = self.folder / "merged.tmp"
        with self._writing():
            self._form.write(merged, self._identity, itertools.chain.from_iterable(images))
            put_in_place(merged, self._file, durable=True)
