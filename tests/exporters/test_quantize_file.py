"""int8 forms of ONNX files of other tools: the reference is the file itself, in plain ONNX Runtime."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foreign_files import FLAGS, MEAN, SIDE, STD, foreign
from numpy.typing import NDArray
from torch import nn

from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.data.source import Memory
from resnet_infer.errors import GateError, UsageError
from resnet_infer.exporters.adopt import adopt
from resnet_infer.exporters.calibrate import Quantization
from resnet_infer.exporters.gate import Gate
from resnet_infer.exporters.quantize_file import quantize_file
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.protocols import single_crop
from resnet_infer.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pictures(picture: Callable[..., NDArray[np.uint8]]) -> Memory:
    return Memory("pictures", [(str(seed), picture(SIDE, SIDE, seed)) for seed in range(64)])


@pytest.fixture(scope="module")
def net(random_net: Callable[..., ResNet]) -> ResNet:
    return random_net("resnet20-B")


@pytest.fixture(scope="module")
def close(random_net: Callable[..., ResNet], picture: Callable[..., NDArray[np.uint8]]) -> ResNet:
    """Whose best classes are so close to others that int8 changes them."""
    made = random_net("resnet20-B")
    seen = torch.stack([torch.from_numpy(picture(SIDE, SIDE, seed)).permute(2, 0, 1) for seed in range(64)])
    mean, std = (torch.tensor(triple).view(3, 1, 1) for triple in (MEAN, STD))
    with torch.no_grad():
        made.fc.bias -= made((seen / 255 - mean) / std).mean(0)
        assert (made((seen / 255 - mean) / std).argmax(1).bincount() > 0).sum() > 4
    return made


def pixels(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(batch, 3, 5, 5, generator=generator) * 255
    return nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").to(torch.uint8)


def probabilities(path: Path, x: NDArray[Any]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"image": x})
    result: NDArray[np.float32] = scores
    return result


def as_taken(x_BCHW: torch.Tensor, form: str) -> NDArray[Any]:
    mean, std = (np.array(triple, np.float32).reshape(1, 3, 1, 1) for triple in (MEAN, STD))
    x = x_BCHW.numpy() if form.startswith("uint8") else ((x_BCHW.numpy() / np.float32(255) - mean) / std)
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1) if form.endswith("-nhwc") else x)


@pytest.mark.parametrize(
    ("form", "batch", "options"),
    [
        ("normalized", 0, {}),
        ("normalized-nhwc", 0, {}),
        ("uint8-nhwc", 0, {}),
        ("normalized", 7, {}),
        ("normalized", 0, {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}),
        ("normalized", 0, {"opset_version": 11}),
    ],
    ids=["plain", "channels last", "bytes", "fixed batch", "batch norm", "opset 11"],
)
@pytest.mark.parametrize("arrangement", ["onnxruntime", "tensorrt"])
def test_the_int8_form_takes_and_gives_what_the_file_does(
    net: ResNet, pictures: Memory, tmp_path: Path, form: str, batch: int, options: dict[str, Any], arrangement: Any
) -> None:
    path, out = foreign(net, tmp_path / "net.onnx", form, batch, **options), tmp_path / "int8.onnx"
    flags = Overrides() if form.startswith("uint8") else FLAGS
    wanted = Quantization(data=pictures, images=32, method="minmax", arrangement=arrangement)
    manifest = quantize_file(path, out, wanted, flags)
    assert (manifest.precision, manifest.input, manifest.output) == ("int8", form, "probabilities")
    assert manifest.parity["reference"] == "net.onnx"
    layers = read_layers(onnx.load(out))
    assert [layer.type for layer in layers] == ["int8"] * (len(layers) - 1) + ["fp32"]
    assert sum(layer.operator == "Conv" for layer in layers) == 21
    assert verify(out).problem == ""
    x_BCHW = pixels(batch or 16)
    exact, rounded = (probabilities(each, as_taken(x_BCHW, form)) for each in (path, out))
    assert 1e-4 < np.abs(rounded - exact).max() < 0.25
    assert (rounded.argmax(1) == exact.argmax(1)).mean() > 0.8
    scores = open_model(str(out), device="cpu").backend.run(x_BCHW, "pooled")[:, :, 0, 0].softmax(1)
    np.testing.assert_allclose(scores, rounded, rtol=1e-3, atol=1e-5)


def test_an_adopted_file_needs_no_flags_and_keeps_its_scores_unrounded(
    net: ResNet, pictures: Memory, tmp_path: Path
) -> None:
    """Nothing behind the classifier is quantised even if it is: 256 levels of a score would be ties."""
    adopt(foreign(net, tmp_path / "net.onnx"), tmp_path / "adopted.onnx", FLAGS)
    wanted = Quantization(data=pictures, images=32, method="minmax", keep_float=())
    manifest = quantize_file(tmp_path / "adopted.onnx", tmp_path / "int8.onnx", wanted)
    assert manifest.adopted  # its input is still as that tool made it
    assert manifest.source == "net.onnx"
    proto = onnx.load(tmp_path / "int8.onnx")
    assert {layer.type for layer in read_layers(proto)} == {"int8"}
    makers = {output: node for node in proto.graph.node for output in node.output}
    softmax = makers[proto.graph.output[0].name]
    assert softmax.op_type == "Softmax"
    assert makers[softmax.input[0]].op_type in ("Gemm", "Add")
    assert [output.name for output in proto.graph.output] == ["scores"]


def test_a_bias_behind_a_product_is_not_quantised(net: ResNet, pictures: Memory, tmp_path: Path) -> None:
    """MatMul and Add, as other tools write a classifier; ONNX Runtime's folding would make a Gemm of them."""
    from resnet_infer.exporters import quantize_file as module
    from resnet_infer.exporters.calibrate import quantize

    path = foreign(net, tmp_path / "net.onnx")
    proto = onnx.load(path)
    gemm = next(node for node in proto.graph.node if node.op_type == "Gemm")
    at = list(proto.graph.node).index(gemm)
    nodes = [
        onnx.helper.make_node("Transpose", [gemm.input[1]], ["turned"], perm=[1, 0]),
        onnx.helper.make_node("MatMul", [gemm.input[0], "turned"], ["product"]),
        onnx.helper.make_node("Add", ["product", gemm.input[2]], list(gemm.output)),
    ]
    proto.graph.node.remove(gemm)
    for node in reversed(nodes):
        proto.graph.node.insert(at, node)
    onnx.save(proto, path)
    reference = open_model(str(path), device="cpu", overrides=FLAGS)
    graph = module.only_output(proto, reference.manifest)
    made, _ = quantize(
        graph,
        replace(reference.manifest, precision="int8"),
        reference,
        Quantization(data=pictures, images=32, method="minmax"),
    )
    add = next(node for node in made.graph.node if node.op_type == "Add" and gemm.output[0] in node.output)
    assert add.input[0] == "product"


