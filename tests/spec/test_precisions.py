"""Claims of precision, true and false, on layers written by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import GateError, UsageError
from resnet_infer.spec.precisions import FLOAT_LAYERS, FloatLayer, Layer, Precision, check_claim, float_layers, summary

FILES: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")


def network(kind: str, stem: str | None = None, classifier: str | None = None) -> list[Layer]:
    """A stem, one residual block and a classifier, as they are read back from a graph."""
    return [
        Layer(name="conv1", operator="Conv", type=stem or kind, parameters=432),
        Layer(name="layer1.0.conv1", operator="Conv", type=kind, parameters=2304),
        Layer(name="layer1.0.conv2", operator="Conv", type=kind, parameters=2304),
        Layer(name="layer1.0.add", operator="Add", type=kind),
        Layer(name="fc", operator="Gemm", type=classifier or kind, parameters=640),
    ]


@pytest.mark.parametrize("claim", FILES)
@pytest.mark.parametrize("kept", [(), ("stem",), ("classifier",), FLOAT_LAYERS])
def test_a_true_claim_passes(claim: Precision, kept: tuple[FloatLayer, ...]) -> None:
    check_claim(claim, network(claim), kept, "net.onnx")


@pytest.mark.parametrize("claim", FILES)
@pytest.mark.parametrize("actual", FILES)
def test_any_other_type_is_a_false_claim(claim: Precision, actual: Precision) -> None:
    if claim == actual:
        check_claim(claim, network(actual), (), "net.onnx")
        return
    with pytest.raises(GateError, match=rf"net\.onnx: claims {claim}, but .*[(]conv1 is {actual}[,)]") as caught:
        check_claim(claim, network(actual), (), "net.onnx")
    assert caught.value.exit_code == 3


def test_an_fp16_that_is_fp32_exits_3_and_names_the_layers() -> None:
    with pytest.raises(GateError) as caught:
        check_claim("fp16", network("fp32"), (), "net.onnx")
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert message.startswith("net.onnx: claims fp16, but 4 of its 4 layers")
    assert "conv1 is fp32, layer1.0.conv1 is fp32, layer1.0.conv2 is fp32, ..." in message
    assert "fc is" not in message  # three are enough
    assert len(message.splitlines()) == 1


def test_one_layer_of_another_type_is_enough() -> None:
    layers = network("fp16", classifier="fp32")
    with pytest.raises(GateError, match=r"1 of its 4 layers.*\(fc is fp32\)"):
        check_claim("fp16", layers, (), "net.onnx")


def test_tf32_is_fp32_in_the_file() -> None:
    check_claim("tf32", network("fp32"), (), "net.engine")
    for other in ("fp16", "bf16", "int8", "tf32"):  # no file has layers of tf32
        with pytest.raises(GateError, match=f"claims tf32.*conv1 is {other}"):
            check_claim("tf32", network(other), (), "net.engine")


@pytest.mark.parametrize("claim", ["int8", "fp8"])
@pytest.mark.parametrize("kept_type", ["fp32", "fp16"])
def test_stem_and_classifier_may_stay_in_float_only_where_they_are_named(claim: Precision, kept_type: str) -> None:
    check_claim(claim, network(claim, stem=kept_type), ("stem",), "net")
    check_claim(claim, network(claim, classifier=kept_type), ("classifier",), "net")
    check_claim(claim, network(claim, stem=kept_type, classifier=kept_type), ("stem", "classifier"), "net")
    with pytest.raises(GateError, match=f"conv1 is {kept_type}"):
        check_claim(claim, network(claim, stem=kept_type), ("classifier",), "net")
    with pytest.raises(GateError, match=f"fc is {kept_type}"):
        check_claim(claim, network(claim, classifier=kept_type), ("stem",), "net")
    with pytest.raises(GateError, match=f"2 of its 5 layers.*conv1 is {kept_type}, fc is {kept_type}"):
        check_claim(claim, network(claim, stem=kept_type, classifier=kept_type), (), "net")


@pytest.mark.parametrize("claim", ["fp32", "fp16", "bf16"])
def test_nothing_is_excused_in_a_float_network(claim: Precision) -> None:
    other = "fp16" if claim == "fp32" else "fp32"
    with pytest.raises(GateError, match=f"conv1 is {other}, fc is {other}"):
        check_claim(claim, network(claim, stem=other, classifier=other), FLOAT_LAYERS, "net")


@pytest.mark.parametrize("claim", ["int8", "fp8"])
def test_a_residual_addition_in_float_fails_a_quantised_claim(claim: Precision) -> None:
    layers = [replace(layer, type="fp32") if layer.operator == "Add" else layer for layer in network(claim)]
    with pytest.raises(GateError, match=r"1 of its 5 layers.*layer1\.0\.add is fp32"):
        check_claim(claim, layers, (), "net")
    with pytest.raises(GateError, match=r"1 of its 3 layers.*layer1\.0\.add is fp32"):
        check_claim(claim, layers, FLOAT_LAYERS, "net")


def test_a_network_without_weights_proves_nothing() -> None:
    for layers in ([], [Layer(name="add", operator="Add", type="fp16")]):
        with pytest.raises(GateError, match="no layer with weights"):
            check_claim("fp16", layers, (), "net")


@given(
    st.sampled_from(FILES),
    st.lists(st.booleans(), min_size=3, max_size=12),
    st.sampled_from([(), ("stem",), ("classifier",), FLOAT_LAYERS]),
    st.data(),
)
def test_one_changed_layer_is_noticed_unless_it_is_excused(
    claim: Precision, weighted: list[bool], kept: tuple[FloatLayer, ...], data: st.DataObject
) -> None:
    """The first and last layer have weights, as in any ResNet; those between may be additions."""
    has_weights = [True, *weighted, True]
    layers = [
        Layer(name=f"l{i}", operator="Conv" if w else "Add", type=claim, parameters=9 if w else 0)
        for i, w in enumerate(has_weights)
    ]
    check_claim(claim, layers, kept, "net")
    at = data.draw(st.integers(0, len(layers) - 1))
    layers[at] = replace(layers[at], type=data.draw(st.sampled_from([kind for kind in FILES if kind != claim])))
    quantised = claim in ("int8", "fp8")
    excused = (quantised and "stem" in kept and at == 0) or (
        quantised and "classifier" in kept and at == len(layers) - 1
    )
    float_addition = not quantised and not has_weights[at]  # which has no type of its own to claim
    if excused or float_addition:
        check_claim(claim, layers, kept, "net")
    else:
        with pytest.raises(GateError, match=rf"\(l{at} is {layers[at].type}\)"):
            check_claim(claim, layers, kept, "net")


def test_the_summary_counts_by_operator_and_type_in_order_of_appearance() -> None:
    layers = network("int8", classifier="fp32")
    assert summary(layers) == [
        {"operator": "Conv", "type": "int8", "layers": 3, "parameters": 432 + 2304 + 2304},
        {"operator": "Add", "type": "int8", "layers": 1, "parameters": 0},
        {"operator": "Gemm", "type": "fp32", "layers": 1, "parameters": 640},
    ]
    assert summary(layers[::-1])[0] == {"operator": "Gemm", "type": "fp32", "layers": 1, "parameters": 640}
    assert summary([]) == []


@given(st.lists(st.tuples(st.sampled_from(["Conv", "Gemm", "Add"]), st.sampled_from(FILES), st.integers(0, 99))))
def test_the_summary_loses_no_layer_and_no_parameter(drawn: list[tuple[str, str, int]]) -> None:
    rows = summary([Layer(name="", operator=o, type=kind, parameters=n) for o, kind, n in drawn])
    assert sum(row["layers"] for row in rows) == len(drawn)
    assert sum(row["parameters"] for row in rows) == sum(n for _, _, n in drawn)
    assert {(row["operator"], row["type"]) for row in rows} == {(o, kind) for o, kind, _ in drawn}
    assert len(rows) == len({(o, kind) for o, kind, _ in drawn})


@pytest.mark.parametrize(("text", "expected"), [
    ("none", ()), ("stem", ("stem",)), ("classifier", ("classifier",)),
    ("stem,classifier", ("stem", "classifier")), ("classifier,stem", ("stem", "classifier")),
])  # fmt: skip
def test_layers_to_keep_in_float_are_read_by_name(text: str, expected: tuple[str, ...]) -> None:
    assert float_layers(text) == expected


@pytest.mark.parametrize(
    "text", ["", "all", "Stem", "stem,", "none,stem", "stem, classifier", "conv1", "stem;classifier"]
)
def test_any_other_layer_to_keep_in_float_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--keep-float '.*' is not none, stem, classifier or stem,classifier"):
        float_layers(text)
