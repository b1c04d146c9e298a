"""ONNX graphs of a network: in float, and with what is put around them.

Input `input` (batch, channels, height, width), all dynamic but channels; output `logits`, (batch, classes) for the
pooled head and a map (batch, classes, h, w) for the dense one. Exporter: torch.onnx (dynamo), on a network whose batch
norms are folded.
"""

import contextlib
import copy
import io
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from resnet_infer.backends.base import Normalize
from resnet_infer.exporters.opset import EXPORTED, lowered, opset_for
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.fold import fold_batch_norm
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import build
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import InputFormat, Preprocessing

DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PREPROCESS = "preprocess."
"""How names of nodes begin that come before the network: they compute in fp32 whatever its type."""


def float_graph(checkpoint: Checkpoint, head: Head, precision: Precision, opset: int | None = None) -> onnx.ModelProto:
    """The network with weights and activations in fp32, fp16 or bf16.

    Batch norm is folded in fp32, then the weights are cast. Input and output are of the same type, but float32 for
    bf16, which numpy and most clients do not have. Raises UsageError for an operator set that cannot be.
    """
    wanted = opset_for(precision, opset)
    spec = checkpoint.manifest.spec
    folded = fold_batch_norm(build(spec, dict(checkpoint.state_dict)))
    net = with_head(folded, head).to(DTYPES[precision]).eval()
    side, fixed = spec.native_size, spec.multiple_of > 1  # only its own size is sure to fit such a network
    if fixed:
        side = checkpoint.manifest.preprocessing.crop
    shape = (2, spec.channels, side, side if fixed else side + 2)  # no two equal: none is taken for constant
    x_BCHW = torch.zeros(shape, dtype=DTYPES[precision])
    with _silence():
        program = torch.onnx.export(
            net,
            (x_BCHW,),
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"} if fixed else {0: "batch", 2: "height", 3: "width"},),
            opset_version=max(wanted, EXPORTED),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    _strip(proto)
    _fold_views(proto)
    proto.graph.name = spec.name
    if precision == "bf16":
        _cast_ends(proto)
    return lowered(proto, wanted) if wanted < EXPORTED else proto


def with_preprocessing(proto: onnx.ModelProto, preprocessing: Preprocessing, layout: InputFormat) -> None:
    """Put cast, channels, scale and normalisation into the graph, in place: `input` becomes the image's own bytes.

    uint8 RGB, (batch, 3, height, width) or (batch, height, width, 3), whatever channels the network takes. Computed in
    fp32 whatever the graph's type, by the same operations as outside (`Normalize`).
    """
    graph = proto.graph
    (image,) = graph.input
    kind = image.type.tensor_type.elem_type
    for node in graph.node:
        node.input[:] = ["normalized" if name == "input" else name for name in node.input]
    normalize = Normalize(preprocessing, "cpu")
    last = "normalized" if kind == TensorProto.FLOAT else "shifted"
    nodes: list[NodeProto] = []

    def then(operator: str, output: str, *constants: NDArray[Any], name: str, **attributes: Any) -> None:
        """Append an operator on what the last one gave, and on constants."""
        named = [f"{PREPROCESS}{name}.{place}" for place in range(len(constants))]
        graph.initializer.extend(map(numpy_helper.from_array, constants, named))
        inputs = [nodes[-1].output[0] if nodes else "input", *named]
        nodes.append(helper.make_node(operator, inputs, [output], name=f"{PREPROCESS}{name}", **attributes))

    then("Cast", "bytes", name="cast", to=TensorProto.FLOAT)
    if layout == "uint8-nhwc":
        then("Transpose", "planes", name="transpose", perm=[0, 3, 1, 2])
    if normalize.reversed:
        then("Gather", "reversed", np.array([2, 1, 0]), name="reverse", axis=1)
    if normalize.luma is not None:
        then("Mul", "weighted", normalize.luma.numpy(), name="weigh")
        then("ReduceSum", "luma", np.array([1]), name="luma", keepdims=1)
        then("Add", "up", np.array(0.5, np.float32), name="half")
        then("Floor", "grey", name="floor")
    if normalize.channels == 4:
        alpha = np.array([0, 0, 0, 0, 0, 1, 0, 0])  # one more channel behind the others
        then("Pad", "opaque", alpha, np.array(255, np.float32), name="alpha")
    then("Mul", "scaled", normalize.scale.numpy(), name="mul")
    then("Add", last, normalize.shift.numpy(), name="add")
    if kind != TensorProto.FLOAT:
        then("Cast", "normalized", name="narrow", to=kind)
    _prepend(graph, nodes)
    shape: list[str | int] = ["batch", 3, "height", "width"]
    if layout == "uint8-nhwc":
        shape = ["batch", "height", "width", 3]
    image.CopyFrom(helper.make_tensor_value_info("input", TensorProto.UINT8, shape))


def _cast_ends(proto: onnx.ModelProto) -> None:
    """float32 at both ends of a bf16 graph."""
    graph = proto.graph
    for node in graph.node:
        node.input[:] = ["input.bf16" if name == "input" else name for name in node.input]
        node.output[:] = ["logits.bf16" if name == "logits" else name for name in node.output]
    for end in (graph.input[0], graph.output[0]):
        end.type.tensor_type.elem_type = TensorProto.FLOAT
    _prepend(graph, [helper.make_node("Cast", ["input"], ["input.bf16"], to=TensorProto.BFLOAT16, name="narrow")])
    graph.node.append(helper.make_node("Cast", ["logits.bf16"], ["logits"], to=TensorProto.FLOAT, name="widen"))


def _fold_views(proto: onnx.ModelProto) -> None:
    """Give the dense head's classifier its 1x1 weights as a constant; the exporter leaves larger ones to run time."""
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Unsqueeze" and all(name in constants for name in node.input):
            weights, axes = (numpy_helper.to_array(constants[name]) for name in node.input)
            folded = numpy_helper.from_array(np.expand_dims(weights, tuple(int(a) for a in axes)), node.output[0])
            graph.initializer.append(folded)
            for name in node.input:
                if not any(name in other.input for other in graph.node if other is not node):
                    graph.initializer.remove(constants[name])
            graph.node.remove(node)
    classifier = next(node for node in graph.node if "logits" in node.output)
    for tensor in graph.initializer:
        if tensor.name == classifier.input[1]:
            tensor.name = classifier.input[1] = "net.fc.weight"
    for known in [known for known in graph.value_info if known.name == "net.fc.weight"]:
        graph.value_info.remove(known)  # it had another rank


def _strip(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes: source paths and stack traces of this machine, which no runtime reads."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def _prepend(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    _replace_nodes(graph, [*nodes, *graph.node])


def _replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    kept = [copy.deepcopy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress lines off stdout, which is for results."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
