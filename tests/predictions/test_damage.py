"""Damage to what is kept: no flipped bit, edited record, changed image or second writer ever makes another number."""

import json
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.open import open_source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.files import replacing
from resnet_infer.locks import Lock
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member
from resnet_infer.predictions import recorder
from resnet_infer.predictions.files import format_of, read_predictions
from resnet_infer.predictions.parts import Parts
from resnet_infer.predictions.recorder import Recording
from resnet_infer.predictions.records import Record
from resnet_infer.spec.protocols import single_crop

COUNT = 24
TESTS = (single_crop(32, 32),)


class Stop(Exception):
    """As a power cut, but in this process."""


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("resnet20.cifar10", device="cpu")


def draw(folder: Path, encode: Any, picture: Any, labels: Any, first: int = 0) -> None:
    for number in range(COUNT):
        path = folder / labels[number % 10] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(32, 32, first + number)))


@pytest.fixture
def folder(picture: Callable[..., Any], encode: Any, model: Model, tmp_path: Path) -> Path:
    assert model.manifest.labels
    draw(tmp_path / "data", encode, picture, model.manifest.labels.names)
    return tmp_path / "data"


@pytest.fixture(params=["jsonl", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recorder, "PART_IMAGES", 4)
    return tmp_path / f"predictions.{request.param}"


def interrupt(model: Model, data: Path, file: Path, images: int = 13) -> None:
    done: list[int] = []

    def advance(amount: int) -> None:
        done.append(amount)
        if sum(done) >= images:
            raise Stop

    with pytest.raises(Stop):
        run(model, data, file, advance=advance, loading=Loading(workers=0, batch_size=1))


def run(model: Model, data: Path, file: Path, **how: Any) -> Any:
    how = {"loading": Loading(workers=0)} | how
    return evaluate([Member(model, TESTS)], open_source(data), recording=Recording(path=file, resume=True), **how)


def test_images_overwritten_after_they_were_scored_are_no_part_of_one_result(
    model: Model, folder: Path, file: Path, picture: Any, encode: Any
) -> None:
    interrupt(model, folder, file)
    scored = open_source(folder).samples[3]
    before, status = Path(scored.key).read_bytes(), os.stat(scored.key)
    Path(scored.key).write_bytes(encode(picture(32, 32, 99)))
    with pytest.raises(UsageError, match=f"1 of .* not the ones that were scored there, as .*{Path(scored.key).name}"):
        run(model, folder, file)
    os.utime(scored.key, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy with times: the sample finds it
    with pytest.raises(UsageError, match="not the ones that were scored there"):
        run(model, folder, file)
    Path(scored.key).write_bytes(before)  # the same bytes, another time
    (row,) = run(model, folder, file)
    assert row.images == COUNT
    Path(scored.key).write_bytes(encode(picture(32, 32, 99)))
    with pytest.raises(UsageError, match="not the ones that were scored there"):  # nor of a finished one
        run(model, folder, file)


def test_a_moved_copy_of_the_data_goes_on(model: Model, folder: Path, file: Path, tmp_path: Path) -> None:
    interrupt(model, folder, file)
    packed = tmp_path / "data.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    (row,) = run(model, packed, file)
    assert (row.images, row.resumed) == (COUNT, 12)


def test_no_flipped_bit_in_a_file_is_another_record(model: Model, folder: Path, file: Path) -> None:
    run(model, folder, file)
    whole, written = file.read_bytes(), read_predictions(file)
    rng = random.Random(0)
    refused = 0
    places = range(len(whole)) if file.suffix == ".jsonl" else rng.sample(range(len(whole)), 400)
    for at in places:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            found = read_predictions(file)
        except DataError:
            refused += 1
            continue
        assert found == written
    assert refused > 0.5 * len(places)


def test_a_flipped_bit_in_a_part_is_scored_again(model: Model, folder: Path, file: Path, tmp_path: Path) -> None:
    whole = run(model, folder, tmp_path / f"whole{file.suffix}")
    interrupt(model, folder, file)
    part = sorted(file.with_name(file.name + ".parts").glob("*-*-*"))[1]
    data = part.read_bytes()
    at = data.index(b'"rank": ') + 8 if file.suffix == ".jsonl" else len(data) // 3
    for place in range(at, len(data)):  # one that says something
        part.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            list(format_of(part).open(part)[1])
        except DataError:
            break
    (row,) = run(model, folder, file)
    assert (row.top1_errors, row.images) == (whole[0].top1_errors, COUNT)
    assert row.resumed < 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 1}, "its rank 1 is not"),
        ({"rank": -1}, "its rank -1 is not"),
        ({"truth": 10}, "its true class is 10, of 10"),
        ({"top_probs": (2.0, 0.1, 0.1, 0.1, 0.1)}, "not in 0..1"),
        ({"top_probs": (float("nan"),) * 5}, "not in 0..1"),
        ({"top_probs": (0.1, 0.5, 0.1, 0.1, 0.1)}, "best first"),
        ({"top_classes": (0, 0, 1, 2, 3)}, "each once"),
        ({"top_classes": (0, 1, 2)}, "3 best classes with 5"),
        ({"truth_prob": None}, "not all there"),
        ({"truth_prob": 0.0}, "two probabilities"),
        ({"error": "broken"}, "scores of an image that could not be read"),
        ({"probs_K": np.zeros(10, np.float32)}, "probabilities that the file says"),
        ({"index": 0.0}, "index is no whole number"),
    ],
)
def test_a_record_that_contradicts_itself_is_damage(
    change: dict[str, Any], words: str, model: Model, folder: Path, tmp_path: Path
) -> None:
    """Its checksum is right: somebody wrote it so."""
    path = tmp_path / "x.jsonl"
    run(model, folder, path)
    found = read_predictions(path)
    (records,) = found.records.values()
    right = next(place for place, record in enumerate(records) if record.rank == 0)
    forged: list[Record] = list(records)
    forged[right] = replace(records[right], **change)
    format_of(path).write(path, found.identity, forged)
    with pytest.raises(DataError, match=f"line {right + 2} is not a record .*{words}"):
        read_predictions(path)


