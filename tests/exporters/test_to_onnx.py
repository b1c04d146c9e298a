"""Exported files: valid, self-describing, equal to PyTorch, and not there at all when they are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_file import stored_manifest
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.data.open import open_source
from resnet_infer.errors import DataError, GateError, UsageError
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint, Overrides
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import build
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

LABELS = Labels(names=tuple("abcdefghij"))


def random_checkpoint(name: str = "resnet20") -> Checkpoint:
    torch.manual_seed(3)
    spec = spec_from_name(name)
    size = spec.native_size
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3), resize=size, crop=size)
    labels = LABELS if spec.classes == 10 else None
    return Checkpoint(
        name=name,
        manifest=Manifest(spec=spec, preprocessing=preprocessing, labels=labels),
        state_dict=build(spec).state_dict(),
    )


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint()


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("onnx")
    paths = {}
    for head in ("pooled", "dense"):
        for precision in ("fp32", "fp16"):
            paths[head, precision] = folder / f"{head}.{precision}.onnx"
            export_onnx(checkpoint, paths[head, precision], head=head, precision=precision)  # type: ignore[arg-type]
    return paths


@pytest.mark.parametrize("shape", [(1, 32, 32), (5, 32, 32), (2, 41, 53), (1, 64, 37)])
@pytest.mark.parametrize(("head", "precision", "tolerance"), [
    ("pooled", "fp32", 1e-5), ("dense", "fp32", 1e-5), ("pooled", "fp16", 1e-2), ("dense", "fp16", 1e-2),
])  # fmt: skip
def test_plain_onnxruntime_gives_the_modules_scores(
    exported: dict[tuple[str, str], Path],
    checkpoint: Checkpoint,
    head: str,
    precision: str,
    tolerance: float,
    shape: tuple[int, int, int],
) -> None:
    batch, height, width = shape
    x_BCHW = torch.randn(batch, 3, height, width)
    net = with_head(build(checkpoint.manifest.spec, dict(checkpoint.state_dict)), head)  # type: ignore[arg-type]
    with torch.inference_mode():
        expected = net(x_BCHW).numpy()
    session = onnxruntime.InferenceSession(exported[head, precision], providers=["CPUExecutionProvider"])
    kind = np.float32 if precision == "fp32" else np.float16
    (actual,) = session.run(["logits"], {"input": x_BCHW.numpy().astype(kind)})
    assert actual.dtype == kind
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max())


def test_the_file_says_what_it_is(exported: dict[tuple[str, str], Path], checkpoint: Checkpoint) -> None:
    for (head, precision), path in exported.items():
        proto = onnx.load(path)
        onnx.checker.check_model(str(path), full_check=True)
        assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
        assert [p.dim_param or p.dim_value for p in proto.graph.input[0].type.tensor_type.shape.dim] == [
            "batch", 3, "height", "width",
        ]  # fmt: skip
        manifest = stored_manifest(proto, str(path))
        assert manifest is not None
        assert (manifest.spec, manifest.head, manifest.precision) == (checkpoint.manifest.spec, head, precision)
        assert manifest.labels == LABELS
        assert manifest.preprocessing == checkpoint.manifest.preprocessing
        assert manifest.parity["relative_diff"] <= manifest.parity["tolerance"]
        assert {layer.type for layer in read_layers(proto)} == {precision}
        assert manifest.input == "normalized"


def test_the_file_holds_no_path_of_this_machine(exported: dict[tuple[str, str], Path]) -> None:
    package = str(Path(torch.__file__).parent).encode()
    for path in exported.values():
        assert package not in path.read_bytes()
        assert b".py" not in path.read_bytes()


@pytest.mark.parametrize("name", ["resnet18", "resnet50-v1", "plain20", "resnet20-B"])
def test_other_architectures_export(tmp_path: Path, name: str) -> None:
    manifest = export_onnx(random_checkpoint(name), tmp_path / "net.onnx")
    assert manifest.parity["top1_agreement"] == 1


def test_an_exported_file_opens_with_no_flags_and_agrees(
    exported: dict[tuple[str, str], Path], checkpoint: Checkpoint
) -> None:
    model = open_model(str(exported["dense", "fp32"]), device="cpu")
    assert model.manifest.labels == LABELS
    assert model.backend.info.precision == "fp32"
    with pytest.raises(UsageError, match=r"manifest says resnet20.*--arch resnet56"):
        open_model(str(exported["dense", "fp32"]), overrides=Overrides(arch="resnet56"))


def test_scores_that_overflow_fp16_leave_no_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    large = {k: v * 1e6 if k == "fc.weight" else v for k, v in checkpoint.state_dict.items()}
    path = tmp_path / "net.onnx"
    path.write_bytes(b"what was here before")
    with pytest.raises(GateError, match=r"net\.onnx: not written: overflows in fp16") as caught:
        export_onnx(replace(checkpoint, state_dict=large), path, precision="fp16")
    assert caught.value.exit_code == 3
    assert path.read_bytes() == b"what was here before"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_graph_that_computes_something_else_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an exporter with a fault would: one weight of the written graph is changed."""
    import resnet_infer.exporters.to_onnx as module

    graph = module.float_graph

    def faulty(*args: object) -> onnx.ModelProto:
        proto = graph(*args)  # type: ignore[arg-type]
        bias = next(t for t in proto.graph.initializer if t.name.endswith("fc.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.5, bias.name))
        return proto

    monkeypatch.setattr(module, "float_graph", faulty)
    with pytest.raises(GateError, match="tolerance"):
        export_onnx(checkpoint, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_comparison_on_given_images(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.effect_noise((40 + i, 50), 60).convert("RGB").save(folder / f"{i}.png")
    manifest = export_onnx(checkpoint, tmp_path / "net.onnx", images=open_source(folder))
    assert manifest.parity["images"] == str(folder)
    (folder / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"0\.png"):
        export_onnx(checkpoint, tmp_path / "other.onnx", images=open_source(folder))
    assert not (tmp_path / "other.onnx").exists()


def test_nonsense_is_refused_before_any_work(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp32, fp16"):
        export_onnx(checkpoint, tmp_path / "net.onnx", precision="int2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="pooled, dense"):
        export_onnx(checkpoint, tmp_path / "net.onnx", head="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        export_onnx(checkpoint, tmp_path / "net.bin")
