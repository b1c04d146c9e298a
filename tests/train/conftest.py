"""A tiny labelled data set, and the command line in this process."""

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from resnet_infer.cli.app import main

NAMES = ("red", "green", "blue")
PER_CLASS = 8


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        assert "Traceback" not in self.err
        line = self.err.splitlines()[-1]
        assert line.startswith("resnet-infer: error: "), self.err
        return line


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(arguments of resnet-infer): what it printed and how it exited."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["resnet-infer", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return Result(int(caught.value.code or 0), out, err)

    return run


def write_images(path: Path, per_class: int = PER_CLASS, side: int = 32, seed: int = 0) -> Path:
    """A zip of noisy squares, each with more of its class's colour."""
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for channel, name in enumerate(NAMES):
            for number in range(per_class):
                pixels = rng.integers(0, 160, (side, side, 3), dtype=np.uint8)
                pixels[..., channel] += 60
                encoded = io.BytesIO()
                Image.fromarray(pixels).save(encoded, "PNG")
                archive.writestr(f"{name}/{number:03}.png", encoded.getvalue())
    return path


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """write(path, per_class=8, side=32, seed=0): a zip of labelled images."""
    return write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of three classes, 32x32, in a zip."""
    return write_images(tmp_path_factory.mktemp("images") / "train.zip")


@pytest.fixture(scope="session")
def test_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 others."""
    return write_images(tmp_path_factory.mktemp("images") / "test.zip", per_class=4, seed=1)
