"""Float graphs: bf16 that is bf16, and preprocessing inside that equals preprocessing outside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_file import stored_manifest
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.source import Memory
from resnet_infer.errors import ArtifactError, BackendError, UsageError
from resnet_infer.exporters import to_onnx
from resnet_infer.exporters.emulation import emulated
from resnet_infer.exporters.graphs import float_graph, with_preprocessing
from resnet_infer.model.checkpoints import Checkpoint, Overrides
from resnet_infer.model.fold import fold_batch_norm
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import single_crop

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
Graphs = Callable[[str, str], onnx.ModelProto]


@pytest.fixture(scope="module")
def checkpoint(small_net: ResNet) -> Checkpoint:
    preprocessing = Preprocessing(mean=MEAN, std=STD, resize=32, crop=32)
    manifest = Manifest(spec=small_net.spec, preprocessing=preprocessing)
    return Checkpoint(name="random", manifest=manifest, state_dict=dict(small_net.state_dict()))


@pytest.fixture(scope="module")
def graph(checkpoint: Checkpoint) -> Graphs:
    """graph(head, precision): a copy of the graph, which is made once."""
    made: dict[tuple[str, str], bytes] = {}

    def copied(head: str, precision: str) -> onnx.ModelProto:
        if (head, precision) not in made:
            proto = float_graph(checkpoint, head, precision)  # type: ignore[arg-type]
            made[head, precision] = proto.SerializeToString()
        return onnx.load_from_string(made[head, precision])

    return copied


@pytest.fixture(scope="module")
def images(picture: Callable[..., NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Four pictures of 41 x 46 pixels."""
    return np.stack([picture(41, 46, seed) for seed in range(4)]).transpose(0, 3, 1, 2).copy()


def plain(proto: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["logits"], {"input": x})
    result: NDArray[Any] = scores
    return result


def normalized(x_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    mean, std = (np.array(triple).reshape(1, 3, 1, 1) for triple in (MEAN, STD))
    return ((x_BCHW / 255 - mean) / std).astype(np.float32)


def dims(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


# bf16


@pytest.mark.parametrize("head", ["pooled", "dense"])
def test_a_bf16_graph_has_opset_22_bf16_weights_and_float32_ends(graph: Graphs, head: str) -> None:
    proto = graph(head, "bf16")
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 22)]
    for end in (proto.graph.input[0], proto.graph.output[0]):
        assert end.type.tensor_type.elem_type == TensorProto.FLOAT
    weights = [tensor for tensor in proto.graph.initializer if tensor.name.startswith("net.")]
    assert {tensor.data_type for tensor in weights} == {TensorProto.BFLOAT16}
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    convolved = [node.output[0] for node in proto.graph.node if node.op_type in ("Conv", "Add", "Relu")]
    assert len(convolved) > 40
    assert {types[name] for name in convolved if name in types} == {TensorProto.BFLOAT16}
    assert {layer.type for layer in read_layers(proto)} == {"bf16"}


@pytest.mark.parametrize("head", ["pooled", "dense"])
def test_the_emulation_is_pytorchs_bf16_network_and_not_its_fp32_one(
    graph: Graphs, small_net: ResNet, images: NDArray[np.uint8], head: str
) -> None:
    x = torch.from_numpy(normalized(images))
    folded = fold_batch_norm(small_net)
    with torch.inference_mode():
        fp32 = with_head(folded, head)(x).numpy()  # type: ignore[arg-type]
        bf16 = with_head(folded.bfloat16(), head)(x.bfloat16()).float().numpy()  # type: ignore[arg-type]
    rounded = plain(emulated(graph(head, "bf16")), x.numpy())
    to_bf16, to_fp32 = np.abs(rounded - bf16).mean(), np.abs(rounded - fp32).mean()
    assert to_bf16 < to_fp32 / 2
    assert to_fp32 < 0.05 * np.abs(fp32).max()
    assert np.array_equal(rounded, torch.from_numpy(rounded).bfloat16().float().numpy())  # logits of 8 bits
    assert not np.array_equal(fp32, torch.from_numpy(fp32).bfloat16().float().numpy())


def test_the_emulation_rounds_after_every_operator_that_computes(graph: Graphs, images: NDArray[np.uint8]) -> None:
    proto = emulated(graph("pooled", "bf16"))
    computed = {node.output[0].removesuffix(".exact") for node in proto.graph.node if node.op_type in ("Conv", "Add")}
    assert len(computed) == 19 + 9
    read = [name for name in sorted(computed) if any(name in node.input for node in proto.graph.node)]
    assert read == sorted(computed)
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in read)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, values in zip(read, session.run(read, {"input": normalized(images)}), strict=True):
        assert np.array_equal(values, torch.from_numpy(values).bfloat16().float().numpy()), name


