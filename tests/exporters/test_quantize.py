"""Quantised graphs: scales and zero points by hand, and layers that are read back as what they are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData, create_calibrator

from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.errors import GateError
from resnet_infer.exporters.calibrate import Once
from resnet_infer.exporters.graphs import float_graph
from resnet_infer.exporters.quantize import CALIBRATED_OPERATORS, quantized_graph, saturates_int8
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import check_claim
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

SIDE = 16
MADE = [("int8", "onnxruntime"), ("int8", "tensorrt"), ("fp8", "tensorrt")]
Make = Callable[..., onnx.ModelProto]


@pytest.fixture(scope="module")
def pictures(picture: Callable[..., NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    return [picture(SIDE, SIDE, seed) for seed in range(80)]


@pytest.fixture(scope="module")
def images(pictures: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    mean, std = (np.array(triple).reshape(1, 3, 1, 1) for triple in (IMAGENET_MEAN, IMAGENET_STD))
    return ((np.stack(pictures).transpose(0, 3, 1, 2) / 255 - mean) / std).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(small_net: ResNet) -> Checkpoint:
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=SIDE, crop=SIDE))
    return Checkpoint(name="random", manifest=manifest, state_dict=dict(small_net.state_dict()))


@pytest.fixture(scope="module")
def graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    return float_graph(checkpoint, "pooled", "fp32")


@pytest.fixture(scope="module")
def ranges(graph: onnx.ModelProto, images: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Plain onnxruntime's own minima and maxima over all pictures."""
    folder = tmp_path_factory.mktemp("ranges")
    onnx.save(graph, folder / "float.onnx")
    calibrator = create_calibrator(
        folder / "float.onnx", CALIBRATED_OPERATORS, str(folder / "more.onnx"), CalibrationMethod.MinMax
    )
    calibrator.collect_data(Once(images))
    return calibrator.compute_data()


@pytest.fixture(scope="module")
def make(graph: onnx.ModelProto, ranges: Any) -> Make:
    """make(precision, arrangement, ...): the graph quantised by those ranges."""

    def made(precision: str = "int8", arrangement: str = "onnxruntime", **options: Any) -> onnx.ModelProto:
        return quantized_graph(graph, ranges, precision=precision, arrangement=arrangement, **options)  # type: ignore[arg-type]

    return made