def test_bytes_in_bgr_are_fed_in_bgr_to_the_int8_form_too(net: ResNet, pictures: Memory, tmp_path: Path) -> None:
    path, out = foreign(net, tmp_path / "net.onnx", "uint8-nhwc"), tmp_path / "int8.onnx"
    adopt(path, tmp_path / "adopted.onnx", Overrides(channel_order="bgr"))
    quantize_file(tmp_path / "adopted.onnx", out, Quantization(data=pictures, images=32, method="minmax"))
    x_BCHW = pixels(6)
    for file in (tmp_path / "adopted.onnx", out):
        expected = probabilities(file, as_taken(x_BCHW.flip(1), "uint8-nhwc"))
        assert np.abs(expected - probabilities(file, as_taken(x_BCHW, "uint8-nhwc"))).max() > 0.01
        scores = open_model(str(file), device="cpu").backend.run(x_BCHW, "pooled")[:, :, 0, 0].softmax(1)
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-5)


def test_what_cannot_be_quantised_is_refused(net: ResNet, close: ResNet, pictures: Memory, tmp_path: Path) -> None:
    wanted = Quantization(data=pictures, images=32, method="minmax")
    path = foreign(net, tmp_path / "net.onnx")
    passed = Gate(data=pictures, protocol=single_crop(SIDE, SIDE), min_agreement=0.9)
    report = quantize_file(path, tmp_path / "int8.onnx", wanted, FLAGS, gate=passed).gate
    assert report["reference"] == "net.onnx (fp32, onnxruntime, cpu)"
    assert report["passed"]
    with pytest.raises(UsageError, match=r"int8\.onnx: is int8; int8 is made from fp32 files"):
        quantize_file(tmp_path / "int8.onnx", tmp_path / "again.onnx", wanted)
    gate = Gate(data=pictures, protocol=single_crop(SIDE, SIDE))
    with pytest.raises(GateError, match=r"gated\.onnx: not written: best class agrees on"):
        quantize_file(foreign(close, tmp_path / "close.onnx"), tmp_path / "gated.onnx", wanted, FLAGS, gate=gate)
    assert not (tmp_path / "gated.onnx").exists()
