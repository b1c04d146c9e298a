"""Q/DQ graphs: int8 by onnxruntime's quantiser, arranged for the runtime that is to fuse them, and fp8 made from int8.

Weights are symmetric, one scale a channel; activations have one scale a tensor. Both inputs of a residual addition are
quantised, or the addition and all behind it would run in float. Pooling and logits stay in float: 256 levels of a mean
over 49 values, or of a score, would be ties. Arrangements differ because what is fused differs:

- `onnxruntime`: uint8 with zero point 0 behind a ReLU, which is then part of the rounding, and 128 elsewhere; a
  convolution's own output is quantised too. Fused to QLinearConv and QLinearAdd; signed activations would not be.
- `tensorrt`: int8 with zero point 0, the only one it takes; bias in float; nothing is rounded inside a convolution with
  its addition and ReLU, which are one kernel there.

Sources: onnxruntime.ai/docs/performance/model-optimizations/quantization; TensorRT developer guide, "Q/DQ placement".
"""

import copy
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from resnet_infer.spec.precisions import FloatLayer, Precision

Arrangement = Literal["onnxruntime", "tensorrt"]
QUANTIZED_OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "MaxPool", "Pad"]
CALIBRATED_OPERATORS = [*QUANTIZED_OPERATORS, "Relu"]
"""Whose inputs and outputs a calibrator has to see, for either arrangement."""
FP8_OPSET = 19
"""The first whose QuantizeLinear gives fp8."""
FP8_MAX = 448.0
"""Largest number of float8 e4m3fn."""


def quantized_graph(
    graph: onnx.ModelProto,
    ranges: Any,
    *,
    precision: Precision = "int8",
    arrangement: Arrangement = "onnxruntime",
    keep_float: Sequence[FloatLayer] = ("classifier",),
    reduce_range: bool = False,
) -> onnx.ModelProto:
    """The fp32 graph with Q/DQ pairs, by the activation ranges of a calibrator (onnxruntime's TensorsData).

    `reduce_range` gives weights 7 bits, for CPUs whose 8-bit products saturate 16-bit sums (`saturates_int8`).
    """
    proto = onnx.shape_inference.infer_shapes(copy.deepcopy(graph))
    _name_nodes(proto)
    weighted = [node.name for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    excluded = [weighted[0]] if "stem" in keep_float else []
    excluded += [weighted[-1]] if "classifier" in keep_float else []
    excluded += _behind(proto.graph, weighted[-1])
    signed = arrangement == "tensorrt"
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if signed else QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=excluded,
        op_types_to_quantize=QUANTIZED_OPERATORS if signed else CALIBRATED_OPERATORS,  # a ReLU named there is dropped
        extra_options={
            "ActivationSymmetric": signed,
            "ActivationRestrictedAsymmetric": not signed,
            "QuantizeBias": not signed,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    _float_logits(made.graph, weighted[-1])
    if signed:
        _leave_epilogues(made.graph)
    if precision == "fp8":
        _to_fp8(made, graph)
    remove_unused(made.graph)
    return made


def saturates_int8() -> bool:
    """Whether this CPU adds pairs of 8-bit products in 16 bits: x86 before VNNI, where two large products saturate."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return True  # not known: seven bits are safe everywhere
    return not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags)


def _name_nodes(proto: onnx.ModelProto) -> None:
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


def _behind(graph: onnx.GraphProto, last: str) -> list[str]:
    """The names of the nodes that read the classifier's scores: its bias, a softmax."""
    reached, names = set[str](), []
    for node in graph.node:
        if node.name == last or reached & set(node.input):
            reached.update(node.output)
            names += [node.name] if node.name != last else []
    return names


def _float_logits(graph: onnx.GraphProto, last: str) -> None:
    """Take the Q/DQ pair behind the classifier away."""
    classifier = next(node for node in graph.node if node.name == last)
    logits = classifier.output[0]
    ends = {output.name for output in graph.output}
    for quantize in [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == logits]:
        for widen in [node for node in graph.node if quantize.output[0] in node.input]:
            if widen.output[0] in ends:
                classifier.output[0] = widen.output[0]
            for node in graph.node:
                node.input[:] = [classifier.output[0] if n in (widen.output[0], logits) else n for n in node.input]
            graph.node.remove(widen)
        graph.node.remove(quantize)


def _leave_epilogues(graph: onnx.GraphProto) -> None:
    """Take away the roundings inside what TensorRT fuses: convolution, addition of the other side, ReLU.

    A ReLU reads its maker's output as it is, an addition one convolution's: rounding there would end the fusion, and
    cost accuracy twice.
    """
    producers = _producers(graph)

    def before_rounding(name: str) -> tuple[str, NodeProto] | None:
        dequantize = producers.get(name)
        quantize = producers.get(dequantize.input[0]) if dequantize is not None else None
        maker = producers.get(quantize.input[0]) if quantize is not None else None
        return (quantize.input[0], maker) if quantize is not None and maker is not None else None

    for node in graph.node:
        if node.op_type == "Relu" and (found := before_rounding(node.input[0])):
            node.input[0] = found[0]
        elif node.op_type == "Add":
            for side, name in enumerate(node.input):
                if (found := before_rounding(name)) and found[1].op_type == "Conv":
                    node.input[side] = found[0]
                    break


def _to_fp8(made: onnx.ModelProto, graph: onnx.ModelProto) -> None:
    """Every int8 Q/DQ pair as an fp8 one over the same range; weights are rounded anew from fp32."""
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for name in {n for node in _pairs(made.graph.node) for n in node.input[1:2]}:
        scale = numpy_helper.to_array(constants[name]) * np.float32(127 / FP8_MAX)
        constants[name].CopyFrom(numpy_helper.from_array(np.asarray(scale, np.float32), name))
    for name in {n for node in _pairs(made.graph.node) for n in node.input[2:3]}:
        zeros = np.zeros(tuple(constants[name].dims), ml_dtypes.float8_e4m3fn)
        constants[name].CopyFrom(_fp8_tensor(zeros, name))
    for node in _pairs(made.graph.node):
        stored = constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and stored is not None:
            scale = numpy_helper.to_array(constants[node.input[1]])
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            original = weights[node.input[0].removesuffix("_quantized")]
            per_channel = scale.reshape([-1 if d == axis else 1 for d in range(original.ndim)]) if scale.ndim else scale
            stored.CopyFrom(_fp8_tensor((original / per_channel).astype(ml_dtypes.float8_e4m3fn), node.input[0]))
    for entry in made.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, FP8_OPSET)
    del made.graph.value_info[:]


def _fp8_tensor(array: NDArray[Any], name: str) -> TensorProto:
    tensor: TensorProto = helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, array.shape, array.tobytes(), raw=True)
    return tensor


def _pairs(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    return [node for node in nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]


def _producers(graph: onnx.GraphProto) -> Mapping[str, NodeProto]:
    return {output: node for node in graph.node for output in node.output}


def remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and constants whose output nobody reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unread = [node for node in graph.node if not read & set(node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
