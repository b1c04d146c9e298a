"""CIFAR-10's own batches, read without running what is in their pickles."""

import io
import pickle
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Part, Pixels, mark_of_bytes
from resnet_infer.errors import DataError
from resnet_infer.files import open_regular

MAX_BATCH_BYTES = 2**27
"""Of one file; the real ones have 31 million."""
MAX_NAME_BYTES = 2**12
"""Of an image's or a class's name."""


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
            names: Any = _plain_pickle(folder / "batches.meta")[b"label_names"]
            batches = [_plain_pickle(folder / batch) for batch in self.BATCHES[part]]
            parts = [_pixels(batch[b"data"]) for batch in batches]
            data = np.concatenate(parts)
            numbers = [number for batch in batches for number in batch[b"labels"]]
            if min(numbers) < 0:
                raise ValueError("a label is below 0")
            names = [_name(name) for name in names]
            labels = [names[number] for number in numbers]
            files = [_name(name) for batch in batches for name in batch[b"filenames"]]
            if not len(data) == len(labels) == len(files):
                raise ValueError(f"{len(data)} images, {len(labels)} labels, {len(files)} names")
        except FileNotFoundError as error:
            missing = Path(str(error.filename)).name
            raise DataError(f"{folder}: its {missing} is missing; unpack the whole archive") from error
        except (
            KeyError,
            IndexError,
            ValueError,
            TypeError,
            AttributeError,
            EOFError,
            OverflowError,
            MemoryError,
            pickle.UnpicklingError,
        ) as error:
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

    def mark(self, sample: Sample) -> int:
        """Of the checksum of its pixels."""
        return mark_of_bytes(self._pixels[sample.key])


class _Array:
    """What stands for a numpy array while a pickle is read: numpy would take whatever memory the file claims."""

    values: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, raw = state
        if not isinstance(kind, _Kind) or kind.code not in ("u1", "|u1") or not isinstance(raw, bytes):
            raise ValueError("an array is not of bytes")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Kind:
    """What stands for a dtype."""

    def __init__(self, code: Any, *flags: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        pass


def _reconstruct(*of_empty_array: Any) -> _Array:
    return _Array()


def _scalar(kind: Any, raw: Any) -> int:
    if not isinstance(kind, _Kind) or not re.fullmatch("[<|]?[iu][1248]", str(kind.code)):
        raise ValueError("a number is not whole")
    return int.from_bytes(raw, "little", signed="i" in kind.code)


STANDS_FOR = {"_reconstruct": _reconstruct, "ndarray": _Array, "dtype": _Kind, "scalar": _scalar}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in STANDS_FOR:
            return STANDS_FOR[name]
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


def _plain_pickle(path: Path) -> dict[bytes, Any]:
    with open_regular(path) as file:
        data = file.read(MAX_BATCH_BYTES + 1)
    if len(data) > MAX_BATCH_BYTES:
        raise ValueError(f"{path.name} has over the limit of {MAX_BATCH_BYTES:,} bytes")
    for count, (opcode, value, _) in enumerate(pickletools.genops(data)):  # raises ValueError for a false length
        if "PUT" in opcode.name and value is not None and int(value) > count:  # memory is taken for all places up to it
            raise ValueError(f"{path.name} claims {value:,} places")
    loaded = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    if not isinstance(loaded, dict):
        raise ValueError(f"{path.name} holds no dictionary")
    return loaded


def _pixels(data: Any) -> Any:
    """(images, 3, 32, 32) uint8."""
    if not isinstance(data, _Array) or data.values is None:
        raise ValueError("its data is no array")
    return data.values.reshape(-1, 3, 32, 32)


def _name(name: Any) -> str:
    if not isinstance(name, bytes) or len(name) > MAX_NAME_BYTES:
        raise ValueError(f"a name is none, or has over {MAX_NAME_BYTES:,} bytes")
    return name.decode()
