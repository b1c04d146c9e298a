"""The figures say what the metrics say."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.figures import response_figure
from resnet_infer.report import training
from resnet_infer.report.training import curve, error_figure
from resnet_infer.train.log import RunLog
from resnet_infer.train.recipe import RECIPES

TEST = [(2, 30.0), (4, 9.0)]
TRAIN = [(1, 90.0), (2, 60.0), (3, 20.0), (4, 8.0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    metrics = RunLog(tmp_path, 0)
    for i, err in TRAIN:
        metrics.add(
            {"kind": "train", "iteration": i, "epoch": i / 2, "loss": 1 / i, "train_err": err, "lr": 0.1, "seconds": i}
        )
        if i in dict(TEST):
            tested = {"test_err": dict(TEST)[i], "test_errors": 9, "test_images": 100}
            metrics.add({"kind": "test", "iteration": i, "epoch": i / 2, **tested, "seconds": i})
    metrics.close()
    (tmp_path / "recipe.toml").write_text(RECIPES["cifar10"].to_toml())
    return tmp_path


def test_training_is_dashed_and_test_is_solid(folder: Path) -> None:
    from resnet_infer.train.log import read_metrics

    records = read_metrics(folder)
    (axes,) = error_figure({"one": records, "two": records[:3]}).axes
    lines = axes.get_lines()
    assert [line.get_linestyle() for line in lines] == ["--", "-", "--", "-"]
    assert [list(zip(*line.get_data(), strict=True)) for line in lines[:2]] == [TRAIN, TEST]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["one, test 9.00 %", "two, test 30.00 %"]
    assert curve(records, "loss") == ([1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4])


def test_responses_are_shown_in_order_and_sorted() -> None:
    above, below = response_figure({"resnet20": [1.0, 3.0, 2.0], "plain20": [4.0, 5.0]}).axes
    assert [list(line.get_ydata()) for line in above.get_lines()] == [[1, 3, 2], [4, 5]]  # type: ignore[arg-type]
    assert [list(line.get_ydata()) for line in below.get_lines()] == [[3, 2, 1], [5, 4]]  # type: ignore[arg-type]


class Page(HTMLParser):
    """Its text, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.fetched: list[str | None] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("#")]


def test_a_run_gets_a_picture_and_a_page_that_needs_nothing_else(folder: Path) -> None:
    assert training.write_curves(folder, "resnet20")
    with Image.open(folder / "curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    red = (pixels[..., 0].astype(int) - pixels[..., 1] > 80).sum()
    assert red > 500  # a line was drawn
    text = (folder / "curves.html").read_text("utf-8")
    page = Page(text)
    assert page.fetched == []
    assert not re.search(r"url\((?!#)|@import|<script", text)
    assert "<svg" in text
    said = "".join(page.text)
    assert "9.00 % at iteration 4" in said
    assert "weight_decay = 0.0001" in said


def test_without_matplotlib_a_note_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find: Callable[..., Any] = lambda name: None  # noqa: E731
    monkeypatch.setattr(training, "find_spec", find)
    assert not training.write_curves(folder, "resnet20")
    assert "pip install 'resnet-infer[report]'" in capsys.readouterr().err
