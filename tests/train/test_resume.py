"""A run that is killed, told to stop, or out of disk loses nothing: it goes on to the very same weights."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from resnet_infer.errors import CheckpointError
from resnet_infer.model.checkpoints import load_checkpoint
from resnet_infer.train import network
from resnet_infer.train.state import load_state

ITERATIONS = 40
FLAGS = ("--arch", "resnet20", "--batch", 8, "--iterations", ITERATIONS, "--log-every", 7, "--save-every", 5)
FLAGS = (*FLAGS, "--eval-every", 20, "--workers", 0, "--device", "cpu", "--colour", 0.1)


no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def undisturbed(images: Path, test_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, err = ended(start(images, test_images, folder))
    assert code == 0, err
    return folder


def start(images: Path, test_images: Path, folder: Path, *more: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "resnet_infer", "train", images, "--test-data", test_images, "-o", folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*map(str, (*command, *FLAGS, *more))], env=environment, stderr=subprocess.PIPE, text=True, **options
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """A process's exit status and what it said on stderr."""
    _, err = process.communicate()
    return process.returncode, err


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_s")} for line in lines]


def assert_same(folder: Path, undisturbed: Path) -> None:
    for name in ("last", "best"):
        ours, theirs = weights(folder, name), weights(undisturbed, name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert records(folder) == records(undisturbed)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.005)


def test_killed_and_resumed_is_left_alone(
    images: Path, test_images: Path, undisturbed: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    folder = tmp_path / "run"
    process = start(images, test_images, folder)
    wait_for((folder / "state.pt").is_file, process)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    assert 0 < load_state(folder).iteration < ITERATIONS
    result = run("train", images, "--test-data", test_images, "--resume", folder, "--workers", 0)
    assert result.code == 0, result.err
    assert_same(folder, undisturbed)


def test_a_signal_saves_and_stops(
    images: Path, test_images: Path, undisturbed: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    folder = tmp_path / "run"
    process = start(images, test_images, folder, "--save-every", 1000)
    wait_for(lambda: (folder / "metrics.jsonl").is_file() and len(records(folder)) > 0, process)
    process.terminate()
    returned, err = ended(process)
    assert returned == 128 + signal.SIGTERM
    at = load_state(folder).iteration
    assert 7 <= at < ITERATIONS
    assert err.splitlines()[-1] == (
        f"resnet-infer: error: stopped at iteration {at} of {ITERATIONS}; the checkpoint of iteration {at} is kept; "
        f"continue with --resume {folder}"
    )
    result = run("train", images, "--test-data", test_images, "--resume", folder, "--workers", 0)
    assert result.code == 0, result.err
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
def test_a_run_goes_on_bit_for_bit_on_either_device(
    images: Path, test_images: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """In one process, since cuDNN chooses its kernels by their time; on a GPU the step is a graph, captured anew."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    common = ["train", images, "--test-data", test_images, "--device", device, "--workers", 0]
    flags = ["--arch", "resnet20", "--batch", 8, "--iterations", 12, "--log-every", 3, "--eval-every", 6]
    flags += ["--colour", 0.1]
    assert run(*common, *flags, "-o", tmp_path / "undisturbed").code == 0
    plain = network.test

    def ask_to_stop(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(network, "test", ask_to_stop)
        assert run(*common, *flags, "-o", tmp_path / "run").code == 128 + signal.SIGTERM
    assert load_state(tmp_path / "run").iteration == 7
    assert run(*common, "--resume", tmp_path / "run").code == 0
    assert_same(tmp_path / "run", tmp_path / "undisturbed")


def test_a_full_disk_leaves_the_last_checkpoint(images: Path, test_images: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: weights fit, the state, twice as large, does not."""
    folder = tmp_path / "run"
    first = start(images, test_images, folder, "--save-every", 10)
    wait_for((folder / "state.pt").is_file, first)
    first.kill()
    ended(first)
    before = (folder / "state.pt").read_bytes()
    names = {path.name for path in folder.iterdir()}  # with what the killed process was writing, and its lock
    at = load_state(folder).iteration
    command = [sys.executable, "-m", "resnet_infer", "train", images, "--resume", folder, "--workers", "0"]
    limited = subprocess.run(
        [*map(str, command)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1000, len(before) - 1000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 1
    line = limited.stderr.splitlines()[-1]
    assert f"the checkpoint of iteration {at + 10} was not written (File too large)" in line
    assert f"the checkpoint of iteration {at} is kept; continue with --resume {folder}" in line
    assert (folder / "state.pt").read_bytes() == before
    assert {path.name for path in folder.iterdir()} <= names - {"lock"}


def test_a_finished_run_is_only_reported(images: Path, undisturbed: Path, run: Callable[..., Any]) -> None:
    before = (undisturbed / "last.safetensors").read_bytes(), records(undisturbed)
    result = run("train", images, "--resume", undisturbed, "--workers", 0)
    assert result.code == 0, result.err
    assert f"resnet20: {ITERATIONS} iterations" in result.out
    assert ((undisturbed / "last.safetensors").read_bytes(), records(undisturbed)) == before


def test_the_recipe_that_ran_is_in_the_weights(undisturbed: Path) -> None:
    recipe = load_checkpoint(str(undisturbed / "last.safetensors")).manifest.extra["recipe"]
    assert (recipe["name"], recipe["batch"], recipe["iterations"], recipe["drops"]) == ("cifar10", 8, 40, [20, 30])
    assert recipe["precision"] in ("fp32", "bf16")


def refusals(undisturbed: Path) -> list[tuple[list[object], list[str]]]:
    return [
        (["--arch", "resnet32"], ["holds a run of resnet20, not of resnet32", "--arch"]),
        (["--lr", 0.2], ["lr is 0.1, not 0.2"]),
        (["--iterations", 50, "--no-mirror"], ["iterations is 40, not 50", "mirror is True, not False"]),
        (["--recipe", "imagenet"], ["name is cifar10, not imagenet"]),
        (["-o", undisturbed.parent / "other"], ["leave out --output"]),
    ]


def test_resuming_another_run_is_refused(
    images: Path, test_images: Path, undisturbed: Path, run: Callable[..., Any]
) -> None:
    before = {path: path.read_bytes() for path in undisturbed.iterdir() if path.is_file()}
    for flags, words in refusals(undisturbed):
        result = run("train", images, "--resume", undisturbed, "--workers", 0, *flags)
        assert result.code == 2
        for word in words:
            assert word in result.error
    result = run("train", test_images, "--resume", undisturbed, "--workers", 0)
    assert "other training images" in result.error
    assert {path: path.read_bytes() for path in undisturbed.iterdir() if path.is_file()} == before


def test_what_is_no_run(images: Path, undisturbed: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    result = run("train", images, "--resume", tmp_path)
    assert (result.code, "no run to resume" in result.error) == (2, True)
    result = run("train", images, "--arch", "resnet20", "-o", undisturbed)
    assert (result.code, f"continue with --resume {undisturbed}" in result.error) == (2, True)
    (tmp_path / "state.pt").write_bytes((undisturbed / "state.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(tmp_path)