def test_an_exported_bf16_file_agrees_with_the_torch_backend_and_says_that_a_cpu_has_no_kernel(
    checkpoint: Checkpoint, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    manifest = to_onnx.export_onnx(checkpoint, path, precision="bf16")
    assert manifest.precision == "bf16"
    assert 1e-4 < manifest.parity["relative_diff"] < manifest.parity["tolerance"]
    with pytest.raises(BackendError, match="bf16 needs CUDA or TensorRT"):
        open_model(str(path), device="cpu")
    rounded = plain(emulated(onnx.load(path)), normalized(images))
    torch_scores = {
        precision: TorchBackend(checkpoint, "cpu", precision)
        .run(torch.from_numpy(images), "pooled")[:, :, 0, 0]
        .numpy()
        for precision in ("fp32", "bf16")
    }
    largest = np.abs(torch_scores["fp32"]).max()
    assert np.abs(rounded - torch_scores["bf16"]).max() < 0.05 * largest  # which does not fold, so rounds elsewhere
    assert 1e-4 * largest < np.abs(rounded - torch_scores["fp32"]).max() < 0.05 * largest


# preprocessing inside


@pytest.mark.parametrize("layout", ["uint8-nchw", "uint8-nhwc"])
@pytest.mark.parametrize(
    ("head", "precision", "tolerance"),
    [("pooled", "fp32", 1e-5), ("dense", "fp32", 1e-5), ("pooled", "fp16", 1e-2), ("pooled", "bf16", 1e-2)],
)
def test_raw_bytes_give_the_scores_of_normalised_pixels(
    graph: Graphs,
    checkpoint: Checkpoint,
    images: NDArray[np.uint8],
    head: str,
    precision: str,
    tolerance: float,
    layout: Any,
) -> None:
    outside, inside = graph(head, precision), graph(head, precision)
    with_preprocessing(inside, checkpoint.manifest.preprocessing, layout)
    onnx.checker.check_model(inside, full_check=True)
    (image,) = inside.graph.input
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    nhwc = layout == "uint8-nhwc"
    assert dims(image) == (["batch", "height", "width", 3] if nhwc else ["batch", 3, "height", "width"])
    assert {layer.type for layer in read_layers(inside)} == {precision}
    if precision == "bf16":
        outside, inside = emulated(outside), emulated(inside)
    expected = plain(outside, normalized(images).astype(np.float16 if precision == "fp16" else np.float32))
    actual = plain(inside, images.transpose(0, 2, 3, 1).copy() if nhwc else images)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected.astype(np.float32)).max())


def test_a_file_that_takes_bytes_says_so_and_is_fed_so(
    checkpoint: Checkpoint,
    graph: Graphs,
    picture: Callable[..., NDArray[np.uint8]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        to_onnx, "float_graph", lambda checkpoint, head, precision, opset: graph(head, precision)
    )  # made once
    source = Memory("pictures", [(str(seed), picture(50, 37, seed)) for seed in range(5)])
    scores = {}
    for input_format in ("normalized", "uint8-nchw", "uint8-nhwc"):
        path = tmp_path / f"{input_format}.onnx"
        to_onnx.export_onnx(checkpoint, path, input_format=input_format)  # type: ignore[arg-type]
        manifest = stored_manifest(onnx.load(path), str(path))
        assert manifest is not None
        assert manifest.input == input_format
        model = open_model(str(path), device="cpu")
        results = sorted(score([Member(model, (single_crop(32, 32),))], source), key=lambda result: result.index)
        scores[input_format] = torch.cat([result.probs_PK for result in results if result.probs_PK is not None])
        assert len(scores[input_format]) == 5
        torch.testing.assert_close(scores[input_format], scores["normalized"], rtol=1e-4, atol=1e-5)
        if input_format != "normalized":
            with pytest.raises(UsageError, match="normalises inside"):
                open_model(str(path), device="cpu", overrides=Overrides(mean=(0, 0, 0), std=(1, 1, 1)))
            with pytest.raises(ArtifactError, match="manifest says that its input is normalized"):
                OrtBackend(path, replace(manifest, input="normalized"), "cpu")


# constants


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_dense_classifier_is_a_constant_of_1x1_weights(random_net: Callable[..., ResNet], precision: str) -> None:
    """The exporter itself leaves larger ones, as this of 1000 classes, to an Unsqueeze at run time."""
    net = random_net("resnet20", 1000)
    preprocessing = Preprocessing(mean=MEAN, std=STD, resize=32, crop=32)
    manifest = Manifest(spec=net.spec, preprocessing=preprocessing)
    checkpoint = Checkpoint(name="random", manifest=manifest, state_dict=dict(net.state_dict()))
    proto = float_graph(checkpoint, "dense", precision)  # type: ignore[arg-type]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert not [node for node in proto.graph.node if node.op_type == "Unsqueeze"]
    classifier = [node for node in proto.graph.node if node.op_type == "Conv"][-1]
    weights = constants[classifier.input[1]]
    assert weights.shape == (1000, 64, 1, 1)
    expected = net.fc.weight.detach().to(
        {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    )
    np.testing.assert_array_equal(weights[:, :, 0, 0].astype(np.float32), expected.float().numpy())
    read = {name for node in proto.graph.node for name in node.input}
    assert set(constants) <= read
    onnx.checker.check_model(proto, full_check=True)
