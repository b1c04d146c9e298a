"""An evaluation that was stopped goes on: nothing twice, nothing lost, and only with what it was begun with."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.rows import EvalRow
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, score
from resnet_infer.predictions import recorder
from resnet_infer.predictions.files import read_predictions
from resnet_infer.predictions.recorder import Recording
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import single_crop, ten_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
COUNT = 24
TESTS = (single_crop(32, 32), ten_crop(36, 32))
SOAK = Path(__file__).parents[1] / "soak" / "kills.py"


class Stop(Exception):
    """As a power cut, but in this process."""


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("resnet20.cifar10", device="cpu")


@pytest.fixture(scope="module")
def source(
    picture: Callable[..., Picture], encode: Any, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Source:
    assert model.manifest.labels
    path = tmp_path_factory.mktemp("data") / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(COUNT):
            name = f"{model.manifest.labels.names[number % 10]}/{number:02}.png"
            archive.writestr(name, encode(picture(32, 32, number)))
    return open_source(path)


@pytest.fixture(scope="module")
def whole(model: Model, source: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[EvalRow], Path]:
    """Rows and file of an evaluation without interruption."""
    path = tmp_path_factory.mktemp("whole") / "whole.jsonl"
    return evaluate([Member(model, tuple(TESTS))], source, recording=Recording(path=path)), path


@pytest.fixture(params=["jsonl", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records go, in parts of four images."""
    monkeypatch.setattr(recorder, "PART_IMAGES", 4)
    return tmp_path / f"predictions.{request.param}"


def interrupt(model: Model, source: Source, file: Path, images: int, **options: Any) -> list[Path]:
    """Evaluate so many images further; the parts that are there then."""
    seen: list[float] = []

    def advance(amount: float) -> None:
        seen.append(amount)
        if len(seen) - 1 == images:
            raise Stop

    how = options | {"advance": advance, "loading": Loading(workers=0, batch_size=1)}
    with pytest.raises(Stop):
        evaluate([Member(model, tuple(TESTS))], source, recording=Recording(path=file, resume=True), **how)
    return parts_of(file)


def parts_of(file: Path) -> list[Path]:
    return sorted(file.with_name(file.name + ".parts").glob("*-*-*"))


def finish(model: Model, source: Source, file: Path, whole: tuple[list[EvalRow], Path], there: int) -> None:
    """Go on to the end, and compare with the evaluation that was not interrupted."""
    scored: list[float] = []
    recording = Recording(path=file, resume=True)
    rows = evaluate(
        [Member(model, tuple(TESTS))], source, recording=recording, advance=scored.append, loading=Loading(workers=0)
    )
    assert (scored[0], sum(scored)) == (there, COUNT)
    for row, one in zip(rows, whole[0], strict=True):
        assert (row.images, row.top1_errors, row.top5_errors) == (one.images, one.top1_errors, one.top5_errors)
        assert row.resumed == there
    found, expected = read_predictions(file).records, read_predictions(whole[1]).records
    for protocol in TESTS:
        for mine, theirs in zip(found[protocol.name], expected[protocol.name], strict=True):
            assert all(getattr(mine, key) == getattr(theirs, key) for key in ("index", "name", "truth", "rank"))
            assert mine.top_probs == pytest.approx(theirs.top_probs, abs=1e-5)
    assert not parts_of(file)


def test_records_are_what_the_scoring_path_gives(model: Model, source: Source, file: Path) -> None:
    recording = Recording(path=file, probabilities=True)
    rows = evaluate([Member(model, tuple(TESTS))], source, recording=recording)
    found = read_predictions(file)
    assert model.manifest.labels
    names = model.manifest.labels.names
    probs = {result.index: result.probs_PK for result in score([Member(model, tuple(TESTS))], source)}
    for number, protocol in enumerate(TESTS):
        for record in found.records[protocol.name]:
            p_K = probs[record.index][number].numpy()  # type: ignore[index]
            assert record.probs_K == pytest.approx(p_K, abs=1e-6)
            assert record.name == source.samples[record.index].name
            assert record.top_classes == tuple(np.argsort(-p_K)[:5])
            assert record.top_probs == pytest.approx(np.sort(p_K)[::-1][:5], abs=1e-6)
            label = source.samples[record.index].label
            assert label is not None
            assert record.label == label
            assert record.truth == names.index(label)
            assert record.truth_prob == pytest.approx(p_K[names.index(label)], abs=1e-6)
            assert (record.rank == 0) == (p_K.argmax() == record.truth)
        assert rows[number].top1_errors == sum(record.rank != 0 for record in found.records[protocol.name])


