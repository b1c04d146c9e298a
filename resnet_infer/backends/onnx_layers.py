"""What each layer of an ONNX graph computes in, read off its initializers and the Q/DQ nodes around it."""

import math
from collections.abc import Collection, Mapping

import onnx
from onnx import NodeProto, TensorProto

from resnet_infer.spec.precisions import Layer, Precision

NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8",
}
WEIGHTED: Mapping[str, int] = {
    "Conv": 1, "Gemm": 1, "MatMul": 1,
    "ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3,
}  # fmt: skip
"""Operators with weights, and which of their inputs those are."""
INTEGER = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm")
"""Those that compute in integers, whatever is around them."""
VIEWS = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that hand weights on as they are."""
CONVERSIONS = ("Cast", "QuantizeLinear", "DequantizeLinear")


def read_layers(proto: onnx.ModelProto) -> tuple[Layer, ...]:
    """Weighted layers and residual additions in the graph's order.

    A layer counts as quantised only if its weights and its input both come out of a DequantizeLinear, so that a runtime
    can fuse them; an addition only if each side does, or is a quantised layer's own output.
    """
    graph = _Graph(proto)
    layers: list[Layer] = []
    made: dict[str, str] = {}  # output of a weighted layer -> its type
    for node in proto.graph.node:
        if node.op_type in WEIGHTED and (weights := graph.weights(node.input[WEIGHTED[node.op_type]])) is not None:
            kind, parameters = weights
            if node.op_type in INTEGER:
                kind = "int8"
            elif kind in ("int8", "fp8") and graph.quantized(node.input[0]) != kind:
                kind = graph.float_type
            made[node.output[0]] = kind
            name = node.input[WEIGHTED[node.op_type]].removesuffix("_DequantizeLinear_Output")
            name = name.removesuffix(".weight").removeprefix("net.")
            layers.append(Layer(name=name, operator=node.op_type, type=kind, parameters=parameters))
        elif node.op_type == "Add" and not any(name in graph.initializers for name in node.input):
            sides = {graph.quantized(name) or made.get(name, graph.float_type) for name in node.input}
            kind = sides.pop() if len(sides) == 1 else graph.float_type
            layers.append(Layer(name=node.name or node.output[0], operator="Add", type=kind))
        elif node.op_type == "QLinearAdd":
            layers.append(Layer(name=node.name or node.output[0], operator="Add", type="int8"))
    return tuple(layers)


def constant_behind(name: str, constants: Collection[str], producers: Mapping[str, NodeProto]) -> bool:
    """Whether this value is a constant, maybe converted or seen in another shape."""
    while name not in constants:
        node = producers.get(name)
        if node is not None and node.op_type == "Constant":
            return True
        if node is None or not node.input or node.op_type not in (*VIEWS, *CONVERSIONS):
            return False
        name = node.input[0]
    return True


def file_precision(layers: tuple[Layer, ...]) -> Precision:
    """The type that most weights of a file are used in: for a file that makes no claim."""
    kinds: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
    return max(kinds, key=lambda kind: sum(layer.parameters for layer in layers if layer.type == kind))


class _Graph:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant":
                self.initializers.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        self.producers = {output: node for node in proto.graph.node for output in node.output}
        floats = [t.data_type for t in proto.graph.initializer if NAMES.get(t.data_type) in ("fp32", "fp16", "bf16")]
        self.float_type = NAMES[max(set(floats), key=floats.count)] if floats else "fp32"

    def weights(self, name: str) -> tuple[str, int] | None:
        """Type and number of the weights behind this name; None if it is no constant."""
        kind = ""  # as the last conversion before the layer leaves it
        while name not in self.initializers:
            node = self.producers.get(name)
            if node is None or not node.input:
                return None
            if node.op_type == "Cast":
                kind = kind or NAMES.get(_attribute(node, "to"), "other")
            elif node.op_type == "QuantizeLinear":
                kind = kind or self._zero_point_type(node)
            elif node.op_type not in VIEWS and node.op_type != "DequantizeLinear":
                return None
            name = node.input[0]
        tensor = self.initializers[name]
        return kind or NAMES.get(tensor.data_type, "other"), math.prod(tensor.dims)

    def quantized(self, name: str) -> str:
        """int8 or fp8 if this tensor comes out of a DequantizeLinear, maybe through a layout change; else empty."""
        while (node := self.producers.get(name)) and node.op_type in VIEWS:
            name = node.input[0]
        return self._zero_point_type(node) if node and node.op_type == "DequantizeLinear" else ""

    def _zero_point_type(self, node: NodeProto) -> str:
        if len(node.input) < 3 or node.input[2] not in self.initializers:
            return "int8"
        return NAMES.get(self.initializers[node.input[2]].data_type, "other")


def _attribute(node: NodeProto, name: str) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == name)
