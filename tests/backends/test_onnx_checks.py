"""ONNX graphs from elsewhere: what no classifier has is refused in one line, before a runtime allocates for it."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import NodeProto, TensorProto, helper, numpy_helper
from small_graphs import FLAGS, FLOAT, IMAGES, called_resnet20, image, ints, model, node, refused

from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_file import load_graph


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.filterwarnings("ignore")
def test_torchvisions_networks_pass(tmp_path: Path, dynamo: bool) -> None:
    path = str(tmp_path / "net.onnx")
    sizes: dict[str, Any] = (
        {"dynamic_shapes": ({0: torch.export.Dim("b")},)}
        if dynamo
        else {"dynamic_axes": {"x": {0: "b", 2: "h", 3: "w"}}, "input_names": ["x"]}
    )
    net = torchvision.models.resnet18(num_classes=3).eval()
    torch.onnx.export(net, (torch.zeros(2, 3, 224, 224),), path, dynamo=dynamo, verbose=False, **sizes)
    load_graph(Path(path))


def test_the_small_classifier_passes(tmp_path: Path) -> None:
    onnx.save(called_resnet20(model(node("Relu", ["input"], ["changed"]))), tmp_path / "net.onnx")
    opened = open_model(str(tmp_path / "net.onnx"), device="cpu", overrides=FLAGS)
    assert opened.backend.run(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "pooled").shape == (2, 10, 1, 1)


def branch(name: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(name, FLOAT, IMAGES)
    return helper.make_graph([node("Identity", ["input"], [name])], name, [], [value])


FORBIDDEN = {
    "Loop": node("Loop", ["", "yes"], ["changed"], name="forever", body=branch("a")),
    "If": node("If", ["yes"], ["changed"], name="forever", then_branch=branch("a"), else_branch=branch("b")),
    "Scan": node("Scan", ["input"], ["changed"], name="forever", body=branch("a"), num_scan_inputs=1),
    "evil.Relu": node("Relu", ["input"], ["changed"], name="forever", domain="evil"),
    "com.microsoft.EPContext": node("EPContext", ["input"], ["changed"], name="forever", domain="com.microsoft"),
    "Tile": node("Tile", ["input", "sizes"], ["changed"], name="forever"),
    "RandomUniformLike": node("RandomUniformLike", ["input"], ["changed"], name="forever"),
    "Relu": node("Relu", ["input"], ["changed"], name="forever", body=branch("a")),
}


@pytest.mark.parametrize("operator", FORBIDDEN)
def test_operators_that_no_classifier_has_are_named(tmp_path: Path, operator: str) -> None:
    yes = numpy_helper.from_array(np.array(True), "yes")
    proto = model(FORBIDDEN[operator], constants=[yes, ints("sizes", 1, 1, 9, 9)])
    proto.opset_import.append(helper.make_opsetid("evil", 1))
    assert f"{operator} 'forever': " in refused(proto, tmp_path / "net.onnx")


def test_functions_are_refused(tmp_path: Path) -> None:
    proto = model(node("Relu", ["input"], ["changed"], domain="mine"))
    relu = node("Relu", ["x"], ["y"])
    proto.functions.append(helper.make_function("mine", "Relu", ["x"], ["y"], [relu], [helper.make_opsetid("", 18)]))
    assert "functions" in refused(proto, tmp_path / "net.onnx")


def doubled(times: int) -> list[NodeProto]:
    names = ["input", *(f"d{i}" for i in range(times - 1)), "changed"]
    return [node("Concat", [a, a], [b], axis=2) for a, b in itertools.pairwise(names)]


VAST = {
    "ConstantOfShape": [node("ConstantOfShape", ["vast"], ["c"]), node("Add", ["input", "c"], ["changed"])],
    "Pad": [node("Pad", ["input", "edges"], ["changed"])],
    "Concat": doubled(40),
    "MatMul": [
        node("Reshape", ["input", "column"], ["long"]),
        node("Transpose", ["long"], ["row"], perm=[1, 0]),
        node("MatMul", ["long", "row"], ["square"]),
        node("Unsqueeze", ["square", "axes"], ["changed"]),
    ],
    "Gather": [node("Gather", ["input", "many"], ["changed"], axis=2)],
}


@pytest.mark.parametrize("operator", VAST)
def test_a_small_graph_of_a_vast_tensor_is_refused(tmp_path: Path, operator: str) -> None:
    constants = [
        ints("vast", 1, 1, 10**7, 10**7),
        ints("edges", 0, 0, 0, 0, 0, 0, 10**7, 10**7),
        ints("column", -1, 1),
        ints("axes", 0, 1),
        numpy_helper.from_array(np.zeros((4000, 4000), np.int64)[:, :1000], "many"),
    ]
    chosen = constants if operator == "Gather" else constants[:4]
    line = refused(model(*VAST[operator], constants=chosen), tmp_path / "net.onnx")
    assert f"{operator} '" in line
    assert "values, which no classifier does" in line


def test_sizes_that_only_the_pixels_tell_are_refused(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMean", ["input"], ["mean"], keepdims=0),
        node("Cast", ["mean"], ["number"], to=TensorProto.INT64),
        node("Reshape", ["number", "one"], ["size"]),
        node("ConstantOfShape", ["size"], ["c"]),
        node("Add", ["input", "c"], ["changed"]),
    ]
    line = refused(model(*nodes, constants=[ints("one", 1)]), tmp_path / "net.onnx")
    assert "ConstantOfShape 'c': how large its output is cannot be told" in line


def two_inputs() -> onnx.ModelProto:
    proto = model()
    proto.graph.input.append(helper.make_tensor_value_info("other", FLOAT, IMAGES))
    return proto


def no_output() -> onnx.ModelProto:
    proto = model()
    del proto.graph.output[:]
    return proto


def circle() -> onnx.ModelProto:
    return model(node("Identity", ["changed"], ["a"]), node("Identity", ["a"], ["changed"]))


ENDS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "two inputs": (two_inputs, "has 2 inputs"),
    "no output": (no_output, "has no output"),
    "an output of no shape": (lambda: model(scores=helper.make_tensor_value_info("logits", FLOAT, None)), "no sizes"),
    "an output of no rank": (lambda: model(scores=helper.make_tensor_value_info("logits", FLOAT, [])), "no sizes"),
    "no classes": (lambda: model(scores=helper.make_tensor_value_info("logits", FLOAT, [1, 0])), "a size below 1"),
    "ten million": (lambda: model(image=image(10**7, 3, 32, 32)), "batches of 10000000 images of 32x32"),
    "a vast image": (lambda: model(image=image("b", 3, 10**9, 10**9)), "1000000000x1000000000"),
    "2^63": (lambda: model(image=image(2**63 - 1, 3, 2**63 - 1, 2**63 - 1)), "export it with a free batch"),
    "zero": (lambda: model(image=image(0, 3, 32, 32)), "a size of 0"),
    "negative": (lambda: model(image=image("b", 3, -32, 32)), "a size of -32"),
    "grey": (lambda: model(image=image("b", 2, 32, 32)), "has 2 channels"),
    "text": (lambda: model(image=image(*IMAGES, kind=TensorProto.STRING)), "no batch of images"),
    "int64": (lambda: model(image=image(*IMAGES, kind=TensorProto.INT64)), "no batch of images"),
    "a vector": (lambda: model(image=image("b")), "no batch of images"),
    "a circle": (circle, "no valid ONNX graph"),
    "no weights": (lambda: model(node("Conv", ["input"], ["changed"])), "no valid ONNX graph"),
    "out of nothing": (lambda: model(node("Relu", ["absent"], ["changed"])), "no valid ONNX graph"),
    "Cast to nothing": (lambda: model(node("Cast", ["input"], ["changed"])), "no valid ONNX graph"),
}


@pytest.mark.parametrize("name", ENDS)
def test_inputs_and_outputs_that_no_classifier_has(tmp_path: Path, name: str) -> None:
    make, says = ENDS[name]
    assert says in refused(make(), tmp_path / "net.onnx")


def test_a_long_chain_of_views_is_read(tmp_path: Path) -> None:
    """Layers are read by going back through views; ten thousand are no recursion."""
    names = ["weight", *(f"v{i}" for i in range(10_000))]
    proto = model()
    views = [node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    proto.graph.node[2].input[1] = names[-1]
    rest = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*views, *rest])
    onnx.save(called_resnet20(proto), tmp_path / "net.onnx")
    assert open_model(str(tmp_path / "net.onnx"), device="cpu", overrides=FLAGS).manifest.precision == "fp32"


def test_info_says_it_in_one_line(tmp_path: Path) -> None:
    onnx.save(two_inputs(), tmp_path / "net.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "resnet_infer", "info", "net.onnx"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("resnet-infer: error: net.onnx: has 2 inputs; a classifier takes one, a batch of images\n")
