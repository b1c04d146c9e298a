"""JPEG files whose bodies are damaged: decoded as far as can be, and named; or unreadable, where that is asked for."""

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.open import open_source
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.predict import predict
from resnet_infer.pipeline.complaints import listening
from resnet_infer.pipeline.decode import decode, decode_noting
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member
from resnet_infer.predictions.recorder import Recording
from resnet_infer.spec.protocols import single_crop

TEST = single_crop(32, 32)


def jpeg(seed: int, **options: Any) -> bytes:
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).resize((240, 200))
    file = io.BytesIO()
    picture.convert(options.pop("mode", "RGB")).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(4000) + data[middle + 4000 :]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 3] + b"\xff\xd9"


KINDS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"mode": "L"},
    {"mode": "CMYK"},
    {"restart_marker_rows": 1},
    {"optimize": True},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("damage", [zeroed, cut])
def test_damage_is_heard_and_good_files_are_silent(
    options: dict[str, Any], damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(4):
        good = jpeg(seed, **options)
        assert decode_noting(good)[1] == ""
        pixels, warning = decode_noting(damage(good))
        assert warning.startswith(("Corrupt JPEG data", "Premature end", "Inconsistent progression"))
        assert torch.equal(pixels, decode(damage(good)))
    assert capfd.readouterr().err == ""


def test_what_else_is_written_meanwhile_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        os.write(2, b"of another thread\n")

    with listening() as heard:
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        os.write(2, b"Corrupt JPEG data: bad Huffman code\n")
    assert heard == ["Corrupt JPEG data: bad Huffman code"]
    assert capfd.readouterr().err == "of another thread\n"


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("resnet20.cifar10", device="cpu")


@pytest.fixture
def folder(tmp_path: Path, model: Model) -> Path:
    assert model.manifest.labels
    for number in range(20):
        path = tmp_path / "data" / model.manifest.labels.names[number % 10] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(number)
        path.write_bytes(zeroed(data) if number == 3 else cut(data) if number == 11 else data)
    return tmp_path / "data"


@pytest.mark.parametrize("loading", [Loading(workers=0), Loading(workers=2), Loading(workers=0, offload="rendering")])
def test_rows_count_them_and_stderr_names_them(
    model: Model, folder: Path, loading: Loading, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recording = Recording(path=tmp_path / "x.jsonl")
    (row,) = evaluate([Member(model, (TEST,))], open_source(folder), loading=loading, recording=recording)
    assert (row.images, row.decode_warnings) == (20, 2)
    err = capfd.readouterr().err
    assert err.count("scored though damaged (Corrupt JPEG data") == 2
    assert "03.jpg: scored though damaged" in err
    again = Recording(path=tmp_path / "x.jsonl", resume=True)
    (row,) = evaluate([Member(model, (TEST,))], open_source(folder), loading=loading, recording=again)
    assert (row.resumed, row.decode_warnings) == (20, 2)
    warned = [one.path for one in predict(model, TEST, open_source(folder), loading=loading) if one.warning]
    assert [Path(path).name for path in sorted(warned, key=lambda path: Path(path).name)] == ["03.jpg", "11.jpg"]


@pytest.mark.parametrize("workers", [0, 2])
def test_strictly_they_are_unreadable(model: Model, folder: Path, workers: int, tmp_path: Path) -> None:
    strict = Loading(workers=workers, strict_decode=True)
    source = open_source(folder)
    recording = Recording(path=tmp_path / "x.jsonl")
    (row,) = evaluate([Member(model, (TEST,))], source, loading=strict, on_error="skip", recording=recording)
    assert (row.images, len(row.unreadable), row.decode_warnings) == (18, 2, 0)
    assert all("damaged (Corrupt JPEG data" in one["error"] for one in row.unreadable)
    lenient = Recording(path=tmp_path / "x.jsonl", resume=True)
    with pytest.raises(UsageError, match="whether damaged JPEG files are unreadable"):
        evaluate([Member(model, (TEST,))], source, loading=Loading(workers=0), recording=lenient)
    with pytest.raises(UsageError, match="--strict-decode needs the CPU's decoder"):
        evaluate([Member(model, (TEST,))], source, loading=Loading(offload="decoding", strict_decode=True))
