"""A small ONNX classifier, to be spoilt, and what is said of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_file import load_graph
from resnet_infer.errors import ResnetInferError
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.manifest import KEY, Manifest
from resnet_infer.spec.preprocessing import Preprocessing

FLAGS = Overrides(arch="resnet20", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
FLOAT = TensorProto.FLOAT
IMAGES = ["batch", 3, "height", "width"]
MANIFEST = Manifest(spec=spec_from_name("resnet20"), preprocessing=Preprocessing(resize=32, crop=32), head="pooled")
node = helper.make_node


def model(*more: NodeProto, image: Any = None, scores: Any = None, constants: Sequence[Any] = ()) -> onnx.ModelProto:
    """A small classifier with these nodes before its own; they read `input` and give `changed`."""
    nodes = [
        *more,
        node("GlobalAveragePool", ["changed" if more else "input"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    weight = numpy_helper.from_array(np.ones((3, 10), np.float32), "weight")
    graph = helper.make_graph(
        nodes,
        "small",
        [image or helper.make_tensor_value_info("input", FLOAT, IMAGES)],
        [scores or helper.make_tensor_value_info("logits", FLOAT, ["batch", 10])],
        [weight, *constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def image(*dims: Any, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info("input", kind, dims)


def called_resnet20(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a manifest, which spares it the comparison of its layers with that architecture's."""
    helper.set_model_props(proto, {KEY: MANIFEST.to_json()})
    return proto


def refused(proto: onnx.ModelProto, path: Path) -> str:
    """The one line with which the file is refused: when it is opened, with and without a manifest of ours."""
    said = set()
    for manifest in ("", MANIFEST.to_json()):
        helper.set_model_props(proto, {KEY: manifest} if manifest else {})
        path.write_bytes(proto.SerializeToString())
        for read in (load_graph, lambda path: open_model(str(path), device="cpu", overrides=FLAGS)):
            with pytest.raises(ResnetInferError) as caught:
                read(path)
            said.add(str(caught.value))
    (line,) = said
    assert line.startswith(f"{path}: ")
    assert len(line.removeprefix(str(path))) < 300
    return line
