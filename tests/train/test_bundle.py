"""The bundled checkpoints: pages from their metrics, errors to the image, found by key."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bundle
from resnet_infer.backends.load import open_model
from resnet_infer.data.open import open_source
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.pipeline.score import Member
from resnet_infer.spec.labels import CIFAR10_NAMES
from resnet_infer.spec.protocols import protocol_for
from resnet_infer.spec.registry import bundled_folders

MODELS = Path(__file__).parents[2] / "models"
KEYS = ("plain20.cifar10", "resnet20.cifar10")


def test_pages_are_what_their_metrics_say() -> None:
    pages = bundle.pages(MODELS)
    assert set(pages) == {MODELS / "README.md", *(MODELS / key / "README.md" for key in KEYS)}
    for path, text in pages.items():
        assert path.read_text("utf-8") == text, f"{path}: write it anew with python -m benchmarks.bundle models"


def test_a_page_follows_its_metrics(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "resnet20.cifar10", tmp_path / "resnet20.cifar10")
    path = tmp_path / "resnet20.cifar10" / "metrics.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["kind"] == "test"
    path.write_text(path.read_text() + json.dumps(last | {"test_err": 98.76, "test_errors": 9876}) + "\n")
    pages = bundle.pages(tmp_path)
    assert "| 98.76 | 9,876 of 10,000 | 8.75 |" in pages[tmp_path / "README.md"]
    assert "98.76 %: 9,876 of 10,000 images wrong" in pages[tmp_path / "resnet20.cifar10" / "README.md"]


@pytest.mark.parametrize("key", KEYS)
def test_weights_make_the_error_that_is_stated(shared: Path, key: str) -> None:
    stated = bundle.read(MODELS / key).test
    model = open_model(key, device="cpu")
    protocol = protocol_for("single-crop", model.manifest.spec, model.manifest.preprocessing)
    (row,) = evaluate([Member(model, (protocol,))], open_source(shared / "data" / "cifar10" / "test.zip"))
    assert (row.images, row.top1_errors) == (stated["test_images"], stated["test_errors"])


def test_weights_are_found_by_key_and_know_their_classes(
    run: Callable[..., Any], encode: Callable[..., bytes], picture: Callable[..., Any], tmp_path: Path
) -> None:
    assert set(KEYS) <= set(bundled_folders())
    (tmp_path / "photo.jpg").write_bytes(encode(picture(60, 80), "JPEG"))
    result = run("predict", tmp_path / "photo.jpg", "-m", "resnet20.cifar10", "--format", "json", "--top-k", 10)
    assert result.code == 0, result.err
    (record,) = json.load(io.StringIO(result.out))
    assert {p["label"] for p in record["predictions"]} == set(CIFAR10_NAMES)


def test_a_finished_run_is_added(run: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    flags = ("--arch", "resnet20", "--batch", 8, "--iterations", 2, "--mean", "channel", "--workers", 0)
    result = run("train", images, "--test-data", images, "-o", tmp_path / "run", *flags, "--device", "cpu")
    assert result.code == 0, result.err
    bundle.add(tmp_path / "run", tmp_path / "models", "resnet20.colours")
    pages = bundle.pages(tmp_path / "models")
    card = pages[tmp_path / "models" / "resnet20.colours" / "README.md"]
    assert "| batch | 8 | 128 |" in card
    assert "| drops | 1, 2 | 32000, 48000 |" in card
    assert "| mean | channel | pixel |" in card
    assert "momentum" not in card
