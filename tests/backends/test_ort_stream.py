"""ONNX Runtime on a GPU that is not there: the order of its work and torch's, recorded runs, memory that runs out."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import Gpu, fake_gpu
from fake_onnxruntime import Session
from torch import Tensor

from resnet_infer.backends import ort
from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.ort import MAX_GRAPHS, OrtBackend
from resnet_infer.backends.ort_session import EXECUTION_PROVIDERS
from resnet_infer.errors import OutOfMemory
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

MANIFEST = Manifest(spec=spec_from_name("resnet20", 3), preprocessing=Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3))
WAYS = [
    RunOptions(), RunOptions(cuda_graph=True), RunOptions(provider="tensorrt"),
    RunOptions(provider="tensorrt", cuda_graph=True),
]  # fmt: skip


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with fake_gpu(monkeypatch) as device:
        yield device


@pytest.fixture
def opened(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Callable[[RunOptions], OrtBackend]:
    """opened(options): a backend, whose scores are the means of an image's channels."""

    def session(path: Path, device: torch.device, options: RunOptions, *, stream: int, **more: Any) -> Session:
        return Session(gpu, stream, EXECUTION_PROVIDERS[options.provider or "cuda"], options.cuda_graph)

    monkeypatch.setattr(ort, "torch_device", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(ort, "open_session", session)
    return lambda options: OrtBackend(Path("net.onnx"), MANIFEST, "cuda", options)


def images(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def check(backend: Any, x_BCHW: Tensor) -> None:
    scores = backend.run(x_BCHW, "pooled")
    torch.testing.assert_close(scores[:, :, 0, 0], (x_BCHW / 255).mean((2, 3)))


@pytest.mark.parametrize("options", WAYS)
def test_shapes_in_turn_score_as_each_alone(opened: Callable[..., Any], gpu: Gpu, options: RunOptions) -> None:
    """Other pixels every time, and more shapes than are recorded."""
    backend = opened(options)
    for turn in range(3):
        for step in range(MAX_GRAPHS + 2):
            tiles = images(2, 8 + step, 8, seed=turn)
            check(backend, tiles)
            tiles.zero_()  # its memory is the next batch's
    backend.close()
    assert gpu.faults == []


@pytest.mark.parametrize("options", WAYS)
def test_the_host_waits_for_no_run(opened: Callable[..., Any], gpu: Gpu, options: RunOptions) -> None:
    backend = opened(options)
    before: Mapping[int, int] = dict(gpu.host)
    for _ in range(3):
        backend.run(images(2, 8, 8), "pooled")
    assert gpu.host == before


@pytest.mark.parametrize("options", WAYS)
def test_after_running_out_of_memory_the_next_batch_runs(
    opened: Callable[..., Any], gpu: Gpu, options: RunOptions
) -> None:
    backend = opened(options)
    check(backend, images(4, 8, 8))
    gpu.broken = True
    with pytest.raises(OutOfMemory, match="does not fit"):
        backend.run(images(8, 8, 8), "pooled")
    gpu.broken = False
    check(backend, images(8, 8, 8, seed=1))
    check(backend, images(4, 8, 8, seed=2))
    backend.close()
    assert gpu.faults == []
