"""A half-precision graph as an fp32 one that rounds as the graph would: to check an export, never to run one.

A CPU's onnxruntime has no kernels of bf16, and computes fp16 in fp32, where nothing overflows. A GPU's kernels add up
in fp32 and round their result once, to 8 bits of bf16, or to 11 of fp16 within 65504, beyond which it is infinite.
"""

import copy
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from resnet_infer.backends.onnx_checks import value_types

HALVES = (TensorProto.BFLOAT16, TensorProto.FLOAT16)
HANDING_ON = (
    "Relu", "MaxPool", "GlobalMaxPool", "Clip", "Min", "Max", "Identity", "Dropout", "Flatten", "Reshape", "Squeeze",
    "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "Pad", "Constant", "ConstantOfShape",
)  # fmt: skip
"""Operators whose results are numbers that they were given; those of all others are rounded."""


def emulated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with fp32 in place of bf16 and fp16, and a rounding to that type after every operator that computes.

    Its ends are fp32 where they were of half precision; an input is rounded too.
    """
    kinds = _half_values(proto)
    proto = copy.deepcopy(proto)
    graph = proto.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    nodes: list[NodeProto] = []
    rounded: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        if value.name in kinds:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in graph.input:
        if value.name in kinds:
            rounded[value.name] = f"{value.name}.rounded"
            nodes += _rounding(value.name, rounded[value.name], kinds[value.name])
    for node in graph.node:
        node.input[:] = [rounded.get(name, name) for name in node.input]
        nodes += _rounded(node, kinds)
    kept = [copy.deepcopy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return proto


def _half_values(proto: onnx.ModelProto) -> dict[str, int]:
    """The values of half precision, and which."""
    types = {name: kind.tensor_type.elem_type for name, kind in value_types(proto).items()}
    types |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    return {name: kind for name, kind in types.items() if kind in HALVES}


def _rounded(node: NodeProto, kinds: Mapping[str, int]) -> list[NodeProto]:
    """The node on fp32, and behind it the rounding of what it computes."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen(attribute.t)
    if node.op_type == "Cast" and node.output[0] in kinds:  # the graph's own rounding of its input
        return _rounding(node.input[0], node.output[0], kinds[node.output[0]])
    if node.op_type in HANDING_ON:
        return [node]
    nodes = [node]
    for index, name in enumerate(node.output):
        if name in kinds:
            node.output[index] = f"{name}.exact"
            nodes += _rounding(node.output[index], name, kinds[name])
    return nodes


def _rounding(name: str, result: str, kind: int) -> list[NodeProto]:
    return [
        helper.make_node("Cast", [name], [f"{result}.narrow"], to=kind),
        helper.make_node("Cast", [f"{result}.narrow"], [result], to=TensorProto.FLOAT),
    ]


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in HALVES:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
