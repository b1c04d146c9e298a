"""Another ONNX operator set than the exporter's own: which one a precision needs, and older ones by rewriting.

torch.onnx (dynamo) writes opset 18 and later; asked for an older one, it leaves 18 with a warning. What has changed
since 13, of the operators that a ResNet's graph has: ReduceMean's axes were an attribute until 18, Shape took no start
and end until 15, and Reshape no `allowzero` until 14. Source: onnx/docs/Changelog.md.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from resnet_infer.errors import UsageError
from resnet_infer.spec.precisions import Precision

LOWEST, HIGHEST = 13, 25
EXPORTED = 18
"""The lowest that torch.onnx writes."""
NEEDED: Mapping[Precision, tuple[int, str]] = {
    "bf16": (22, "the first in which a convolution takes bfloat16"),
    "fp8": (19, "the first with 8-bit floats"),
}


def opset_for(precision: Precision, wanted: int | None) -> int:
    """The operator set to write; raises UsageError for one that cannot be, with the reason."""
    least, reason = NEEDED.get(precision, (LOWEST, "the first with a scale for every channel"))
    if wanted is None:
        return max(least, EXPORTED)
    if not LOWEST <= wanted <= HIGHEST:
        raise UsageError(f"--opset must be {LOWEST} to {HIGHEST}, which ONNX Runtime can check; got {wanted}")
    if wanted < least:
        raise UsageError(f"--opset {wanted}: {precision} needs opset {least}, {reason}")
    return wanted


def lowered(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The graph, changed in place, in an older operator set of 13 or more.

    Raises UsageError, naming the operator, for what that set does not have.
    """
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "ReduceMean" and opset < 18 and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            del node.input[1]
            node.attribute.append(helper.make_attribute("axes", axes))
            _drop(node, "noop_with_empty_axes")
        if node.op_type == "Reshape" and opset < 14:
            _drop(node, "allowzero")
        nodes += _shape(node, graph) if node.op_type == "Shape" and opset < 15 else [node]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in graph.node for name in node.input}
    for name, tensor in constants.items():
        if name not in read:
            graph.initializer.remove(tensor)
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    for node in graph.node:
        _check(node, opset)
    return proto


def _shape(node: NodeProto, graph: onnx.GraphProto) -> list[NodeProto]:
    """A Shape of some dimensions, as all of them and a Slice."""
    said = {attribute.name: attribute.i for attribute in node.attribute}
    if not said:
        return [node]
    result, ends = node.output[0], (said.get("start", 0), said.get("end", np.iinfo(np.int64).max))
    names = [f"{result}.{name}" for name in ("start", "end")]
    graph.initializer.extend(
        numpy_helper.from_array(np.array([end], np.int64), name) for end, name in zip(ends, names, strict=True)
    )
    del node.attribute[:]
    node.output[0] = f"{result}.all"
    return [node, helper.make_node("Slice", [node.output[0], *names], [result], name=f"{node.name}.slice")]


def _drop(node: NodeProto, name: str) -> None:
    """Take an attribute away whose default an older set has."""
    for attribute in [a for a in node.attribute if a.name == name and a.i == 0]:
        node.attribute.remove(attribute)


def _check(node: NodeProto, opset: int) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        raise UsageError(
            f"--opset {opset}: has no {node.op_type}, which this network needs; choose a later one"
        ) from None
    unknown = {attribute.name for attribute in node.attribute} - set(schema.attributes)
    if unknown or len(node.input) > schema.max_input:
        raise UsageError(
            f"--opset {opset}: its {node.op_type} is not the one that this network needs; choose {EXPORTED} or later"
        )