def test_a_stopped_evaluation_goes_on_and_ends_as_one_that_was_not(
    model: Model, source: Source, file: Path, whole: tuple[list[EvalRow], Path]
) -> None:
    assert len(interrupt(model, source, file, 10)) == 2
    assert len(interrupt(model, source, file, 3)) == 2
    assert len(interrupt(model, source, file, 9)) == 4
    assert not file.exists()
    finish(model, source, file, whole, there=16)


def test_a_finished_evaluation_is_read_and_not_made_again(
    model: Model, source: Source, file: Path, whole: tuple[list[EvalRow], Path]
) -> None:
    evaluate([Member(model, tuple(TESTS))], source, recording=Recording(path=file))
    before = file.read_bytes()
    finish(model, source, file, whole, there=COUNT)
    assert file.read_bytes() == before


def test_a_part_torn_anywhere_is_healed(
    model: Model, source: Source, file: Path, whole: tuple[list[EvalRow], Path], tmp_path: Path
) -> None:
    """Whole lines of JSON before the tear are kept; a Parquet file without its end holds nothing."""
    parts = interrupt(model, source, file, 9)
    data = parts[1].read_bytes()
    header = data.find(b"\n") + 1 if file.suffix == ".jsonl" else 0
    kept = set()
    for share in (0.0, 0.1, 0.4, 0.65, 0.9):
        length = header + int(share * (len(data) - header)) if share > 0 else 10
        copy = tmp_path / str(share) / file.name
        shutil.copytree(parts[0].parent, copy.with_name(copy.name + ".parts"))
        parts_of(copy)[1].write_bytes(data[:length])
        there = len(open_there(model, source, copy))
        kept.add(there)
        finish(model, source, copy, whole, there=there)
    assert kept == ({4} if file.suffix == ".parquet" else {4, 5, 6, 7})


def open_there(model: Model, source: Source, file: Path) -> set[int]:
    """The images that a part's whole records are of, counted line by line."""
    found: dict[int, int] = {}
    for part in parts_of(file):
        try:
            if file.suffix == ".parquet":
                indices = pd.read_parquet(part)["index"].tolist()
            else:
                lines = part.read_text().split("\n")[1:-1]
                indices = [json.loads(line)["index"] for line in lines]
        except Exception:
            continue
        for index in indices:
            found[index] = found.get(index, 0) + 1
    return {index for index, count in found.items() if count == len(TESTS)}


def test_what_is_begun_with_one_thing_does_not_go_on_with_another(
    model: Model, source: Source, file: Path, tmp_path: Path
) -> None:
    interrupt(model, source, file, 9)
    other_data = open_source(source.name)
    other_data.samples = list(reversed(other_data.samples))  # type: ignore[misc]
    names = model.manifest.labels.names  # type: ignore[union-attr]
    checkpoint = tmp_path / "other.safetensors"
    checkpoint.write_bytes(model.file.read_bytes())  # type: ignore[union-attr]
    same_elsewhere = open_model(str(checkpoint), device="cpu")
    for changed, words in (
        ({"model": open_model("plain20.cifar10", device="cpu")}, "the model's file.*the architecture: plain20"),
        ({"model": open_model("resnet20.cifar10", device="cpu", precision="bf16")}, "the precision: bf16, not fp32"),
        (
            {"model": open_model("resnet20.cifar10", device="cpu", overrides=Overrides(std=(0.5, 0.5, 0.5)))},
            r"the preprocessing \(std: \[0.5, 0.5, 0.5\], not",
        ),
        (
            {"model": open_model("resnet20.cifar10", overrides=Overrides(labels=Labels(names=names[1:] + names[:1])))},
            "the class names",
        ),
        ({"source": other_data}, r"the data's listing \(sha256\)"),
        ({"protocols": TESTS[:1]}, "the protocols: single-crop, not single-crop, ten-crop"),
        ({"protocols": (TESTS[0], ten_crop(40, 32))}, r"the protocols \(scales: \[40\], not \[36\]\)"),
        ({"recording": Recording(path=file, resume=True, probabilities=True)}, "all probabilities are kept: true"),
        ({"recording": Recording(path=file)}, "holds an interrupted evaluation; continue with --resume"),
    ):
        usual = {"model": model, "protocols": TESTS, "source": source, "recording": Recording(path=file, resume=True)}
        asked: dict[str, Any] = usual | changed
        with pytest.raises(UsageError, match=words) as caught:
            evaluate([Member(asked["model"], tuple(asked["protocols"]))], asked["source"], recording=asked["recording"])
        assert "\n" not in str(caught.value)
        assert len(parts_of(file)) == 2
    rows = evaluate([Member(same_elsewhere, tuple(TESTS))], source, recording=Recording(path=file, resume=True))
    assert rows[0].resumed == 8


