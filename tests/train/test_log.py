"""Metrics as they are read back: by us, and by TensorBoard's own reader."""

import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.errors import DataError
from resnet_infer.train import log
from resnet_infer.train.log import RunLog, read_metrics


def fill(folder: Path, iterations: range, at: int = 0) -> None:
    metrics = RunLog(folder, at)
    for i in iterations:
        metrics.add({"kind": "train", "iteration": i, "loss": 1 / i, "train_err": 90.0 - i, "lr": 0.1})
        if i % 2 == 0:
            metrics.add({"kind": "test", "iteration": i, "test_err": 91.5 - i})
    metrics.close()


def events_of(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 300))
    events = events_of(tmp_path)
    assert set(events.Tags()["scalars"]) == {"loss", "train_err", "lr", "test_err"}
    losses = events.Scalars("loss")
    assert [e.step for e in losses] == list(range(1, 300))
    assert [e.value for e in losses] == pytest.approx([1 / i for i in range(1, 300)])
    assert [e.step for e in events.Scalars("test_err")] == list(range(2, 300, 2))


def test_what_came_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 9))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "iterat')  # the line that a killed process was writing
    assert [r["iteration"] for r in read_metrics(tmp_path)] == [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8]
    time.sleep(1.1)  # files are read in the order of their names, which begin with the second they were begun in
    fill(tmp_path, range(5, 7), at=4)
    assert [r["iteration"] for r in read_metrics(tmp_path)] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert [(e.step, e.value) for e in events_of(tmp_path).Scalars("train_err")] == [(i, 90.0 - i) for i in range(1, 7)]


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be read"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('["a"]\n')
    with pytest.raises(DataError, match="not a run's metrics"):
        read_metrics(tmp_path)


def test_without_tensorboard_the_metrics_are_kept_and_a_note_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    fill(tmp_path, range(1, 3))
    assert [r["iteration"] for r in read_metrics(tmp_path)] == [1, 2, 2]
    assert not (tmp_path / "tensorboard").exists()
    assert capsys.readouterr().err.count("pip install 'resnet-infer[tensorboard]'") == 1
