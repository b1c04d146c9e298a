"""Kernel types read from inspector output in the words of TensorRT's developer guide."""

import json

import pytest

from resnet_infer.backends.engine_inspector import check_kernels, kernel_types
from resnet_infer.errors import GateError


def layer(name: str, layer_type: str, *formats: str) -> dict[str, object]:
    """A layer as IEngineInspector writes it at detailed verbosity."""
    return {
        "Name": name,
        "LayerType": layer_type,
        "Inputs": [
            {"Name": f"in{i}", "Dimensions": [1, 64, 8, 8], "Format/Datatype": f} for i, f in enumerate(formats)
        ],
        "Outputs": [{"Name": "out", "Dimensions": [1, 64, 8, 8], "Format/Datatype": "Row major linear FP32"}],
    }


def engine(*layers: object) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["input", "logits"]})


@pytest.mark.parametrize(("words", "kind"), [
    ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
    ("Row major linear FP32", "fp32"),
    ("Float((768,1:4,24,8))", "fp32"),
    ("Row major linear FP16 format", "fp16"),
    ("Channel major FP16 format where channel % 4 == 0", "fp16"),
    ("Half(64,1:8,8,8)", "fp16"),
    ("Row major linear BFloat16 format", "bf16"),
    ("BF16", "bf16"),
    ("Row major linear FP8 format", "fp8"),
    ("E4M3", "fp8"),
])  # fmt: skip
def test_a_convolution_is_counted_by_the_type_of_its_first_input(words: str, kind: str) -> None:
    information = engine(layer("/layer1/conv1", "CaskConvolution", words, "Row major linear FP64"))
    assert kernel_types(information) == {kind: 1}


def test_only_convolutions_are_counted_by_their_kind_or_by_the_name_of_what_they_fuse() -> None:
    half, single = "Half", "Float"
    information = engine(
        layer("stem", "CaskConvolution", half),
        layer("stem 2", "CaskGemmConvolution", half),
        layer("/layer1/Conv + /relu/Relu", "kgen", half, single),
        layer("/layer2/Conv", "CaskConvolution", single),
        layer("pool", "CaskPooling", single),
        layer("fc", "MatrixMultiply", single),
        layer("PWN(/relu/Relu)", "PointWise", single),
    )
    assert kernel_types(information) == {"fp16": 3, "fp32": 1}


def test_a_convolution_of_no_known_type_is_not_counted() -> None:
    information = engine(
        layer("conv", "CaskConvolution", "N/A due to dynamic shapes"),
        layer("conv", "CaskConvolution"),
        {"Name": "conv", "LayerType": "CaskConvolution"},
        {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Name": "in0"}]},
        {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": ["in0"]},
        layer("conv", "CaskConvolution", "Int8"),
    )
    assert kernel_types(information) == {"int8": 1}


@pytest.mark.parametrize("information", [
    "", "null", "[]", "{}", "{", '{"Bindings": []}', engine(), engine("/layer1/Conv + /relu/Relu", "fc"), "\x00",
])  # fmt: skip
def test_an_engine_that_gives_no_detail_gives_no_types(information: str) -> None:
    """As one built with names only, whose layers are strings, or with no verbosity at all."""
    assert kernel_types(information) == {}


def test_kernels_of_the_claimed_type_pass() -> None:
    check_kernels("fp16", {"fp16": 20}, "net.engine")
    check_kernels("tf32", {"fp32": 20}, "net.engine")  # a way to run fp32, no type of its own
    check_kernels("int8", {"int8": 19, "fp32": 1}, "net.engine")  # its stem, which reads the image
    check_kernels("int8", {"int8": 1, "fp32": 1}, "net.engine")
    check_kernels("fp16", {}, "net.engine")  # nothing was inspected


@pytest.mark.parametrize(("claim", "kernels"), [
    ("fp16", {"fp32": 20}), ("fp16", {"fp32": 11, "fp16": 10}), ("fp32", {"fp16": 20}),
    ("tf32", {"fp32": 1, "fp16": 2}), ("int8", {"fp16": 19, "int8": 1}), ("bf16", {"fp16": 3}), ("fp8", {"int8": 3}),
])  # fmt: skip
def test_mostly_other_kernels_are_a_false_claim(claim: str, kernels: dict[str, int]) -> None:
    with pytest.raises(GateError, match=rf"net\.engine: claims {claim}") as caught:
        check_kernels(claim, kernels, "net.engine")  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert all(f"{count} in {kind}" in str(caught.value) for kind, count in kernels.items())
