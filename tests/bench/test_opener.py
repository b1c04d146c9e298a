"""What a subject is exported as: on a GPU the image's bytes go into the graph, on a CPU normalised pixels do."""

import contextlib
from pathlib import Path

import pytest
import torch

from resnet_infer.backends.engine_file import read_record
from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_file import load_graph, manifest_of
from resnet_infer.backends.tensorrt_api import find_flavour
from resnet_infer.bench import opener
from resnet_infer.bench.opener import Opener
from resnet_infer.bench.sweep import Subject
from resnet_infer.errors import ArtifactError, BackendError
from resnet_infer.model.checkpoints import Overrides


def test_on_a_cpu_onnxruntime_is_given_normalised_pixels(tmp_path: Path) -> None:
    opener = Opener(folder=tmp_path, device="cpu")
    subject = Subject(model="resnet20.random", backend="onnxruntime", precision="fp32")
    with opener.open(subject) as (model, _):
        assert model.manifest.input == "normalized"


def test_on_a_gpu_onnxruntime_is_given_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same folder, where a CPU's export may lie."""
    subject = Subject(model="resnet20.random", backend="onnxruntime", precision="fp32")
    x_BCHW = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with Opener(folder=tmp_path, device="cpu").open(subject) as (model, _):
        expected = model.backend.run(x_BCHW, "pooled")
    monkeypatch.setattr(opener, "torch_device", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(opener, "open_model", lambda path, device, options: open_model(path, device="cpu"))
    with Opener(folder=tmp_path, device="cuda").open(subject) as (model, _):
        assert model.manifest.input == "uint8-nhwc"
        torch.testing.assert_close(model.backend.run(x_BCHW, "pooled"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_are_built_for_bytes(tmp_path: Path, precision: str) -> None:
    try:
        flavour = find_flavour()
    except BackendError as error:
        pytest.skip(str(error))
    if flavour == "tensorrt" and not torch.cuda.is_available():
        pytest.skip("tensorrt builds on a GPU only")
    opener = Opener(folder=tmp_path, device="auto")
    with contextlib.suppress(ArtifactError):  # it runs where a GPU is
        opener.opened(Subject(model="resnet20.random", backend="tensorrt", precision=precision)).backend.close()
    (graph,), (engine,) = tmp_path.glob("*.onnx"), tmp_path.glob("*.engine")
    assert manifest_of(load_graph(graph), graph, Overrides()).input == "uint8-nhwc"
    record = read_record(engine)
    assert record.manifest.input == "uint8-nhwc"
    assert {layer.type for layer in record.layers} == {precision}
