"""Operator sets 13 to 25: each file is of the one asked for, and runs as PyTorch does; or the reason why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from resnet_infer.data.source import Memory
from resnet_infer.errors import UsageError
from resnet_infer.exporters.calibrate import Quantization
from resnet_infer.exporters.graphs import float_graph
from resnet_infer.exporters.opset import HIGHEST, LOWEST, lowered
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def checkpoint(small_net: ResNet) -> Checkpoint:
    """With padded shortcuts, whose operators have changed most."""
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=32, crop=32))
    return Checkpoint(name="net", manifest=manifest, state_dict=small_net.state_dict())


def opset_of(proto: onnx.ModelProto) -> list[int]:
    return [entry.version for entry in proto.opset_import]


@pytest.mark.parametrize("opset", range(LOWEST, HIGHEST + 1))
def test_every_operator_set_gives_pytorchs_scores(
    checkpoint: Checkpoint, small_net: ResNet, tmp_path: Path, opset: int
) -> None:
    head = "dense" if opset % 2 else "pooled"
    manifest = export_onnx(checkpoint, tmp_path / "net.onnx", head=head, opset=opset)  # type: ignore[arg-type]
    proto = onnx.load(tmp_path / "net.onnx")
    assert opset_of(proto) == [opset]
    assert manifest.parity["relative_diff"] < 1e-5
    x = torch.randn(3, 3, 35, 41, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = with_head(small_net, head)(x)  # type: ignore[arg-type]
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_oldest_serves_half_precision_int8_and_bytes(
    checkpoint: Checkpoint, tmp_path: Path, precision: str, picture: Callable[..., NDArray[np.uint8]]
) -> None:
    quantization = None
    if precision == "int8":
        source = Memory("pictures", [(str(seed), picture(32, 32, seed)) for seed in range(64)])
        quantization = Quantization(data=source, images=32, method="minmax")
    manifest = export_onnx(
        checkpoint,
        tmp_path / "net.onnx",
        precision=precision,  # type: ignore[arg-type]
        opset=LOWEST,
        quantization=quantization,
        input_format="uint8-nhwc",
    )
    proto = onnx.load(tmp_path / "net.onnx")
    assert LOWEST in opset_of(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert manifest.precision == precision


@pytest.mark.parametrize(
    ("precision", "opset", "says"),
    [
        ("fp32", 12, r"--opset must be 13 to 25, which ONNX Runtime can check; got 12"),
        ("fp32", 26, r"--opset must be 13 to 25, which ONNX Runtime can check; got 26"),
        ("bf16", 21, r"--opset 21: bf16 needs opset 22, the first in which a convolution takes bfloat16"),
        ("fp8", 18, r"fp8 needs"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    checkpoint: Checkpoint, tmp_path: Path, precision: Any, opset: int, says: str
) -> None:
    source = Memory("none", [])
    quantization = Quantization(data=source, arrangement="tensorrt") if precision == "fp8" else None
    with pytest.raises(UsageError, match=says):
        export_onnx(checkpoint, tmp_path / "net.onnx", precision=precision, opset=opset, quantization=quantization)
    assert list(tmp_path.iterdir()) == []


def test_bf16_in_a_later_set(checkpoint: Checkpoint) -> None:
    assert opset_of(float_graph(checkpoint, "pooled", "bf16", 24)) == [24]
    assert opset_of(float_graph(checkpoint, "pooled", "bf16")) == [22]


def test_a_shape_of_some_dimensions_is_sliced_and_an_operator_that_is_not_there_is_named() -> None:
    def graph(*nodes: onnx.NodeProto) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 5])
        sizes = helper.make_tensor_value_info(
            "y", (nodes[-1].op_type == "Shape" and TensorProto.INT64) or TensorProto.FLOAT, None
        )
        made = helper.make_graph(list(nodes), "g", [image], [sizes])
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    for start, end in ((1, 3), (-2, None), (0, -1)):
        said = {"start": start} | ({} if end is None else {"end": end})
        proto = lowered(graph(helper.make_node("Shape", ["x"], ["y"], **said)), 13)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (sizes,) = session.run(None, {"x": np.zeros((2, 3, 4, 5), np.float32)})
        assert sizes.tolist() == [2, 3, 4, 5][start:end]
    with pytest.raises(UsageError, match="--opset 13: has no Gelu"):
        lowered(graph(helper.make_node("Gelu", ["x"], ["y"])), 13)
