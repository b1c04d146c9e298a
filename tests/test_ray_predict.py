"""Predictions by Ray: those of `predict`, every image once, though workers are killed."""

import os
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resnet_infer import ray_predict
from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.archives import Zip
from resnet_infer.data.sources import Sample, Source, open_source
from resnet_infer.errors import DataError, ProcessError, ResnetInferError, UsageError
from resnet_infer.predict import predict
from resnet_infer.protocols import ten_crop
from resnet_infer.ray_predict import Scoring, predict_parquet, predict_source, ray

Picture = np.ndarray[Any, np.dtype[np.uint8]]
COUNT = 150
BROKEN = (7, 100)
OPEN = partial(open_model, "resnet20.cifar10", device="cpu")
SCORING = Scoring(open=OPEN, protocol=ten_crop(36, 32), workers=0)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local one of three CPUs, which share what there is, and batches so small that there are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_predict, "BATCH_IMAGES", 20)
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
        assert row.top_classes.tolist() == [entry["index"] for entry in record.predictions]
        assert row.top_labels.tolist() == [entry["label"] for entry in record.predictions]
        assert row.top_probs == pytest.approx([entry["prob"] for entry in record.predictions], abs=1e-5)
        assert bool(row.error) == bool(record.error)
    assert [path.name for path in output.parent.iterdir() if path.name.endswith(".partial")] == []


class Deadly(Zip):
    """An archive; reading some image kills the process that does, as often as there are lives left."""

    def __init__(self, path: Path, lives: Path, at: str) -> None:
        super().__init__(path)
        self.lives, self.at = lives, at

    def read(self, sample: Sample) -> Any:
        """The image's bytes, if the process lives to see them."""
        if sample.name == self.at and (left := sorted(self.lives.iterdir())):
            left[0].unlink()
            time.sleep(0.5)  # others write meanwhile
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(sample)


def deadly(archive: Path, folder: Path, lives: int) -> Source:
    lives_folder = folder / "lives"
    lives_folder.mkdir()
    for number in range(lives):
        (lives_folder / str(number)).touch()
    return Deadly(archive, lives_folder, "075.png")


@pytest.fixture(scope="module", autouse=True)
def here() -> None:
    """Workers do not import this module; they get its classes as they are."""
    import sys

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_worker_killed_in_mid_run_loses_and_doubles_nothing(
    archive: Path, expected: list[Any], tmp_path: Path
) -> None:
    source = deadly(archive, tmp_path, lives=2)
    written = predict_source(source, SCORING, tmp_path / "out", actors=2)
    assert not list((tmp_path / "lives").iterdir())
    assert (written.images, written.unreadable) == (COUNT, len(BROKEN))
    compare(tmp_path / "out", expected)


def test_images_that_kill_every_worker_end_it_and_are_named(archive: Path, tmp_path: Path) -> None:
    source = deadly(archive, tmp_path, lives=50)
    with pytest.raises(ProcessError, match="images 60 to 79 ended 3 workers"):
        predict_source(source, SCORING, tmp_path / "out", actors=2)
    assert len(list((tmp_path / "lives").iterdir())) == 50 - 3
    assert not (tmp_path / "out").exists()


def test_rows_of_parquet_files_are_images(images: list[tuple[str, bytes]], expected: list[Any], tmp_path: Path) -> None:
    """In the three forms that there are, in row groups of all sizes."""
    parts = images[:60], images[60:80], images[80:]
    tables = (
        {"label": [1] * 60, "image": [{"bytes": data, "path": name} for name, data in parts[0]]},
        {"path": [name for name, _ in parts[1]], "bytes": [data for _, data in parts[1]]},
        {"image": [data for _, data in parts[2]]},
    )
    files = [tmp_path / f"{letter}.parquet" for letter in "abc"]
    for file, table in zip(files, tables, strict=True):
        pq.write_table(pa.table(table), file, row_group_size=32)
    predict_parquet(files, SCORING, tmp_path / "out", actors=1)
    compare(tmp_path / "out", expected, [name for name, _ in images[:80]] + [f"{files[2]}:{row}" for row in range(70)])


def test_what_cannot_work_is_one_line(archive: Path, tmp_path: Path) -> None:
    source = open_source(archive)
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        predict_source(source, SCORING, tmp_path / "there")
    with pytest.raises(UsageError, match="cannot be written"):
        predict_source(source, SCORING, archive / "out")
    pq.write_table(pa.table({"a": [1], "image": ["text"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column with the bytes of images among a, image"):
        predict_parquet([tmp_path / "x.parquet"], SCORING, tmp_path / "out")
    (tmp_path / "y.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="no Parquet file"):
        predict_parquet([tmp_path / "y.parquet"], SCORING, tmp_path / "out")

    def fails() -> Model:
        raise ResnetInferError("the weights are gone")

    with pytest.raises(ResnetInferError, match="the weights are gone"):
        predict_source(source, Scoring(open=fails, protocol=SCORING.protocol), tmp_path / "out")
    assert not (tmp_path / "out").exists()
