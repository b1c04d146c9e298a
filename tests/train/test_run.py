"""Whole runs through the command line: what they leave behind is what the other commands use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.model.checkpoints import load_checkpoint
from resnet_infer.train.log import read_metrics

Run = Callable[..., Any]
QUICK = ("--arch", "resnet20", "--batch", 8, "--workers", 0, "--device", "cpu", "--lr", 0.05)


def errors_by_eval(run: Run, weights: Path, data: Path) -> int:
    result = run("eval", data, "-m", weights, "--workers", 0, "--format", "json")
    assert result.code == 0, result.err
    errors: int = json.loads(result.out)["rows"][0]["top1_errors"]
    return errors


@pytest.mark.parametrize("mean", ["pixel", "channel"])
def test_weights_make_the_error_that_was_reported(
    run: Run, images: Path, test_images: Path, tmp_path: Path, mean: str
) -> None:
    folder = tmp_path / "run"
    flags = ("--iterations", 30, "--eval-every", 10, "--log-every", 10, "--mean", mean)
    result = run("train", images, "--test-data", test_images, "-o", folder, *QUICK, *flags)
    assert result.code == 0, result.err
    tests = [record for record in read_metrics(folder) if record["kind"] == "test"]
    assert [record["iteration"] for record in tests] == [10, 20, 30]
    assert errors_by_eval(run, folder / "last.safetensors", test_images) == tests[-1]["test_errors"]
    exported = run("export", folder / "last.safetensors", "-o", tmp_path / "net.onnx") if mean == "pixel" else None
    assert exported is None or (exported.code, "per-pixel mean, which no export" in exported.error) == (2, True)
    lowest = min(record["test_errors"] for record in tests)
    assert errors_by_eval(run, folder / "best.safetensors", test_images) == lowest
    assert f"({tests[-1]['test_errors']} of 12)" in result.out
    assert {path.name for path in folder.iterdir()} == {
        "best.safetensors", "curves.html", "curves.png", "last.safetensors", "metrics.jsonl", "recipe.toml",
        "state.pt", "tensorboard",
    }  # fmt: skip
    training = [record["train_err"] for record in read_metrics(folder) if record["kind"] == "train"]
    assert training[-1] < training[0]


def test_the_same_seed_gives_the_same_weights(run: Run, images: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run("train", images, "-o", tmp_path / name, *QUICK, "--iterations", 4).code == 0
    files = [(tmp_path / name / "last.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_a_run_without_momentum_goes_on(run: Run, images: Path, tmp_path: Path) -> None:
    flags = ("--momentum", 0.0, "--iterations", 2)
    assert run("train", images, "-o", tmp_path / "run", *QUICK, *flags).code == 0
    assert run("train", images, "--resume", tmp_path / "run", "--workers", 0).code == 0


def test_imagenets_recipe_streams_photographs(run: Run, images: Path, test_images: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text('name = "imagenet"\ncrop = 32\nscale_min = 36\nscale_max = 60\nbatch = 4\nprecision = "fp32"\n')
    folder = tmp_path / "run"
    flags = ("--arch", "resnet18", "--iterations", 4, "--eval-every", 2, "--workers", 1, "--device", "cpu")
    result = run("train", images, "--test-data", test_images, "--recipe", recipe, "-o", folder, *flags)
    assert result.code == 0, result.err
    manifest = load_checkpoint(str(folder / "last.safetensors")).manifest
    assert (manifest.preprocessing.resize, manifest.preprocessing.crop) == (37, 32)
    tests = [record["test_errors"] for record in read_metrics(folder) if record["kind"] == "test"]
    assert errors_by_eval(run, folder / "last.safetensors", test_images) == tests[-1]


def test_held_out_images_are_not_trained_on(run: Run, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run("train", images, "-o", folder, *QUICK, "--iterations", 2, "--hold-out", 9)
    assert result.code == 0, result.err
    last = read_metrics(folder)[-1]
    assert (last["kind"], last["test_images"], last["epoch"]) == ("test", 9, pytest.approx(2 * 8 / 15, abs=1e-6))


def test_progress_fits_eighty_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from resnet_infer.train import display

    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.console.Console", lambda **options: Console(file=screen, width=80, force_terminal=True))
    shown = display.Display("resnet110", 0, 64_000)
    shown.record({"kind": "train", "iteration": 100, "loss": 1.2345, "train_err": 90.12, "images_per_s": 12_345.6})
    shown._bar.update(shown._task, completed=47_900, numbers=display._numbers(shown._last))
    shown.record({"kind": "test", "iteration": 47_900, "test_err": 9.87})
    shown.close()
    text = screen.getvalue()
    assert "iteration  47900: test error 9.87 %, training error 90.12 %, loss 1.234" in text
    assert "47900/64000" in text
    assert "12346 images/s" in text
