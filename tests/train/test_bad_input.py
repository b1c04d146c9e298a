"""Every input that cannot be trained on: one line that says what, where, and what to do; nothing lost."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_infer.data.open import open_source
from resnet_infer.train.state import load_state, save_state
from resnet_infer.train.stream import Stream

Run = Callable[..., Any]
QUICK = ("--arch", "resnet20", "--batch", 8, "--workers", 0, "--device", "cpu", "--iterations", 6)


def with_entry(source: Path, target: Path, name: str, data: bytes) -> Path:
    """A copy of a zip with one more file."""
    target.write_bytes(source.read_bytes())
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(name, data)
    return target


def test_unreadable_images_are_listed_before_anything_runs(run: Run, images: Path, tmp_path: Path) -> None:
    broken = with_entry(images, tmp_path / "a.zip", "red/broken.png", b"\x89PNG nothing")
    broken = with_entry(broken, tmp_path / "b.zip", "blue/empty.png", b"")
    result = run("train", broken, "-o", tmp_path / "run", *QUICK)
    assert result.code == 1
    assert "2 of 26 images cannot be read (listed above)" in result.error
    assert "red/broken.png: a PNG file that is damaged" in result.err
    assert "blue/empty.png: the file is empty" in result.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_unreadable_image_in_a_stream_stops_the_run_and_saves_it(run: Run, images: Path, tmp_path: Path) -> None:
    """It was whole when the run began: otherwise it would have been found with the mean."""
    data, folder = tmp_path / "a.zip", tmp_path / "run"
    data.write_bytes(images.read_bytes())
    flags = ("--loading", "stream", "--mean", "channel", "--save-every", 1000)
    assert run("train", data, "-o", folder, *QUICK, *flags, "--iterations", 2).code == 0
    state = load_state(folder)
    longer = replace(state, recipe=dict(state.recipe) | {"iterations": 40})
    save_state(folder, longer)
    names = [sample.name.rpartition("a.zip/")[2] for sample in open_source(data).samples]
    used = Stream(len(names), state.recipe["batch"], state.recipe["seed"]).used(2).tolist()
    spoiled = next(name for index, name in enumerate(names) if index not in used)
    with zipfile.ZipFile(images) as whole, zipfile.ZipFile(data, "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, b"\x89PNG nothing" if name == spoiled else whole.read(name))
    result = run("train", data, "--resume", folder, "--workers", 0)
    assert result.code == 1
    at = load_state(folder).iteration
    assert 2 <= at < 40
    assert f"{spoiled}: a PNG file that is damaged" in result.error
    assert f"stopped at iteration {at}; the checkpoint of iteration {at} is kept" in result.error


def test_one_class(run: Run, images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(images) as whole, zipfile.ZipFile(tmp_path / "red.zip", "w") as part:
        for name in whole.namelist():
            if name.startswith("red/"):
                part.writestr(name, whole.read(name))
                (tmp_path / Path(name).name).write_bytes(whole.read(name))
    result = run("train", tmp_path / "red.zip", "-o", tmp_path / "run", *QUICK)
    assert result.code == 1
    assert "one folder ('red') holds all 8 images, with no class folders" in result.error
    (tmp_path / "red.tsv").write_text("".join(f"{number:03}.png\tred\n" for number in range(8)))
    result = run("train", tmp_path / "red.tsv", "-o", tmp_path / "run", *QUICK)
    assert result.code == 1
    assert "all 8 images are of one class ('red')" in result.error


def test_images_smaller_than_the_crop(run: Run, write: Callable[..., Path], tmp_path: Path) -> None:
    small = write(tmp_path / "small.zip", side=24)
    result = run("train", small, "-o", tmp_path / "run", *QUICK)
    assert result.code == 1
    assert "24 of 24 images are smaller than the network's input of 32 pixels" in result.error
    assert "--crop" in result.error
    assert "red/000.png: 24x24" in result.err
    flags = ("--loading", "stream", "--mean", "channel", "--pad", 0)
    result = run("train", small, "-o", tmp_path / "run", *QUICK, *flags)
    assert "smaller" in result.error


def test_no_write_permission(run: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("train", images, "-o", tmp_path / "file" / "run", *QUICK)
    assert result.code == 2
    assert "cannot be written (Not a directory)" in result.error


def test_too_few_images_for_a_batch(run: Run, images: Path, tmp_path: Path) -> None:
    result = run("train", images, "-o", tmp_path / "run", *QUICK, "--batch", 128)
    assert result.code == 2
    assert "24 training images are too few for a batch of 128; give a smaller --batch" in result.error


def test_a_loss_that_is_no_number(run: Run, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ("--precision", "fp32", "--save-every", 1, "--log-every", 1, "--iterations", 40, "--lr", 1e18)
    result = run("train", images, "-o", folder, *QUICK, *flags)
    assert result.code == 1
    assert "the loss is not a number at iteration " in result.error
    assert "Lower the learning rate (--lr, now 1e+18)" in result.error
    at = load_state(folder).iteration
    assert f"not a number at iteration {at + 1}; the checkpoint of iteration {at} is kept" in result.error
    assert torch.isfinite(load_state(folder).window_N2).all()


def test_a_loss_is_looked_at_before_it_is_saved(run: Run, images: Path, tmp_path: Path) -> None:
    flags = ("--precision", "fp32", "--save-every", 40, "--log-every", 100, "--iterations", 80, "--lr", 1e18)
    result = run("train", images, "-o", tmp_path / "run", *QUICK, *flags)
    assert "no checkpoint had been made yet" in result.error
    assert not (tmp_path / "run" / "state.pt").exists()


@pytest.mark.parametrize(("flags", "words"), [
    ([], ["--arch is missing", "resnet-infer models"]),
    (["--arch", "resnet21"], ["unknown architecture 'resnet21'"]),
    (["--arch", "resnet20", "--recipe", "cifar"], ["unknown recipe 'cifar'", "cifar10, imagenet"]),
    (["--arch", "resnet18"], ["recipe cifar10 is for inputs of 32 pixels, and resnet18 for 224", "--recipe"]),
    (["--arch", "resnet20", "--drops", "a"], ["--drops needs whole numbers"]),
    (["--arch", "resnet20", "--schedule", "cosine"], ["--schedule", "one-cycle"]),
    (["--arch", "resnet20", "--lr", "-1"], ["--lr must be above 0"]),
    (["--arch", "resnet20", "--hold-out", "24"], ["--hold-out 24 leaves nothing of 24"]),
    (["--arch", "resnet20", "--hold-out", "4", "--test-data", "{images}"], ["--hold-out and --test-data"]),
])  # fmt: skip
def test_flags_that_cannot_work(run: Run, images: Path, tmp_path: Path, flags: list[str], words: list[str]) -> None:
    given = [flag.format(images=images) for flag in flags]
    result = run("train", images, "-o", tmp_path / "run", *given)
    assert result.code == 2
    for word in words:
        assert word in result.error
    assert not (tmp_path / "run").exists()


def test_a_folder_is_needed(run: Run, images: Path) -> None:
    assert "--output is missing" in run("train", images, "--arch", "resnet20").error


def test_images_without_classes(run: Run, images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(images) as whole, zipfile.ZipFile(tmp_path / "flat.zip", "w") as flat:
        flat.writestr("0.png", whole.read("red/000.png"))
        flat.writestr("1.png", whole.read("blue/000.png"))
    result = run("train", tmp_path / "flat.zip", "-o", tmp_path / "run", *QUICK)
    assert result.code == 1
    assert "no labels" in result.error or "no class folders" in result.error


def test_a_test_set_of_other_classes(run: Run, images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(images) as whole, zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("red/0.png", whole.read("red/000.png"))
        other.writestr("yellow/0.png", whole.read("blue/000.png"))
    result = run("train", images, "--test-data", tmp_path / "other.zip", "-o", tmp_path / "run", *QUICK)
    assert result.code == 1
    assert "'yellow'" in result.error
