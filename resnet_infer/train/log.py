"""What a run measures, kept as JSON lines and as TensorBoard events.

A line is `{"kind": "train", "iteration", "epoch", "loss", "train_err", "lr", "images_per_s", "seconds"}`, averaged over
the iterations since the line before, or `{"kind": "test", "iteration", "test_err", "test_errors", "test_images",
"seconds"}`. Errors are percentages, seconds those of the run so far, tests included.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_infer.console import note
from resnet_infer.errors import DataError
from resnet_infer.files import replacing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "metrics.jsonl"
CURVES = ("loss", "train_err", "lr", "images_per_s", "test_err")


class RunLog:
    """The records of a run; what a killed run wrote after its checkpoint is dropped when it is resumed."""

    def __init__(self, folder: Path, iteration: int) -> None:
        path = folder / FILE
        kept = [record for record in read_metrics(folder) if record["iteration"] <= iteration] if iteration else []
        with replacing(path) as partial:
            partial.write_text("".join(f"{json.dumps(record)}\n" for record in kept), "utf-8")
        self.records: list[Mapping[str, Any]] = [*kept]
        self._file = path.open("a", encoding="utf-8")
        self._events = _event_writer(folder / "tensorboard", iteration)

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a record; readers see it at once."""
        self.records.append(record)
        self._file.write(f"{json.dumps(record)}\n")
        self._file.flush()
        if self._events:
            for name in CURVES:
                if name in record:
                    self._events.add_scalar(name, record[name], record["iteration"])
            self._events.flush()

    def close(self) -> None:
        """End the files."""
        self._file.close()
        if self._events:
            self._events.close()


def _event_writer(folder: Path, iteration: int) -> "SummaryWriter | None":
    """A writer of TensorBoard's event files, which forget what came after `iteration`; None without TensorBoard."""
    if find_spec("tensorboard") is None:
        note("no TensorBoard events are written: `pip install 'resnet-infer[tensorboard]'` brings it")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=iteration + 1)


def read_metrics(folder: Path) -> Sequence[Mapping[str, Any]]:
    """The records in a run's folder, without a last line cut short; raises DataError if there are none to read."""
    path = folder / FILE
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a run's metrics ({error})") from error
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), int):
            raise DataError(f"{path}: not a run's metrics: '{line[:60]}'")
        records.append(record)
    return records
