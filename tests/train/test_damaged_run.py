"""A run's folder that was damaged, is in use, or whose images were changed: an error, never another network."""

import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.train import state as saved
from resnet_infer.verify import verify

FLAGS = ("--arch", "resnet20", "--iterations", 4, "--batch", 8, "--workers", 0)


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from resnet_infer.data.open import open_source
    from resnet_infer.train.job import new_job
    from resnet_infer.train.loop import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    source = open_source(images)
    values = {"iterations": 4, "batch": 8, "precision": "fp32"}
    train(
        new_job(source, folder, arch="resnet20", recipe="cifar10", values=values, device="cpu", workers=0), device="cpu"
    )
    return folder


def test_no_flipped_bit_of_the_state_is_another_state(finished: Path, tmp_path: Path) -> None:
    whole = (finished / saved.STATE).read_bytes()
    before = saved.load_state(finished)
    rng = random.Random(0)
    refused = 0
    for at in rng.sample(range(len(whole)), 300):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        (tmp_path / saved.STATE).write_bytes(damaged)
        try:
            after = saved.load_state(tmp_path)
        except CheckpointError:
            refused += 1
            continue
        assert all(torch.equal(after.weights[name], value) for name, value in before.weights.items())
        assert all(torch.equal(after.momentum[name], value) for name, value in before.momentum.items())
        assert (after.iteration, after.schedule, after.recipe) == (before.iteration, before.schedule, before.recipe)
    assert refused > 200


@pytest.mark.parametrize("emptied", ["momentum", "schedule"])
def test_a_state_that_lacks_a_part_does_not_go_on(
    finished: Path, images: Path, tmp_path: Path, run: Callable[..., Any], emptied: str
) -> None:
    """Its checksum is right: somebody wrote it so."""
    state = saved.load_state(finished)
    shutil.copytree(finished, tmp_path / "run")
    fields: dict[str, Any] = {emptied: {}, "recipe": dict(state.recipe) | {"iterations": 6}}
    saved.save_state(tmp_path / "run", replace(state, **fields))
    result = run("train", images, "--resume", tmp_path / "run", "--workers", 0)
    assert result.code == 1
    assert f"the run's state is damaged: its {emptied}" in result.error


def test_two_trainings_do_not_share_a_folder(images: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    folder = tmp_path / "run"
    with saved.exclusive(folder):
        result = run("train", images, "-o", folder, *FLAGS)
        assert result.code == 2
        assert "another training is under way there" in result.error
    assert run("train", images, "-o", folder, *FLAGS).code == 0
    assert not (folder / "lock").exists()


def test_images_overwritten_after_they_were_trained_on_end_the_run(
    finished: Path, images: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    state = saved.load_state(finished)
    shutil.copytree(finished, tmp_path / "run")
    saved.save_state(tmp_path / "run", replace(state, recipe=dict(state.recipe) | {"iterations": 6}))
    changed = tmp_path / "changed.zip"
    with zipfile.ZipFile(images) as whole, zipfile.ZipFile(changed, "w") as other:
        names = [name for name in whole.namelist() if not name.endswith("/")]
        for number, name in enumerate(names):
            other.writestr(name, whole.read(names[number - 1] if number < 10 else name))
    result = run("train", changed, "--resume", tmp_path / "run", "--workers", 0)
    assert result.code == 2
    assert "training images have changed since the run began" in result.error
    assert run("train", images, "--resume", tmp_path / "run", "--workers", 0).code == 0


def test_a_run_is_verified(finished: Path, tmp_path: Path) -> None:
    found = verify(finished)
    assert not found.problem
    assert "checksum of the state at iteration 4" in found.checked
    with pytest.raises(UsageError, match="no such file"):
        verify(tmp_path / "none")
    last = finished / saved.LAST
    before = last.read_bytes()
    last.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert "checksum differs" in verify(finished).problem
    last.write_bytes(before)
