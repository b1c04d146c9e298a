"""fp16 and bf16 on a CPU: rounded and overflowing as the hardware does, which onnxruntime's CPU kernels do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnet_infer.backends.load import Model
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.source import Memory
from resnet_infer.errors import BackendError, GateError
from resnet_infer.exporters.emulation import emulated
from resnet_infer.exporters.gate import Gate, run_gate
from resnet_infer.exporters.graphs import float_graph
from resnet_infer.exporters.parity import checking_backend
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.fold import fold_batch_norm
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import single_crop

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
PREPROCESSING = Preprocessing(resize=32, crop=32)


def checkpoint_of(net: ResNet, factor: float = 1.0) -> Checkpoint:
    """The network with its stem's activations, and all behind them, larger by a factor, and its scores as before."""
    state = {key: value.clone() for key, value in net.state_dict().items()}
    for name in state:
        if name.startswith("bn1.") or (name.startswith("layer") and ".bn2." in name):
            if name.endswith((".weight", ".bias")):
                state[name] *= factor
        elif name.startswith("layer") and name.endswith("bn1.running_mean"):
            state[name] *= factor
        elif name.startswith("layer") and name.endswith("bn1.running_var"):
            state[name] *= factor**2
    state["fc.weight"] /= factor
    return Checkpoint(name="net", manifest=Manifest(spec=net.spec, preprocessing=PREPROCESSING), state_dict=state)


def in_half(checkpoint: Checkpoint, x: torch.Tensor, precision: str) -> torch.Tensor:
    """The folded network in half precision on PyTorch, which is what the graph says."""
    dtype = DTYPES[precision]
    net = fold_batch_norm(build(checkpoint.manifest.spec, dict(checkpoint.state_dict))).eval()
    with torch.inference_mode():
        scores: torch.Tensor = with_head(net, "pooled").to(dtype)(x.to(dtype)).float()
    return scores


def session(proto: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def projected(random_net: Callable[..., ResNet]) -> ResNet:
    """With projections: padded shortcuts have fp16 kernels, by which onnxruntime overflows too."""
    return random_net("resnet20-B")


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_healthy_network_gives_pytorchs_half_precision_and_not_fp32(
    projected: ResNet, x: torch.Tensor, precision: str
) -> None:
    checkpoint = checkpoint_of(projected)
    proto = emulated(float_graph(checkpoint, "pooled", precision))  # type: ignore[arg-type]
    (scores,) = session(proto).run(None, {"input": x.numpy()})
    expected = in_half(checkpoint, x, precision).numpy()
    with torch.inference_mode():
        exact = projected(x).numpy()
    assert np.abs(scores - expected).mean() < np.abs(scores - exact).mean()
    assert 0 < np.abs(scores - exact).max() < 0.1 * np.abs(exact).max()


def test_an_overflow_that_only_fp16_has_is_seen_by_the_emulation_and_not_by_the_runtime(
    projected: ResNet, x: torch.Tensor
) -> None:
    checkpoint = checkpoint_of(projected, 2.0**13)
    reference = TorchBackend(checkpoint, "cpu", fold=False)
    x_BCHW = (x * 40 + 128).clamp(0, 255).to(torch.uint8)
    assert torch.isfinite(reference.run(x_BCHW, "pooled")).all()
    assert not torch.isfinite(in_half(checkpoint, x, "fp16")).all()
    proto = float_graph(checkpoint, "pooled", "fp16")
    (plainly,) = session(proto).run(None, {"input": x.half().numpy()})
    (rounded,) = session(emulated(proto)).run(None, {"input": x.numpy()})
    assert np.isfinite(plainly).all()
    assert not np.isfinite(rounded).all()


def test_an_export_that_overflows_is_not_written_and_bf16_is(projected: ResNet, tmp_path: Path) -> None:
    checkpoint, path = checkpoint_of(projected, 2.0**13), tmp_path / "net.onnx"
    with pytest.raises(GateError) as caught:
        export_onnx(checkpoint, path, precision="fp16")
    assert str(caught.value) == (
        f"{path}: not written: overflows in fp16, whose largest number is 65504: scores are no numbers where PyTorch "
        "gives numbers in fp32; export with --precision bf16 or fp32"
    )
    assert not path.exists()
    assert export_onnx(checkpoint, path, precision="bf16").parity["relative_diff"] < 0.15
    assert export_onnx(checkpoint_of(projected), path, precision="fp16").parity["relative_diff"] < 0.02


def test_the_gate_sees_it_too(projected: ResNet, tmp_path: Path, picture: Callable[..., NDArray[np.uint8]]) -> None:
    """Of a file that was made elsewhere, say."""
    checkpoint, path = checkpoint_of(projected, 2.0**13), tmp_path / "net.onnx"
    onnx.save(float_graph(checkpoint, "pooled", "fp16"), path)
    manifest = Manifest(spec=projected.spec, preprocessing=PREPROCESSING, head="pooled", precision="fp16")
    reference = Model(name="net", manifest=checkpoint.manifest, backend=TorchBackend(checkpoint, "cpu"))
    gate = Gate(data=Memory("one", [("0", picture(32, 32))]), protocol=single_crop(32, 32))
    with checking_backend(path, manifest, "cpu") as backend, pytest.raises(BackendError, match="fp16 overflows"):
        run_gate(gate, reference, Model(name="x", manifest=manifest, backend=backend), path)


def test_damaged_weights_are_not_called_an_overflow_of_the_export(projected: ResNet, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(projected)
    checkpoint.state_dict["fc.weight"][0, 0] = torch.inf  # type: ignore[index]
    with pytest.raises(GateError, match="PyTorch itself gives scores that are no numbers"):
        export_onnx(checkpoint, tmp_path / "net.onnx", precision="fp16")


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["fp16", "bf16"])
def test_every_computing_operator_rounds_and_the_optimiser_leaves_that(kind: int) -> None:
    """Of a long mixed graph: each value that is computed is one of the type, by NumPy's or PyTorch's own rounding."""
    one_third = numpy_helper.from_array(np.array([1 / 3], np.float32), "third")
    nodes = [
        helper.make_node("Cast", ["input"], ["small"], to=kind),
        helper.make_node("Cast", ["third"], ["small_third"], to=kind),
        helper.make_node("Mul", ["small", "small_third"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("Add", ["positive", "small_third"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["sigmoid"]),
        helper.make_node("GlobalAveragePool", ["sigmoid"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["scores"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [one_third],
    )
    proto = emulated(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10))
    watched = ["small", "product", "sum", "sigmoid", "mean"]
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 5
    dtype = torch.float16 if kind == TensorProto.FLOAT16 else torch.bfloat16
    small, third = x.to(dtype), torch.tensor(1 / 3).to(dtype)
    expected = {"small": small, "product": small * third}
    expected["sum"] = expected["product"].relu() + third
    expected["sigmoid"] = expected["sum"].float().sigmoid().to(dtype)
    found = dict(zip(watched, session(proto).run(watched, {"input": x.numpy()}), strict=True))
    for name, values in found.items():
        values = torch.from_numpy(values)
        assert torch.equal(values, values.to(dtype).float()), name
        if name in expected:
            torch.testing.assert_close(values, expected[name].float(), rtol=1e-3, atol=1e-4)
