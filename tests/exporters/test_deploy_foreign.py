"""ONNX files of other tools in Triton and TensorRT: their own names, types and batch, and none of their features."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from foreign_files import FLAGS, SIDE, foreign

from resnet_infer.backends.engine_file import read_engine
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.exporters.adopt import adopt
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.to_tensorrt import build_engine
from resnet_infer.exporters.to_triton import export_triton
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.protocols import single_crop
from resnet_infer.spec.shapes import BatchRange, profiles_for
from resnet_infer.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def net(random_net: Callable[..., ResNet]) -> ResNet:
    return random_net("resnet20-B")


def config_of(folder: Path) -> Any:
    """As Triton reads it; an unknown field or a wrong type is an error."""
    config = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]").model_config_pb2
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), config.ModelConfig())


@pytest.mark.parametrize(
    ("form", "kind", "dims"),
    [
        ("normalized", "TYPE_FP32", [3, SIDE, SIDE]),
        ("normalized-nhwc", "TYPE_FP32", [SIDE, SIDE, 3]),
        ("uint8-nhwc", "TYPE_UINT8", [SIDE, SIDE, 3]),
    ],
)
@pytest.mark.parametrize("batch", [0, 4])
def test_tritons_configuration_is_the_graphs(
    net: ResNet, tmp_path: Path, form: str, kind: str, dims: list[int], batch: int
) -> None:
    """Of a fixed batch it is part of the shape, and Triton joins no requests."""
    path = foreign(net, tmp_path / "net.onnx", form, batch)
    flags = Overrides() if form.startswith("uint8") else FLAGS
    made = export_triton(path, tmp_path / "repository", overrides=flags)
    config = config_of(made)
    (image,), (scores,) = config.input, config.output
    names = type(image).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    assert (image.name, names[image.data_type].name) == ("image", kind)
    assert (scores.name, names[scores.data_type].name) == ("scores", "TYPE_FP32")
    fixed = [batch] if batch else []
    assert (list(image.dims), list(scores.dims)) == ([*fixed, *dims], [*fixed, 10])
    assert (config.max_batch_size > 0) == (not batch)
    assert config.HasField("dynamic_batching") == (not batch)
    assert config.parameters["output"].string_value == "probabilities"
    assert (made / "1" / "model.onnx").read_bytes() == path.read_bytes()


def test_weights_beside_the_graph_come_along(net: ResNet, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    proto = onnx.load(foreign(net, tmp_path / "whole.onnx"))
    onnx.save(proto, folder / "net.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    made = export_triton(folder / "net.onnx", tmp_path / "repository", overrides=FLAGS)
    assert {p.name for p in made.rglob("*") if p.is_file()} == {"config.pbtxt", "labels.txt", "model.onnx"}
    onnx.checker.check_model(str(made / "1" / "model.onnx"), full_check=True)
    assert (made / "1" / "model.onnx").stat().st_size > 10**6


def test_what_is_not_known_is_asked_for(net: ResNet, tmp_path: Path) -> None:
    path = foreign(net, tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match=r"give --mean and --std .* resnet-infer adopt net\.onnx"):
        export_triton(path, tmp_path / "repository")
    assert not (tmp_path / "repository" / "net").exists()


@pytest.mark.parametrize("form", ["normalized", "normalized-nhwc", "uint8-nhwc"])
@pytest.mark.parametrize("batch", [0, 4])
def test_tensorrt_builds_the_scores_alone(net: ResNet, tmp_path: Path, form: str, batch: int) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    adopted = tmp_path / "adopted.onnx"
    manifest = adopt(
        foreign(net, tmp_path / "net.onnx", form, batch), adopted, Overrides() if form.startswith("uint8") else FLAGS
    )
    profiles = profiles_for(single_crop(SIDE, SIDE), manifest.spec, BatchRange(min=1, opt=2, max=8))
    options = BuildOptions(flavour="tensorrt_rtx", profiles=profiles, cache=tmp_path / "cache", optimization_level=0)
    built = build_engine(adopted, tmp_path / "net.engine", options)
    record, plan = read_engine(tmp_path / "net.engine")
    assert record == built.record
    assert (record.manifest.input, record.manifest.output, record.manifest.adopted) == (form, "probabilities", True)
    assert record.profiles[0].max[0] == (batch or 8)
    assert record.profiles[0].min[0] == (batch or 1)
    assert {layer.type for layer in record.layers} == {"fp32"}
    assert verify(tmp_path / "net.engine").problem == ""
    assert plan.startswith(b"vtrt")
    assert trt.__version__ == record.version
    config = config_of(export_triton(tmp_path / "net.engine", tmp_path / "repository")) if not batch else None
    assert config is None or [config.input[0].name, config.output[0].name] == ["input", "scores"]
    other = profiles_for(single_crop(48, 48), manifest.spec, BatchRange(min=1, opt=2, max=8))
    wrong = BuildOptions(flavour="tensorrt_rtx", profiles=other)
    with pytest.raises(UsageError, match=r"takes 32x32 pixels only, and the engine is for 1\.\.3 x 3 x 48 x 48"):
        build_engine(adopted, tmp_path / "b.engine", wrong)
