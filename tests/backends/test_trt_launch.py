"""How an engine's runs are started, on a device and a TensorRT that are not there but have their faults."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fake_cuda import Gpu, fake_gpu
from fake_tensorrt import PLAN, Context, fake_tensorrt
from torch import Tensor

from resnet_infer.backends import trt
from resnet_infer.backends.tensorrt_api import find_flavour, load_flavour
from resnet_infer.backends.trt import TensorRTBackend
from resnet_infer.backends.trt_launch import MAX_GRAPHS
from resnet_infer.errors import BackendError, OutOfMemory
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.engine_manifest import EngineRecord
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.shapes import ShapeRange

PROFILE = ShapeRange(min=(1, 8, 8), opt=(4, 8, 8), max=(8, 64, 64))
RECORD = EngineRecord(
    manifest=Manifest(spec=spec_from_name("resnet20", 3), preprocessing=Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)),
    flavour="tensorrt",
    version="11.4",
    platform="",
    gpu="",
    capabilities=((9, 0),),
    profiles=(PROFILE,),
    size_bytes=len(PLAN),
    sha256="",
    onnx_sha256="",
)  # fmt: skip


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with fake_gpu(monkeypatch) as device:
        yield device


@pytest.fixture
def opened(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TensorRTBackend]:
    """opened(cuda_graph): a backend, whose scores are the means of an image's channels."""
    for name, value in (
        ("torch_device", lambda device: torch.device("cuda", 0)),
        ("load_flavour", lambda flavour: fake_tensorrt(gpu)),
        ("this_host", lambda flavour, index: None),
        ("check_host", lambda record, host, path: None),
    ):
        monkeypatch.setattr(trt, name, value)
    return lambda cuda_graph=True: TensorRTBackend("net.engine", RECORD, PLAN, cuda_graph=cuda_graph)


def test_tensorrt_has_all_that_the_fake_has(gpu: Gpu) -> None:
    try:
        real = load_flavour(find_flavour())
    except BackendError as error:
        pytest.skip(str(error))
    module = fake_tensorrt(gpu)
    engine = module.Runtime(None).deserialize_cuda_engine(PLAN)
    context = engine.create_execution_context(None)
    for there, here in (
        (real, module), (real.ICudaEngine, engine), (real.IExecutionContext, context),
        (real.TensorIOMode, module.TensorIOMode), (real.Runtime, module.Runtime(None)),
    ):  # fmt: skip
        assert [name for name in dir(here) if not name.startswith("_") and not hasattr(there, name)] == []


def images(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def check(backend: Any, x_BCHW: Tensor) -> None:
    scores = backend.run(x_BCHW, "pooled")
    torch.testing.assert_close(scores[:, :, 0, 0], (x_BCHW / 255).mean((2, 3)))


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_shapes_in_turn_score_as_each_alone(opened: Callable[..., Any], gpu: Gpu, cuda_graph: bool) -> None:
    """Of one profile, growing and shrinking, with other pixels every time."""
    backend = opened(cuda_graph)
    for turn in range(4):
        for shape in ((2, 8, 8), (4, 16, 8), (1, 8, 8), (8, 32, 40)):
            check(backend, images(*shape, seed=turn))
    backend.close()
    assert gpu.faults == []


def test_runs_that_are_not_recorded_leave_the_recorded_ones_as_they_are(opened: Callable[..., Any], gpu: Gpu) -> None:
    backend = opened()
    sizes = [(8 + step, 8) for step in range(MAX_GRAPHS + 3)]
    for turn in range(3):
        for size in reversed(sizes):
            check(backend, images(1, *size, seed=turn))
    backend.close()
    assert gpu.faults == []


def test_nothing_is_given_back_while_it_is_in_use(opened: Callable[..., Any], gpu: Gpu) -> None:
    for cuda_graph in (False, True):
        backend = opened(cuda_graph)
        backend.run(images(2, 8, 8), "pooled")
        backend.run(images(2, 16, 8), "pooled")  # more scratch, while the first may still run
        backend.close()
        del backend
        gc.collect()
        assert gpu.faults == []


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_after_running_out_of_memory_a_smaller_batch_runs(
    opened: Callable[..., Any], gpu: Gpu, cuda_graph: bool
) -> None:
    backend = opened(cuda_graph)
    check(backend, images(2, 8, 8))
    gpu.limit = 4 * 3 * 8 * 8 * 4
    with pytest.raises(OutOfMemory, match="a batch of 8 at 8x8 does not fit"):
        backend.run(images(8, 8, 8), "pooled")
    check(backend, images(4, 8, 8, seed=1))
    check(backend, images(2, 8, 8, seed=2))
    backend.close()
    assert gpu.faults == []


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_the_engine_waits_for_its_input_and_its_scores_are_waited_for(
    opened: Callable[..., Any], gpu: Gpu, cuda_graph: bool
) -> None:
    backend = opened(cuda_graph)
    for turn in range(3):
        tiles = images(2, 8, 8, seed=turn)
        doubled = backend.run(tiles, "pooled") * 2
        tiles.zero_()  # its memory is the next batch's
        del tiles
        assert doubled.isfinite().all()
    assert gpu.faults == []


def test_an_engine_that_cannot_be_recorded_says_what_to_do(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "is_stream_capturable", lambda self, handle: False)
    with pytest.raises(BackendError, match=r"cannot be recorded; rebuild the engine, or leave out --cuda-graph"):
        opened().run(images(2, 8, 8), "pooled")
    check(opened(cuda_graph=False), images(2, 8, 8))


def test_a_batch_that_fails_is_not_given_back_while_it_may_be_read(opened: Callable[..., Any], gpu: Gpu) -> None:
    backend = opened(cuda_graph=False)
    check(backend, images(2, 8, 8))
    gpu.broken = True
    with pytest.raises(BackendError, match="TensorRT failed at"):
        backend.run(images(2, 8, 8), "pooled")
    gpu.broken = False
    check(backend, images(2, 8, 8, seed=1))
    assert gpu.faults == []