def test_the_model_that_was_loaded_is_the_model_that_is_recorded(model: Model, folder: Path, tmp_path: Path) -> None:
    assert model.file
    copy = tmp_path / "last.safetensors"
    copy.write_bytes(model.file.read_bytes())
    opened = open_model(str(copy), device="cpu")
    other = open_model("plain20.cifar10", device="cpu").file
    assert other
    copy.write_bytes(other.read_bytes())  # as training does
    run(opened, folder, tmp_path / "x.jsonl")
    assert read_predictions(tmp_path / "x.jsonl").identity.model_sha256 == model.sha256


def test_a_finished_file_wins_over_parts_that_a_kill_left(model: Model, folder: Path, file: Path) -> None:
    interrupt(model, folder, file)
    parts = file.with_name(file.name + ".parts")
    left = {path.name: path.read_bytes() for path in parts.glob("*-*-*")}
    run(model, folder, file)
    finished = file.read_bytes()
    parts.mkdir()
    (parts / min(left)).write_bytes(left[min(left)])
    scored: list[int] = []
    (row,) = run(model, folder, file, advance=scored.append)
    assert (row.resumed, scored[0]) == (COUNT, COUNT)
    assert file.read_bytes() == finished
    assert not parts.exists()


def test_a_lock_is_held_by_one_and_never_anothers(tmp_path: Path) -> None:
    first = Lock(tmp_path / "run", "busy")
    with pytest.raises(UsageError, match="busy"):
        Lock(tmp_path / "run", "busy")
    code = "import sys; from pathlib import Path; from resnet_infer.locks import Lock; Lock(Path(sys.argv[1]), 'busy')"
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert "UsageError: busy" in other.stderr
    first.release()
    second = Lock(tmp_path / "run", "busy")
    first.release()  # twice: not the second's
    assert (tmp_path / "run" / "lock").exists()
    second.release()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_in_place_of_a_lock_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    if kind == "link":
        (tmp_path / "lock").symlink_to(tmp_path / "none" / "none")
        with pytest.raises(UsageError, match="cannot be written"):
            Lock(tmp_path, "busy")
    else:
        os.mkfifo(tmp_path / "lock")
        Lock(tmp_path, "busy").release()


def test_an_evaluation_that_ends_removes_nobody_elses_parts(model: Model, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    run(model, folder, path)
    identity = read_predictions(path).identity
    mine = Parts(path, identity)
    mine.lock()
    theirs = Parts(path, identity)
    with pytest.raises(UsageError, match="another process is writing it"):
        theirs.lock()
    theirs.unlock()
    assert (mine.folder / "lock").exists()
    mine.unlock()
    assert not mine.folder.exists()


def test_what_a_killed_run_was_writing_is_swept(tmp_path: Path) -> None:
    """But not what a living process is writing."""
    code = (
        "import sys, time; from pathlib import Path; from resnet_infer.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); print('there', flush=True); time.sleep(60)"
    )
    path = tmp_path / "net.onnx"
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    assert writer.stdout.readline() == "there\n"
    (tmp_path / ".net.onnx.mine.onnx").write_text("not ours by its name")
    with replacing(path) as partial:
        partial.write_text("whole")
    assert len(list(tmp_path.glob(".net.onnx.????????.onnx"))) == 1
    writer.kill()
    writer.communicate()
    with replacing(path) as partial:
        partial.write_text("whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".net.onnx.mine.onnx", "net.onnx"]


def test_a_file_without_checksums_is_read(model: Model, folder: Path, tmp_path: Path) -> None:
    """Files of earlier releases have none, and are read."""
    path = tmp_path / "x.jsonl"
    run(model, folder, path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[0]["resnet_infer"]["check"]
    for line in lines[1:]:
        for name in ("check", "content_sha256", "source_mark"):
            del line[name]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read_predictions(path).records["single-crop"]) == COUNT