def test_unreadable_images_are_tried_again(
    model: Model, source: Source, file: Path, whole: tuple[list[EvalRow], Path], tmp_path: Path
) -> None:
    """The disk was away for a while; the same names are readable now."""
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(broken, "w") as archive:
        for number, sample in enumerate(source.samples):
            archive.writestr(sample.name, b"" if number in (1, 5) else bytes(source.read(sample)))
    with pytest.raises(DataError, match="2 of 24 images cannot be read"):
        evaluate([Member(model, tuple(TESTS))], open_source(broken), recording=Recording(path=file))
    interrupt(model, open_source(broken), file, 8, on_error="skip")
    assert not file.exists()
    shutil.copy(source.name, broken)
    rows = evaluate([Member(model, tuple(TESTS))], open_source(broken), recording=Recording(path=file, resume=True))
    assert 0 < rows[0].resumed <= COUNT - 2
    assert rows[0].unreadable == []
    assert [row.top1_errors for row in rows] == [row.top1_errors for row in whole[0]]
    assert all(not record.error for record in read_predictions(file).records["ten-crop"])


def test_unreadable_images_are_records_of_a_finished_file(
    model: Model, source: Source, file: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(broken, "w") as archive:
        for number, sample in enumerate(source.samples):
            archive.writestr(sample.name, b"" if number in (0, 5) else bytes(source.read(sample)))
    first = evaluate(
        [Member(model, tuple(TESTS))], open_source(broken), on_error="count-wrong", recording=Recording(path=file)
    )
    again = evaluate(
        [Member(model, tuple(TESTS))],
        open_source(broken),
        on_error="count-wrong",
        recording=Recording(path=file, resume=True),
    )
    assert [record.index for record in read_predictions(file).records["ten-crop"] if record.error] == [0, 5]
    assert [row.top1_errors for row in again] == [row.top1_errors for row in first]
    assert [row.unreadable for row in again] == [row.unreadable for row in first]


def test_a_model_in_memory_cannot_be_recorded(
    small_net: Any, model_of: Callable[..., Model], model: Model, source: Source, file: Path
) -> None:
    with pytest.raises(UsageError, match="in memory only"):
        evaluate(
            [Member(model_of(small_net, model.manifest.labels), tuple(TESTS))], source, recording=Recording(path=file)
        )


def test_two_processes_do_not_write_one_file(model: Model, source: Source, file: Path) -> None:
    script = (
        f"import fcntl, sys; lock = open({str(file)!r} + '.parts/lock', 'ab'); fcntl.lockf(lock, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    file.with_name(file.name + ".parts").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match="another process is writing it"):
            evaluate([Member(model, tuple(TESTS))], source, recording=Recording(path=file, resume=True))
        other.kill()
    evaluate([Member(model, tuple(TESTS))], source, recording=Recording(path=file, resume=True))


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing() -> None:
    """The short form of the soak whose log is beside it."""
    command = [sys.executable, SOAK, "--kills", "10", "--images", "100", "--by-command", "0", "--seed", "11"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all counts and records equal" in done.stdout
