"""CIFAR-10's own batches, read without running what is in their pickles."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Part, Pixels, mark_of_bytes
from resnet_infer.errors import DataError


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

    def mark(self, sample: Sample) -> int:
        """Of the checksum of its pixels."""
        return mark_of_bytes(self._pixels[sample.key])


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
