"""Images inside .zip and .tar files and CIFAR-10's own batches, read in place, nothing unpacked to disk."""

import os
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.data.sources import Part, Pixels, Sample, classified
from resnet_infer.errors import DataError

MAX_BYTES = 2**29
"""Of one image in a zip file, uncompressed: a small archive can claim more than the memory holds."""


class Zip:
    """Images in a zip file."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                entries = [(info.filename, info) for info in archive.infolist() if not info.is_dir()]
        except Exception as error:  # a damaged archive makes zipfile raise many kinds
            raise DataError(f"{path}: not a zip file, or damaged ({error})") from error
        self.samples, self.left_out = classified(entries)
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def read(self, sample: Sample) -> bytes:
        """The member's bytes; its checksum is verified."""
        if sample.key.file_size > MAX_BYTES:
            raise DataError(f"claims {sample.key.file_size:,} bytes in the zip file, over the limit of {MAX_BYTES:,}")
        try:
            if self._opened is None or self._opened[0] != os.getpid():  # a handle must not be shared by processes
                self._opened = os.getpid(), zipfile.ZipFile(self.path)
            return self._opened[1].read(sample.key)
        except Exception as error:  # a damaged member makes zipfile and its decompressors raise many kinds
            raise DataError(f"cannot be read from the zip file ({error})") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


class Tar:
    """Images in an uncompressed tar file, found once and read by offset."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path = path
        try:
            with tarfile.open(path, "r:") as archive:
                entries = [(m.name, _place(m)) for m in archive if not m.isdir()]
                end = archive.offset
            with path.open("rb") as file:
                file.seek(end)
                whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except tarfile.TarError as error:
            reason = "it is compressed, so it cannot be read in place; decompress it" if _compressed(path) else error
            raise DataError(f"{path}: not a plain tar file: {reason}") from error
        if not whole:
            raise DataError(f"{path}: the tar file has no end mark after {len(entries)} files: truncated or damaged")
        self.samples, self.left_out = classified(entries)

    def read(self, sample: Sample) -> bytes:
        """The member's bytes."""
        offset, size = sample.key
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise DataError(f"the tar file ends {size - len(data)} bytes before the image does")
        return data


def _place(member: tarfile.TarInfo) -> tuple[int, int] | None:
    """Offset and size of a member's bytes; None for links and sparse files, which have none of their own."""
    return (member.offset_data, member.size) if member.isreg() and not member.issparse() else None


def _compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


class Cifar10:
    """The test batch, or the five training batches, of a `cifar-10-batches-py` folder as its authors distribute it.

    Its pickles are read by an unpickler that builds arrays and plain values only.
    """

    left_out = ()

    BATCHES: Mapping[Part, tuple[str, ...]] = {
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test": ("test_batch",),
    }

    def __init__(self, folder: Path, part: Part = "test") -> None:
        self.name = str(folder)
        try:
            names = _plain_pickle(folder / "batches.meta")[b"label_names"]
            batches = [_plain_pickle(folder / batch) for batch in self.BATCHES[part]]
            parts = [np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32) for batch in batches]
            data = np.concatenate(parts)
            numbers = [number for batch in batches for number in batch[b"labels"]]
            if min(numbers) < 0:
                raise ValueError("a label is below 0")
            labels = [names[number].decode() for number in numbers]
            files = [name.decode() for batch in batches for name in batch[b"filenames"]]
            if not len(data) == len(labels) == len(files):
                raise ValueError(f"{len(data)} images, {len(labels)} labels, {len(files)} names")
        except FileNotFoundError as error:
            missing = Path(str(error.filename)).name
            raise DataError(f"{folder}: its {missing} is missing; unpack the whole archive") from error
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"{folder}: not a readable cifar-10-batches-py folder ({error!r})") from error
        self._pixels = np.ascontiguousarray(data.transpose(0, 2, 3, 1))
        self.samples = [
            Sample(name=file, label=label, key=index)
            for index, (file, label) in enumerate(zip(files, labels, strict=True))
        ]

    @staticmethod
    def fits(folder: Path) -> bool:
        """Whether this folder looks like one."""
        return (folder / "test_batch").is_file() and (folder / "batches.meta").is_file()

    def read(self, sample: Sample) -> Pixels:
        """The image's pixels."""
        pixels: Pixels = self._pixels[sample.key]
        return pixels


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


def _plain_pickle(path: Path) -> dict[bytes, Any]:
    with path.open("rb") as file:
        loaded = _PlainUnpickler(file, encoding="bytes").load()
    if not isinstance(loaded, dict):
        raise ValueError(f"{path.name} holds no dictionary")
    return loaded