def constants(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def nodes(proto: onnx.ModelProto, *kinds: str) -> list[NodeProto]:
    return [node for node in proto.graph.node if node.op_type in kinds]


def makers(proto: onnx.ModelProto) -> dict[str, NodeProto]:
    return {output: node for node in proto.graph.node for output in node.output}


def plain(proto: onnx.ModelProto, x: NDArray[np.float32], path: Path | None = None) -> NDArray[np.float32]:
    """Logits of plain onnxruntime; `path` takes the graph that it made of this one."""
    settings = onnxruntime.SessionOptions()
    if path:
        settings.optimized_model_filepath = str(path)
        settings.log_severity_level = 3  # it warns that such a file is for this machine
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": x})[0])


def error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Mean difference of a logit over the spread of logits."""
    return float(np.abs(found - expected).mean() / expected.std())


def largest_of(ranges: Any, node: NodeProto) -> float:
    return max(abs(float(np.asarray(end).min())) for end in ranges[node.input[0]].range_value)


def weights_of(proto: onnx.ModelProto) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
    """(name in the float graph, stored weights, scale shaped to multiply them) of every quantised layer."""
    stored, by, found = constants(proto), makers(proto), []
    for layer in nodes(proto, "Conv", "Gemm"):
        node = by.get(layer.input[1])
        if node is not None:
            scale = stored[node.input[1]]
            assert scale.shape == (stored[node.input[0]].shape[0],)
            assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [0]
            values = stored[node.input[0]]
            found.append(
                (node.input[0].removesuffix("_quantized"), values, scale.reshape(-1, *[1] * (values.ndim - 1)))
            )
    return found


def test_for_onnxruntime_activations_are_uint8_and_relus_are_part_of_the_rounding(make: Make, ranges: Any) -> None:
    proto = make()
    stored, by = constants(proto), makers(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert nodes(proto, "Relu") == []
    quantizers = nodes(proto, "QuantizeLinear")
    assert len(quantizers) > 19 + 9
    for node in quantizers:
        zero, scale = stored[node.input[2]], stored[node.input[1]]
        low, high = (float(np.asarray(end).min()) for end in ranges[node.input[0]].range_value)
        assert (zero.dtype, int(zero)) == (np.uint8, 0 if low >= 0 else 128)
        largest = high / 255 if low >= 0 else max(-low / 128, high / 127)
        assert float(scale) == pytest.approx(largest, rel=0.01)
    assert len(nodes(proto, "Add")) == 9
    for node in nodes(proto, "Add"):
        assert [by[name].op_type for name in node.input] == ["DequantizeLinear", "DequantizeLinear"]
    assert by["logits"].op_type == "Gemm"


def test_for_onnxruntime_all_convolutions_and_additions_are_fused(
    make: Make, graph: onnx.ModelProto, images: NDArray[np.float32], tmp_path: Path
) -> None:
    quantised = plain(make(), images, tmp_path / "optimised.onnx")
    made = onnx.load(tmp_path / "optimised.onnx")
    assert (len(nodes(made, "QLinearConv")), len(nodes(made, "QLinearAdd"))) == (19, 9)
    assert nodes(made, "Conv", "FusedConv", "Add") == []
    assert error(quantised, plain(graph, images)) < 0.05


def test_for_tensorrt_zero_points_are_0_bias_is_float_and_additions_follow_a_convolution(
    make: Make, ranges: Any, graph: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    proto = make("int8", "tensorrt")
    stored, by = constants(proto), makers(proto)
    onnx.checker.check_model(proto, full_check=True)
    for node in nodes(proto, "QuantizeLinear", "DequantizeLinear"):
        zero = stored[node.input[2]]
        assert (zero.dtype, zero.any()) == (np.int8, False)
    for node in nodes(proto, "QuantizeLinear"):
        assert float(stored[node.input[1]]) == pytest.approx(largest_of(ranges, node) / 127, rel=1e-3)
    assert {stored[node.input[2]].dtype for node in nodes(proto, "Conv", "Gemm")} == {np.dtype(np.float32)}
    assert len(nodes(proto, "Add")) == 9
    assert {by[node.input[0]].op_type for node in nodes(proto, "Relu")} == {"Conv", "Add"}  # not rounded between
    for node in nodes(proto, "Add"):
        assert sorted(by[name].op_type for name in node.input) == ["Conv", "DequantizeLinear"]
    assert error(plain(proto, images), plain(graph, images)) < 0.05


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("arrangement", ["onnxruntime", "tensorrt"])
def test_int8_weights_have_one_scale_a_channel_and_are_rounded_to_the_nearest(
    make: Make, graph: onnx.ModelProto, arrangement: str, reduce_range: bool
) -> None:
    original, levels = constants(graph), 64 if reduce_range else 127
    found = weights_of(make("int8", arrangement, keep_float=(), reduce_range=reduce_range))
    assert len(found) == 20
    for name, values, scale in found:
        assert values.dtype == np.int8
        assert np.abs(values.astype(int)).max() == levels
        axes = tuple(range(1, values.ndim))
        np.testing.assert_allclose(scale, np.abs(original[name]).max(axes, keepdims=True) / levels, rtol=1e-5)
        assert (np.abs(values * scale - original[name]) <= scale * 0.5001).all()


def test_fp8_is_e4m3_in_opset_19_and_weights_are_within_half_a_step(
    make: Make, graph: onnx.ModelProto, ranges: Any
) -> None:
    proto = make("fp8", "tensorrt", keep_float=())
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version >= 19
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    pairs = nodes(proto, "QuantizeLinear", "DequantizeLinear")
    assert {types[node.input[2]] for node in pairs} == {TensorProto.FLOAT8E4M3FN}
    original, found = constants(graph), weights_of(proto)
    assert len(found) == 20
    for name, stored, scale in found:
        assert types[f"{name}_quantized"] == TensorProto.FLOAT8E4M3FN
        values = np.asarray(stored).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
        exponent = np.maximum(np.floor(np.log2(np.abs(original[name] / scale) + 1e-30)), -6)
        assert (np.abs(values * scale - original[name]) <= 2.0 ** (exponent - 4) * scale * 1.0001).all()
        assert np.isfinite(values).all()
        largest = np.abs(original[name]).max(tuple(range(1, values.ndim)), keepdims=True)
        np.testing.assert_allclose(scale, largest / 448, rtol=1e-5)  # the whole range is used
    scales = constants(proto)
    for node in nodes(proto, "QuantizeLinear"):
        assert float(scales[node.input[1]]) == pytest.approx(largest_of(ranges, node) / 448, rel=1e-3)


def test_fp8_in_our_onnxruntime_is_what_the_graph_says(
    make: Make, graph: onnx.ModelProto, checkpoint: Checkpoint, images: NDArray[np.float32],
    pictures: list[NDArray[np.uint8]], tmp_path: Path,
) -> None:  # fmt: skip
    """ONNX's own reference implementation in numpy, on two images; and fp32 by its best class on all."""
    proto = make("fp8", "tensorrt")
    onnx.save(proto, tmp_path / "net.onnx")
    manifest = replace(checkpoint.manifest, head="pooled", precision="fp8")
    backend = OrtBackend(tmp_path / "net.onnx", manifest, "cpu")
    tiles_BCHW = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    found = backend.run(tiles_BCHW, "pooled")[:, :, 0, 0].numpy()
    (expected,) = onnx.reference.ReferenceEvaluator(proto).run(None, {"input": images[:2]})
    fp32 = plain(graph, images)
    assert np.abs(found[:2] - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(found[:2] - expected).mean() < 0.2 * np.abs(fp32[:2] - expected).mean()
    assert error(found, fp32) < 0.15


@pytest.mark.parametrize(("precision", "arrangement"), MADE)
@pytest.mark.parametrize("keep_float", [(), ("stem",), ("classifier",), ("stem", "classifier")])
def test_stem_and_classifier_are_kept_in_float_as_asked_and_layers_read_back_as_they_are(
    make: Make, graph: onnx.ModelProto, images: NDArray[np.float32], precision: Any, arrangement: str, keep_float: Any
) -> None:
    proto = make(precision, arrangement, keep_float=keep_float)
    weighted = [node.input[1] for node in nodes(proto, "Conv", "Gemm")]
    floats = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    kept = [weighted[0]] * ("stem" in keep_float) + [weighted[-1]] * ("classifier" in keep_float)
    assert [name for name in weighted if name in floats] == kept
    assert makers(proto)["logits"].op_type == "Gemm"
    layers = read_layers(proto)
    assert [layer.type for layer in layers if layer.operator == "Add"] == [precision] * 9
    assert [layer.type for layer in layers if layer.operator != "Add"] == [
        "fp32" if (i == 0 and "stem" in keep_float) or (i == 19 and "classifier" in keep_float) else precision
        for i in range(20)
    ]
    check_claim(precision, layers, keep_float, "net.onnx")
    if precision == "int8":
        assert error(plain(proto, images), plain(graph, images)) < 0.05
    if keep_float:
        with pytest.raises(GateError, match=f"{len(keep_float)} of its 29 layers"):
            check_claim(precision, layers, (), "net.onnx")


@pytest.mark.parametrize(("precision", "arrangement"), MADE)
def test_narrow_weights_alone_do_not_make_a_narrow_layer(make: Make, precision: Any, arrangement: str) -> None:
    proto = make(precision, arrangement, keep_float=())
    by = makers(proto)
    bypass = {
        node.output[0]: by[node.input[0]].input[0] for node in nodes(proto, "DequantizeLinear") if node.input[0] in by
    }
    for node in nodes(proto, "Conv", "Gemm", "Add", "Relu", "Slice", "Pad", "ReduceMean"):
        node.input[:] = [bypass.get(name, name) for name in node.input]
    layers = read_layers(proto)
    assert ({layer.type for layer in layers}, len(weights_of(proto))) == ({"fp32"}, 20)
    with pytest.raises(GateError, match=f"claims {precision}, but 29 of its 29 layers"):
        check_claim(precision, layers, (), "net.onnx")


def test_ranges_near_zero_make_a_hopeless_graph(
    graph: onnx.ModelProto, ranges: Any, images: NDArray[np.float32]
) -> None:
    scaled = {
        name: TensorData(lowest=ranges[name].range_value[0] * 1e-4, highest=ranges[name].range_value[1] * 1e-4)
        for name in ranges
    }
    proto = quantized_graph(graph, TensorsData(CalibrationMethod.MinMax, scaled))
    found, expected = plain(proto, images), plain(graph, images)
    assert (found.argmax(1) == expected.argmax(1)).mean() < 0.5
    assert error(found, expected) > 0.5


def test_cpus_that_saturate_are_those_without_vnni() -> None:
    """By the kernel's own list of flags; and where a product of extremes comes out wrong, it must have said so."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("no x86 flags in /proc/cpuinfo")
    assert saturates_int8() == (not any(flag in flags for flag in ("avx512_vnni", "avx_vnni", "amx_int8")))
    value, product = onnx.helper.make_tensor_value_info, onnx.helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    a, c = value("a", TensorProto.UINT8, [8, 64]), value("c", TensorProto.INT32, [8, 8])
    weights = numpy_helper.from_array(np.full((64, 8), 127, np.int8), "b")
    body = onnx.helper.make_graph([product], "product", [a], [c], [weights])
    proto = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"a": np.full((8, 64), 255, np.uint8)})
    if not saturates_int8():
        assert (product == 64 * 255 * 127).all()
