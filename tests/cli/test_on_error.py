"""--on-error and --image-timeout: what each command does with images that cannot be read, and what it says."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_infer.cli.app import main

Run = Callable[..., tuple[int, str, str]]
NAMES = ("airplane", "automobile")
MODEL = "resnet20.cifar10"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["resnet-infer", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of ten noisy images, one of them cut short."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for number in range(20):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
            whole = file.getvalue()
            archive.writestr(f"{NAMES[number % 2]}/{number:02}.png", whole[:500] if number == 4 else whole)
    return tmp_path / "data.zip"


BAD = "airplane/04.png"


def test_predict_ends_with_1_for_unreadable_images_or_skips_them(run: Run, data: Path) -> None:
    for mode, code in (("fail", 1), ("skip", 0)):
        got, out, err = run("predict", data, "-m", MODEL, "--on-error", mode, "--format", "json")
        records = json.loads(out)
        assert got == code
        assert [record["path"] for record in records if "error" in record] == [BAD]
        assert len(records) == 20
        assert err.count(f"{BAD}: damaged or truncated") == 1


def test_predict_of_nothing_readable_is_no_success(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    code, _, err = run("predict", tmp_path / "x.png", "-m", MODEL, "--on-error", "skip")
    assert code == 1
    assert "1 of 1 images cannot be read" in err


def test_eval_takes_a_timeout(run: Run, data: Path) -> None:
    code, out, _ = run("eval", data, "-m", MODEL, "--on-error", "skip", "--image-timeout", "50", "--format", "json")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert (row["images"], [entry["path"] for entry in row["unreadable"]]) == (19, [BAD])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--image-timeout", "0"), "--image-timeout is in seconds, above 0; got 0"),
        (("--image-timeout", "nan"), "--image-timeout is in seconds, above 0; got nan"),
        (("--image-timeout", "5", "--workers", "0"), "--image-timeout needs a worker process that can be ended"),
        (("--on-error", "ignore"), "'--on-error': 'ignore' is not one of fail, skip"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "eval"])
def test_flags_that_cannot_work_are_refused(
    command: str, flags: tuple[str, ...], message: str, run: Run, data: Path
) -> None:
    code, out, err = run(command, data, "-m", MODEL, *flags)
    assert (code, out) == (2, "")
    assert message in err


def test_an_export_is_gated_on_the_images_that_can_be_read(run: Run, data: Path, tmp_path: Path) -> None:
    wanted = ("export", MODEL, "-o", tmp_path / "x.onnx", "--gate-data", data)
    code, _, err = run(*wanted)
    assert code == 1
    assert BAD in err
    code, out, err = run(*wanted, "--on-error", "skip")
    assert code == 0
    assert "19 images" in out
    assert err.count(f"{BAD}: damaged or truncated") == 1
    code, _, err = run("export", MODEL, "-o", tmp_path / "y.onnx", "--on-error", "skip")
    assert code == 2
    assert "--gate-data" in err


def test_training_goes_on_with_the_images_that_can_be_read(run: Run, data: Path, tmp_path: Path) -> None:
    few = ("--arch", "resnet20", "--iterations", 2, "--batch", 4, "--eval-every", 2)
    code, _, err = run("train", data, "-o", tmp_path / "a", *few)
    assert code == 1
    assert BAD in err
    code, _, err = run("train", data, "-o", tmp_path / "b", *few, "--on-error", "skip", "--test-data", data)
    assert code == 0, err
    assert err.count(f"{BAD}: damaged or truncated") == 2  # once of what it trains on, once of what it tests on
