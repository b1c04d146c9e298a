"""A task in several processes, as torchrun would start them."""

import multiprocessing as mp
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from resnet_infer.distributed.group import Processes, processes

Task = Callable[[int, Processes], Any]


def child(rank: int, world: int, port: int, patience_s: float, task: Task, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with processes("cpu", tensors=False, patience_s=patience_s) as group:
            result = task(rank, group)
    except Exception as error:
        result = error
    out.write_bytes(pickle.dumps(result))
    os._exit(0)


def ranks(world: int, task: Task, folder: Path, patience_s: float = 120, missing: int | None = None) -> list[Any]:
    """What the task gave, or raised, in each of so many processes; None for one that died."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outs = [folder / f"{rank}.pickle" for rank in range(world)]
    started = [
        mp.get_context("fork").Process(target=child, args=(rank, world, port, patience_s, task, outs[rank]))
        for rank in range(world)
        if rank != missing
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [pickle.loads(out.read_bytes()) if out.exists() else None for out in outs]
