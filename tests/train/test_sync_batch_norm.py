"""Two processes on the CPU against one: batch norm over the joint batch, and the whole run's curve."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from resnet_infer.train.sync_batch_norm import SyncedBatchNorm, synchronised

CPU = torch.device("cpu")


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 5, 4, 3, generator=generator) * 3 + 1, torch.randn(8, 5, 4, 3, generator=generator)


def network() -> nn.Sequential:
    net = nn.Sequential(nn.BatchNorm2d(5))
    with torch.no_grad():
        net[0].weight.copy_(torch.linspace(0.5, 2, 5))
        net[0].bias.copy_(torch.linspace(-1, 1, 5))
    return net


def half(rank: int, folder: str) -> None:
    """One process's half of the batch, forward and backward."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, weights = (tensor[4 * rank : 4 * rank + 4] for tensor in inputs())
    x.requires_grad_()
    net = synchronised(network(), CPU)
    assert isinstance(net[0], SyncedBatchNorm)  # type: ignore[index]
    y = net(x)
    (y * weights).sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    torch.save((y.detach(), x.grad, gradients, net.state_dict()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_batch_norm_is_that_of_the_joint_batch(tmp_path: Path) -> None:
    mp.spawn(half, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    x, weights = inputs()
    x.requires_grad_()
    net = network()
    y = net(x)
    (y * weights).sum().backward()
    assert torch.allclose(torch.cat([h[0] for h in halves]), y, atol=1e-5)
    assert torch.allclose(torch.cat([h[1] for h in halves]), x.grad, atol=1e-5)  # type: ignore[arg-type]
    for name, p in net.named_parameters():
        assert torch.allclose(halves[0][2][name] + halves[1][2][name], p.grad, atol=1e-4)  # type: ignore[arg-type]
    for one in halves:
        assert one[3].keys() == net.state_dict().keys()
        for key, value in net.state_dict().items():
            assert torch.allclose(one[3][key], value, atol=1e-5), key


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(images: Path, test_images: Path, tmp_path: Path) -> None:
    flags = ["--arch", "resnet20", "--batch", "8", "--iterations", "12", "--log-every", "1", "--precision", "fp32"]
    flags += ["--workers", "0", "--device", "cpu", "--lr", "0.01", "--test-data", str(test_images), "--save-every", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    curves = {}
    for name, launcher in (
        ("one", ["-m", "resnet_infer"]),
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "resnet_infer"]),
    ):
        command = [sys.executable, *launcher, "train", str(images), "-o", str(tmp_path / name), *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test error") == 1
        curves[name] = losses(tmp_path / name)
    assert len(curves["one"]) == 12
    assert curves["two"] == pytest.approx(curves["one"], rel=2e-3, abs=1e-3)
