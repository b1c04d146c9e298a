"""Predictions by Ray: those of `predict`, every image once, though workers are killed."""

import os
import re
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.open import open_source
from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Source
from resnet_infer.errors import ResnetInferError, UsageError
from resnet_infer.evaluation.predict import predict
from resnet_infer.pipeline.loading import Loading
from resnet_infer.spec.protocols import ten_crop

pytest.importorskip("ray", reason="needs the extra ray")

from resnet_infer.evaluation import predict_on_ray
from resnet_infer.evaluation.predict_on_ray import Scoring, predict_by_ray, ray

Picture = np.ndarray[Any, np.dtype[np.uint8]]
COUNT = 150
BROKEN = (7, 100)
OPEN = partial(open_model, "resnet20.cifar10", device="cpu")
SCORING = Scoring(open=OPEN, protocol=ten_crop(36, 32), loading=Loading(workers=0))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local one of three CPUs, which share what there is, and batches so small that there are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_on_ray, "BATCH_IMAGES", 20)
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def images(picture: Callable[..., Picture], encode: Any) -> list[tuple[str, bytes]]:
    return [
        (f"{number:03}.png", b"broken" if number in BROKEN else encode(picture(32, 36, number)))
        for number in range(COUNT)
    ]


@pytest.fixture(scope="module")
def archive(images: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in images:
            file.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def expected(archive: Path) -> list[Any]:
    return list(predict(OPEN(), SCORING.protocol, open_source(archive)))


def compare(output: Path, expected: list[Any], names: list[str] | None = None) -> None:
    frame = pd.read_parquet(output).sort_values("index")
    assert frame["index"].tolist() == list(range(COUNT))
    assert frame["path"].tolist() == (names or [record.path for record in expected])
    for row, record in zip(frame.itertuples(), expected, strict=True):
        assert row.top_classes.tolist() == [entry.index for entry in record.predictions]
        assert row.top_labels.tolist() == [entry.label for entry in record.predictions]
        assert row.top_probs == pytest.approx([entry.prob for entry in record.predictions], abs=1e-5)
        assert bool(row.error) == bool(record.error)
    assert [path.name for path in output.parent.iterdir() if path.name.endswith(".partial")] == []


class Deadly:
    """A source; reading some image kills the process that does, as often as there are lives left."""

    left_out = ()

    def __init__(self, source: Source, lives: Path, at: str) -> None:
        self.name, self.samples = source.name, source.samples
        self.source, self.lives, self.at = source, lives, at

    def read(self, sample: Sample) -> Any:
        """The image's bytes, if the process lives to see them."""
        if sample.name == self.at and (left := sorted(self.lives.iterdir())):
            left[0].unlink()
            time.sleep(0.5)  # others write meanwhile
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.read(sample)


def deadly(archive: Path, folder: Path, lives: int) -> Source:
    lives_folder = folder / "lives"
    lives_folder.mkdir()
    for number in range(lives):
        (lives_folder / str(number)).touch()
    return Deadly(open_source(archive), lives_folder, "075.png")


@pytest.fixture(scope="module", autouse=True)
def here() -> None:
    """Workers do not import this module; they get its classes as they are."""
    import sys

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_worker_killed_in_mid_run_loses_and_doubles_nothing(
    archive: Path, expected: list[Any], tmp_path: Path
) -> None:
    source = deadly(archive, tmp_path, lives=1)
    written = predict_by_ray(source, SCORING, tmp_path / "out", actors=2)
    assert not list((tmp_path / "lives").iterdir())
    assert (written.images, written.unreadable) == (COUNT, len(BROKEN))
    compare(tmp_path / "out", expected)


def test_images_that_kill_every_worker_end_it_and_are_named(archive: Path, tmp_path: Path) -> None:
    source = deadly(archive, tmp_path, lives=50)
    with pytest.raises(ResnetInferError, match="ended 2 workers") as caught:
        predict_by_ray(source, replace(SCORING, tries=2), tmp_path / "out", actors=2)
    first, last = map(int, re.findall(r"images (\d+) to (\d+)", str(caught.value))[0])
    assert first <= 75 <= last <= first + 20
    assert len(list((tmp_path / "lives").iterdir())) == 50 - 2
    assert not (tmp_path / "out").exists()


def test_rows_of_parquet_files_are_images(images: list[tuple[str, bytes]], expected: list[Any], tmp_path: Path) -> None:
    """Bytes with names and without, in row groups that no batch ends with."""
    folder = tmp_path / "tables"
    folder.mkdir()
    named = [{"bytes": data, "path": name} for name, data in images[:80]]
    pq.write_table(pa.table({"image": named}), folder / "a.parquet", row_group_size=32)
    pq.write_table(pa.table({"image": [data for _, data in images[80:]]}), folder / "b.parquet", row_group_size=7)
    source = open_source(folder)
    predict_by_ray(source, SCORING, tmp_path / "out", actors=1)
    compare(tmp_path / "out", expected, [sample.name for sample in source.samples])


def test_what_cannot_work_is_one_line(archive: Path, tmp_path: Path) -> None:
    source = open_source(archive)
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        predict_by_ray(source, SCORING, tmp_path / "there")
    with pytest.raises(UsageError, match="cannot be written"):
        predict_by_ray(source, SCORING, archive / "out")

    def fails() -> Model:
        raise UsageError("the weights are gone")

    with pytest.raises(ResnetInferError, match="the weights are gone") as caught:
        predict_by_ray(source, Scoring(open=fails, protocol=SCORING.protocol), tmp_path / "out")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()
