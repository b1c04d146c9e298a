"""Processes that see other data, or hear nothing: an error in time, never a number."""

import multiprocessing as mp
import os
import pickle
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_ranks import child, ranks

from resnet_infer.backends.load import open_model
from resnet_infer.data.open import open_source
from resnet_infer.distributed.group import Processes
from resnet_infer.distributed.heartbeat import RollCall
from resnet_infer.errors import ProcessError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.pipeline.score import Member
from resnet_infer.spec.protocols import single_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
COUNT = 41


@pytest.mark.skipif(os.name != "posix", reason="needs SIGSTOP")
def test_a_leader_that_is_stopped_is_missed(tmp_path: Path) -> None:
    """Processes started by hand: the leader holds the store, which then answers nobody."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def task(rank: int, group: Processes) -> Any:
        with RollCall(group).member():
            if rank == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
        return "went on"

    context = mp.get_context("fork")
    outs = [tmp_path / f"{rank}.pickle" for rank in range(2)]
    both = [context.Process(target=child, args=(rank, 2, port, 3.0, task, outs[rank])) for rank in range(2)]
    try:
        for process in both:
            process.start()
        both[1].join(60)
        assert not both[1].is_alive()
        error = pickle.loads(outs[1].read_bytes())
        assert isinstance(error, ProcessError)
        assert "gave no sign for 3 s" in str(error)
    finally:
        for process in both:
            process.kill()
            process.join()


def test_processes_that_see_other_images_under_the_same_names_give_no_result(
    picture: Callable[..., Picture], encode: Any, tmp_path: Path
) -> None:
    model = open_model("resnet20.cifar10", device="cpu")
    assert model.manifest.labels
    labels = model.manifest.labels.names
    folders = [tmp_path / str(rank) for rank in range(2)]
    for rank, folder in enumerate(folders):
        for number in range(COUNT):
            path = folder / labels[number % 10] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(picture(32, 32, 999 if rank and number == 17 else number)))
            os.utime(path, (0, 0))  # no time tells

    def task(rank: int, group: Processes) -> Any:
        return evaluate([Member(model, (single_crop(32, 32),))], open_source(folders[rank]), group=group)

    first, second = ranks(2, task, tmp_path)
    assert isinstance(first, ProcessError)
    assert "process 1 has other images than process 0 under the same names: 1 of" in str(first)
    assert "17.png" in str(first)
    assert not isinstance(second, list)
