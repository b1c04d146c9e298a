"""What predict and eval say of inputs that cannot be opened, and of files that they leave out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

MODEL = "resnet20.cifar10"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("airplane/1.png", "bird/2.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(path)
    (tmp_path / "data/bird/3.xcf").touch()
    return tmp_path / "data"


def test_one_bad_input_does_not_stop_the_others(command: Callable[..., Any], data: Path) -> None:
    (data.parent / "empty").mkdir()
    given = [data / "airplane/1.png", data / "no.png", data.parent / "empty", data / "bird/2.png"]
    answer = command("predict", *given, "-m", MODEL, "--device", "cpu", "--workers", 0, "--format", "json")
    records = json.loads(answer.out)
    assert [record["path"] for record in records] == list(map(str, given))
    errors = [record.get("error") or "" for record in records]
    assert [bool(error) for error in errors] == [False, True, True, False]
    assert errors[1] == "no such file or folder"
    assert errors[2].startswith("no images in it")
    assert answer.code == 1
    assert "2 of 4 images cannot be read" in answer.err


def test_with_no_good_input_the_first_error_is_told(command: Callable[..., Any], data: Path) -> None:
    answer = command("predict", data / "no.png", data / "nor.png", "-m", MODEL, "--device", "cpu")
    assert answer.line_of_error(1).endswith("no.png: no such file or folder")


def test_files_left_out_are_told(command: Callable[..., Any], data: Path) -> None:
    flags = ("-m", MODEL, "--device", "cpu", "--workers", 0, "--format", "json")
    predicted = command("predict", data, *flags)
    assert len(json.loads(predicted.out)) == 2
    evaluated = command("eval", data, *flags)
    assert json.loads(evaluated.out)["left_out"] == {"files": 1, "names": ["bird/3.xcf"]}
    for answer in (predicted, evaluated):
        assert answer.code == 0, answer.err
        assert "as bird/3.xcf; left out: 1 .xcf" in answer.err
