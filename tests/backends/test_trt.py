"""Engines: what is wrong is said before TensorRT reads the plan; on a GPU, scores are the graph's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.engine_file import read_engine, write_engine
from resnet_infer.backends.load import open_model
from resnet_infer.backends.tensorrt_api import find_flavour, this_host
from resnet_infer.errors import ArtifactError, BackendError, UsageError
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.exporters.to_tensorrt import build_engine
from resnet_infer.model.checkpoints import Checkpoint, Overrides
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.engine_manifest import EngineRecord, misfits, record_path
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import protocol_of_head
from resnet_infer.spec.shapes import BatchRange, profiles_for

try:
    FLAVOUR = find_flavour()
except BackendError as error:
    pytest.skip(str(error), allow_module_level=True)

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def files(small_net: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random resnet20 with the dense head: net.onnx, and net.engine of five profiles."""
    if FLAVOUR == "tensorrt" and not torch.cuda.is_available():
        pytest.skip("tensorrt builds on a GPU only")
    folder = tmp_path_factory.mktemp("engine")
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=32, crop=32))
    checkpoint = Checkpoint(name="random", manifest=manifest, state_dict=small_net.state_dict())
    export_onnx(checkpoint, folder / "net.onnx", head="dense")
    protocol = protocol_of_head("dense", manifest.spec, manifest.preprocessing)
    profiles = profiles_for(protocol, manifest.spec, BatchRange(min=2, opt=8, max=16))
    build_engine(
        folder / "net.onnx",
        folder / "net.engine",
        BuildOptions(flavour=FLAVOUR, profiles=profiles, cache=folder / "cache"),
    )
    return folder


@no_gpu
def test_without_a_gpu_the_engine_says_what_it_needs_and_how_to_rebuild(files: Path) -> None:
    engine = files / "net.engine"
    with pytest.raises(ArtifactError, match=r"net\.engine: cannot run here: it needs an NVIDIA GPU") as caught:
        open_model(str(engine))
    assert "resnet-infer export random --to tensorrt --head dense --scales 32,36,40,44,48 -o net.engine" in str(
        caught.value
    )


def altered(files: Path, folder: Path, change: Callable[[EngineRecord], EngineRecord]) -> str:
    record, plan = read_engine(files / "net.engine")
    write_engine(change(record), plan, folder / "net.engine")
    return str(folder / "net.engine")


@pytest.mark.parametrize(("change", "words"), [
    ({"version": "0.1.2"}, "needs tensorrt.* 0.1.2, and .* is installed"),
    ({"platform": "windows-amd64"}, "built for windows-amd64, and this is"),
    ({"capabilities": ((5, 0),)}, "compute capability 5.0"),
])  # fmt: skip
def test_an_engine_of_another_host_is_refused(
    files: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(ArtifactError, match=words):
        open_model(altered(files, tmp_path, lambda record: replace(record, **change)))  # type: ignore[arg-type]


def test_files_that_are_not_a_pair(files: Path, tmp_path: Path) -> None:
    engine = Path(altered(files, tmp_path, lambda record: record))
    plan, text = engine.read_bytes(), record_path(engine).read_text()
    engine.write_bytes(plan[: len(plan) // 2])
    with pytest.raises(ArtifactError, match=r"net\.engine: truncated"):
        open_model(str(engine))
    engine.write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="is not the engine that"):
        open_model(str(engine))
    engine.write_bytes(plan)
    record_path(engine).write_text(text[:-40])
    with pytest.raises(ArtifactError, match=r"net\.engine\.json: cannot be used"):
        open_model(str(engine))
    record_path(engine).unlink()
    with pytest.raises(ArtifactError, match=r"net\.engine\.json is not beside it"):
        open_model(str(engine))
    with pytest.raises(UsageError, match="no such file"):
        open_model(str(tmp_path / "none.engine"))


def test_what_an_engine_cannot_be_asked(files: Path) -> None:
    engine = str(files / "net.engine")
    with pytest.raises(ArtifactError, match=r"is fp32, not fp16.*export with --precision fp16"):
        open_model(engine, precision="fp16")
    with pytest.raises(UsageError, match="runs on tensorrt; for torch give the checkpoint"):
        open_model(engine, backend="torch")
    with pytest.raises(UsageError, match="for onnxruntime; an engine takes --cuda-graph only"):
        open_model(engine, options=RunOptions(prefer_nhwc=True))
    with pytest.raises(UsageError, match="--arch cannot change it"):
        open_model(engine, overrides=Overrides(arch="resnet56"))
    with pytest.raises(BackendError, match="runs on a CUDA device, not on cpu"):
        open_model(engine, device="cpu")


def runnable(files: Path) -> str:
    record, _ = read_engine(files / "net.engine")
    if reasons := misfits(record, this_host(FLAVOUR)):
        pytest.skip("; ".join(reasons))
    return str(files / "net.engine")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_an_engine_gives_its_graphs_scores(files: Path, in_turns: Callable[..., None], cuda_graph: bool) -> None:
    """Of shapes of several profiles and of one, each met again after the others."""
    backend = open_model(runnable(files), options=RunOptions(cuda_graph=cuda_graph)).backend
    reference = open_model(str(files / "net.onnx"), device="cpu").backend
    shapes = [(1, 32, 32), (2, 32, 32), (16, 32, 40), (3, 48, 64), (2, 70, 48), (5, 40, 40)]
    for batch, height, width in [*shapes, *shapes]:
        x_BCHW = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
        in_turns(backend, reference, x_BCHW, "dense", rtol=2e-3, atol=2e-3)


@pytest.mark.gpu
@gpu
def test_a_shape_outside_of_every_profile_is_an_error(files: Path) -> None:
    backend = open_model(runnable(files)).backend
    for shape in ((1, 3, 20, 20), (1, 3, 32, 100), (17, 3, 32, 32)):
        with pytest.raises(BackendError, match="no profile takes"):
            backend.run(torch.zeros(shape, dtype=torch.uint8), "dense")
