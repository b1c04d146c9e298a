"""Processes of a training run: the others wait for the leader's test, and notice in time that one is gone."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch.distributed import TCPStore

from resnet_infer.data.open import open_source
from resnet_infer.distributed.group import processes
from resnet_infer.errors import ProcessError
from resnet_infer.train import loop, network
from resnet_infer.train.job import new_job
from resnet_infer.train.step import EagerStep

PATIENCE_S = 3.0
"""Also the limit of every exchange between the two."""

Disturb = Callable[[int, pytest.MonkeyPatch], None]


def _child(rank: int, port: int, images: Path, tests: Path, folder: Path, disturb: Disturb) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    values = {"batch": 8, "iterations": 2, "eval_every": 2, "save_every": 1, "log_every": 2, "precision": "fp32"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "processes", partial(processes, patience_s=PATIENCE_S))
        disturb(rank, patch)
        job = new_job(
            open_source(images),
            folder / f"run {rank}",  # the leader writes
            arch="resnet20",
            recipe="cifar10",
            values=values,
            testing=open_source(tests),
            workers=0,
        )
        try:
            result: Any = loop.train(job, device="cpu")
        except Exception as error:
            result = error
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    os._exit(0)


def both(
    images: Path, tests: Path, folder: Path, disturb: Disturb, victim: int | None = None
) -> tuple[list[Any], float]:
    """How a run of two processes ended in each, None in the victim, and after how many seconds."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's agent has it, too
    context = mp.get_context("forkserver")  # a process that has trained does not fork: its autograd has threads
    context.set_forkserver_preload(["resnet_infer.train.loop"])  # so that both begin at once
    started = [
        context.Process(target=_child, args=(rank, store.port, images, tests, folder, disturb)) for rank in range(2)
    ]
    begun = time.monotonic()
    for process in started:
        process.start()
    for rank, process in enumerate(started):
        if rank != victim:
            process.join(60)
    seconds = time.monotonic() - begun
    for process in started:
        process.kill()
    files = [folder / f"{rank}.pickle" for rank in range(2)]
    return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files], seconds


def in_tests(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something twelve times in every test, as if it were done for an image each."""
    plain = network.evaluate

    def disturbed(*arguments: Any, advance: Callable[[float], None], **settings: Any) -> Any:
        for _ in range(12):
            act()
            advance(1)
        return plain(*arguments, advance=advance, **settings)

    monkeypatch.setattr(network, "evaluate", disturbed)


def slow(rank: int, patch: pytest.MonkeyPatch) -> None:
    in_tests(patch, lambda: time.sleep(0.4))


def hanging(rank: int, patch: pytest.MonkeyPatch) -> None:
    in_tests(patch, lambda: time.sleep(60))


def failing(rank: int, patch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise MemoryError("all gone")

    in_tests(patch, fail)


def gone(victim: int, signal_number: int, folder: Path, rank: int, patch: pytest.MonkeyPatch) -> None:
    """In its second step."""
    plain = EagerStep.__call__

    def step(self: EagerStep, *arguments: Any) -> Any:
        if rank == victim and (folder / "one step").exists():
            os.kill(os.getpid(), signal_number)
        results = plain(self, *arguments)
        (folder / "one step").touch()
        return results

    patch.setattr(EagerStep, "__call__", step)


def test_a_long_test_of_the_leader_is_waited_for(images: Path, test_images: Path, tmp_path: Path) -> None:
    (leader, other), seconds = both(images, test_images, tmp_path, slow)
    assert isinstance(leader, loop.Result), leader
    assert leader.test is not None
    assert (leader.iterations, leader.test.images, other) == (2, 12, None)
    assert seconds > 12 * 0.4 > 1.5 * PATIENCE_S


def test_a_leader_that_hangs_in_its_test_is_noticed(images: Path, test_images: Path, tmp_path: Path) -> None:
    (_, other), _ = both(images, test_images, tmp_path, hanging, victim=0)
    assert isinstance(other, ProcessError), other
    assert "process 0 of 2 gave no sign for 3 s, after" in str(other)
    assert str(other).endswith(f"The run stopped at iteration 2; continue with --resume {tmp_path / 'run 1'}")


def test_a_leader_that_fails_in_its_test_is_told_of(images: Path, test_images: Path, tmp_path: Path) -> None:
    (leader, other), seconds = both(images, test_images, tmp_path, failing)
    assert isinstance(leader, MemoryError)
    assert isinstance(other, ProcessError), other
    assert "process 0 failed: all gone" in str(other)
    assert seconds < 30


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_between_tests_is_noticed(
    images: Path, test_images: Path, tmp_path: Path, victim: int, signal_number: int
) -> None:
    disturb = partial(gone, victim, signal_number, tmp_path)
    results, seconds = both(images, test_images, tmp_path, disturb, victim)
    assert results[victim] is None
    assert isinstance(results[1 - victim], ProcessError), results
    assert "another process of the run is gone" in str(results[1 - victim])
    assert "The run stopped at iteration 1; " in str(results[1 - victim])
    assert seconds < 30
