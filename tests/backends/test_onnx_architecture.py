"""Which architecture a graph from elsewhere is: read off its layers, and compared with what it is called."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from foreign_graphs import FLAGS, normalized, pixels, plain, written
from onnx import numpy_helper

from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_file import load_graph
from resnet_infer.backends.onnx_network import read_network
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.catalogue import spec_from_name


def fixed(side: int) -> dict[str, Any]:
    return {"dynamic_axes": {"image": {0: "n"}}, "args": (torch.zeros(1, 3, side, side),)}


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("folded", [True, False], ids=["folded", "batch norm"])
def test_torchvisions_networks_are_recognised(tmp_path: Path, name: str, folded: bool) -> None:
    """And their parameters are what torchvision counts."""
    net = getattr(torchvision.models, name)(num_classes=7)
    training = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    options = {} if folded else {"do_constant_folding": False, "training": training}
    path = written(net, tmp_path / "net.onnx", **options)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert ("BatchNormalization" in kinds) != folded
    spec = open_model(str(path), device="cpu", overrides=FLAGS).manifest.spec
    assert (spec.name, spec.classes) == (name, 7)
    assert spec.params == sum(parameter.numel() for parameter in net.parameters())


def test_what_is_recognised_runs_and_the_name_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(torchvision.models.resnet18(num_classes=4), tmp_path / "net.onnx")
    model = open_model(str(path), device="cpu", overrides=FLAGS)
    assert "net.onnx: is resnet18 by the shapes and strides of its layers" in capsys.readouterr().err
    actual = model.backend.run(pixels(2, 64), "pooled")[:, :, 0, 0]
    np.testing.assert_allclose(actual, plain(path, normalized(pixels(2, 64))), rtol=1e-4, atol=1e-5)


WRONG = {
    "resnet50": r"has 21 weighted layers of 11,168,960 weights, and resnet50 has 54 of 23,463,104",
    "resnet34": r"has 21 weighted layers .*resnet34 has 37",
    "resnet18-A": r"resnet18-A has 18",
    "resnet18-C": r"resnet18-C has 26",
    "resnet20": r"resnet20 has 20",
    "plain18": r"plain18 has 18",
}


@pytest.mark.parametrize("arch", WRONG)
def test_a_name_that_does_not_fit_is_refused_and_the_one_that_does_is_given(tmp_path: Path, arch: str) -> None:
    net = torchvision.models.resnet18(num_classes=4)
    path = written(net, tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=WRONG[arch]) as caught:
        open_model(str(path), device="cpu", overrides=replace(FLAGS, arch=arch))
    assert str(caught.value).endswith("its layers are those of resnet18: give --arch resnet18")
    weights = sum(p.numel() for name, p in net.named_parameters() if p.ndim > 1)
    assert weights == 11_168_960


def test_the_place_of_a_stride_tells_two_networks_of_the_same_shapes_apart(tmp_path: Path) -> None:
    path = written(build(spec_from_name("resnet50-v1", 4)), tmp_path / "net.onnx")
    assert open_model(str(path), device="cpu", overrides=FLAGS).manifest.spec.name == "resnet50-v1"
    says = "the graph has a 1x1 convolution 256 to 128, stride 2, and resnet50 a 1x1 convolution 256 to 128, stride 1"
    with pytest.raises(UsageError, match=says):
        open_model(str(path), device="cpu", overrides=replace(FLAGS, arch="resnet50"))


def test_a_map_that_is_larger_is_seen_where_all_layers_are_alike(tmp_path: Path) -> None:
    net = torchvision.models.resnet18(num_classes=4)
    net.maxpool = torch.nn.Identity()
    path = written(net, tmp_path / "net.onnx")
    says = r"at 224x224 pixels its last feature map is 14x14, and that of resnet18 7x7"
    with pytest.raises(UsageError, match=says):
        open_model(str(path), device="cpu", overrides=replace(FLAGS, arch="resnet18"))
    with pytest.raises(ArtifactError, match="those of no architecture that `resnet-infer models` lists"):
        open_model(str(path), device="cpu", overrides=FLAGS)


@pytest.mark.parametrize("side", [32, 64])
def test_fixed_sides_are_the_crop(tmp_path: Path, side: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(torchvision.models.resnet18(num_classes=4), tmp_path / "net.onnx", **fixed(side))
    model = open_model(str(path), device="cpu", overrides=FLAGS)
    assert (model.manifest.spec.name, model.manifest.preprocessing.crop) == ("resnet18", side)
    assert (
        f"takes {side}x{side} pixels, cropped from a shorter side of {round(side * 8 / 7)}" in capsys.readouterr().err
    )


# other forms


def quantised(path: Path, to: Path, form: Any, side: int) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Random(CalibrationDataReader):  # type: ignore[misc]
        left = 2

        def get_next(self) -> Any:
            self.left -= 1
            return {"image": normalized(pixels(2, side))} if self.left >= 0 else None

    quantize_static(path, to, Random(), quant_format=form, weight_type=QuantType.QInt8, per_channel=True)
    return to


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_onnxruntimes_own_quantiser_leaves_a_network_recognisable(
    tmp_path: Path, form: str, random_net: Callable[..., ResNet]
) -> None:
    from onnxruntime.quantization import QuantFormat

    float_path = written(random_net("resnet20-B"), tmp_path / "float.onnx")
    path = quantised(float_path, tmp_path / "int8.onnx", getattr(QuantFormat, form), 32)
    model = open_model(str(path), device="cpu", overrides=FLAGS)
    assert (model.manifest.spec.name, model.manifest.precision) == ("resnet20-B", "int8")
    actual = model.backend.run(pixels(2), "pooled")[:, :, 0, 0]
    np.testing.assert_allclose(actual, plain(path, normalized(pixels(2))), rtol=1e-4, atol=1e-4)


def test_weights_that_a_graph_transposes_are_seen_as_they_are_used(
    tmp_path: Path, random_net: Callable[..., ResNet]
) -> None:
    path = written(random_net("resnet20-B"), tmp_path / "net.onnx")
    proto = onnx.load(path)
    (gemm,) = [node for node in proto.graph.node if node.op_type == "Gemm"]
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name == gemm.input[1])
    turned = np.ascontiguousarray(numpy_helper.to_array(weights))
    weights.CopyFrom(numpy_helper.from_array(turned, "stored"))
    nodes = [
        onnx.helper.make_node("Transpose", ["stored"], ["turned"], perm=[1, 0]),
        onnx.helper.make_node("MatMul", [gemm.input[0], "turned"], ["product"]),
        onnx.helper.make_node("Add", ["product", gemm.input[2]], list(gemm.output)),
    ]
    proto.graph.node.remove(gemm)
    proto.graph.node.extend(nodes)
    onnx.save(proto, path)
    assert open_model(str(path), device="cpu", overrides=FLAGS).manifest.spec.name == "resnet20-B"


def test_weights_that_are_computed_are_not_compared_and_that_is_said(
    tmp_path: Path, random_net: Callable[..., ResNet], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(random_net("resnet20-B"), tmp_path / "net.onnx")
    proto = onnx.load(path)
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    proto.graph.node.insert(0, onnx.helper.make_node("Mul", [conv.input[1], "one"], ["computed"]))
    conv.input[1] = "computed"
    onnx.save(proto, path)
    assert read_network(load_graph(path), path, "scores") is None
    model = open_model(str(path), device="cpu", overrides=replace(FLAGS, arch="resnet20-B"))
    assert model.manifest.spec.name == "resnet20-B"
    assert "cannot be read off the graph, so --arch resnet20-B is taken without a check" in capsys.readouterr().err
    with pytest.raises(ArtifactError, match="known here; give the nearest with --arch"):
        open_model(str(path), device="cpu", overrides=FLAGS)
