"""ONNX Runtime against plain ONNX Runtime, files from elsewhere, and providers that are not there."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_file import manifest_of
from resnet_infer.backends.ort import MAX_SIZES, RUNS_BEFORE, OrtBackend
from resnet_infer.errors import ArtifactError, BackendError, OutOfMemory, ResnetInferError, UsageError
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Overrides, load_checkpoint
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import KEY, Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.shapes import range_for

FLAGS = Overrides(arch="resnet20", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def classifier(
    path: Path, batch: int | str = "batch", side: int | str = "side", classes: int = 10, manifest: bool = True
) -> Path:
    """A graph that gives each image's mean red, green and blue times a matrix: small, and easy to do by hand.

    Its manifest calls it a resnet20, which its layers are not."""
    weight = np.linspace(-1, 1, 3 * classes, dtype=np.float32).reshape(3, classes)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if manifest:
        preprocessing = Preprocessing(mean=FLAGS.mean, std=FLAGS.std, resize=32, crop=32)  # type: ignore[arg-type]
        said = Manifest(spec=spec_from_name("resnet20", classes), preprocessing=preprocessing)
        helper.set_model_props(model, {KEY: said.to_json()})
    onnx.save(model, path)
    return path


def images(batch: int) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)


def test_a_small_file_runs_as_in_plain_onnxruntime(tmp_path: Path) -> None:
    path = classifier(tmp_path / "small.onnx")
    x_BCHW = images(5)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input": ((x_BCHW.numpy() / 255 - 0.5) / 0.25).astype(np.float32)})
    model = open_model(str(path), device="cpu", overrides=FLAGS)
    np.testing.assert_allclose(model.backend.run(x_BCHW, "pooled")[:, :, 0, 0], expected, rtol=1e-4, atol=1e-5)
    assert model.backend.info.heads == ("pooled",)


def test_a_fixed_batch_serves_smaller_batches(tmp_path: Path) -> None:
    free = open_model(str(classifier(tmp_path / "free.onnx")), device="cpu", overrides=FLAGS).backend
    fixed = open_model(str(classifier(tmp_path / "fixed.onnx", batch=4)), device="cpu", overrides=FLAGS).backend
    x_BCHW = images(3)
    assert fixed.shapes[0].max[0] == 4
    torch.testing.assert_close(fixed.run(x_BCHW, "pooled"), free.run(x_BCHW, "pooled"))


def test_sizes_that_come_often_score_as_those_that_come_once(tmp_path: Path) -> None:
    """A size that comes again gets a session of its own; a backend that sees it once never has one."""
    path = tmp_path / "dense.onnx"
    export_onnx(load_checkpoint("resnet20.cifar10"), path, head="dense")
    sizes = [(32, 32), (32, 40), (40, 32), (36, 36), (44, 33), (33, 44), (38, 32), (32, 38)]
    assert len(sizes) > MAX_SIZES
    often = open_model(str(path), device="cpu").backend
    for turn in range(RUNS_BEFORE + 2):
        for height, width in sizes:
            x_BCHW = torch.randint(0, 256, (turn + 1, 3, height, width), dtype=torch.uint8)
            once = open_model(str(path), device="cpu").backend.run(x_BCHW, "dense")
            torch.testing.assert_close(often.run(x_BCHW, "dense"), once, rtol=1e-5, atol=1e-5)


def test_memory_that_runs_out_is_told_apart(tmp_path: Path) -> None:
    """A graph of a petabyte, which no machine has."""
    path = classifier(tmp_path / "small.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("wide", TensorProto.INT64, [4], [1, 1, 10**7, 10**7]))
    model.graph.node.insert(0, helper.make_node("Expand", ["small", "wide"], ["vast"]))
    model.graph.node.insert(0, helper.make_node("GlobalAveragePool", ["input"], ["small"]))
    model.graph.node[2].input[0] = "vast"
    onnx.save(model, path)
    with pytest.raises(OutOfMemory, match=r"a batch of \(5, 3, 32, 32\) does not fit"):
        OrtBackend(path, manifest_of(model, path, FLAGS), "cpu").run(images(5), "pooled")
    with pytest.raises(ArtifactError, match="Expand 'vast': not an operator of image classifiers"):
        open_model(str(path), device="cpu", overrides=FLAGS)


def test_fixed_sides_are_stated(tmp_path: Path) -> None:
    shapes = open_model(str(classifier(tmp_path / "f.onnx", side=32)), device="cpu", overrides=FLAGS).backend.shapes
    assert range_for(shapes, 32, 32) == 0
    assert range_for(shapes, 36, 36) is None
    assert range_for(shapes, 32, 40) is None


def test_no_manifest_names_the_flags_that_supply_it(tmp_path: Path) -> None:
    path = classifier(tmp_path / "small.onnx", manifest=False)
    with pytest.raises(ArtifactError, match=r"small\.onnx.*give --mean and --std.*resnet-infer adopt small\.onnx"):
        open_model(str(path), device="cpu")


def test_a_class_count_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    path = classifier(tmp_path / "small.onnx", classes=7)
    labels = Labels(names=("a", "b", "c"))
    wrong = Overrides(arch=FLAGS.arch, mean=FLAGS.mean, std=FLAGS.std, labels=labels)
    with pytest.raises(UsageError, match=r"3 names.*7 classes"):
        open_model(str(path), device="cpu", overrides=wrong)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a\x12\x07pytorch"])
def test_a_file_that_is_no_onnx_model_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"bad\.onnx"):
        open_model(str(path), device="cpu", overrides=FLAGS)


def test_every_truncation_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = classifier(tmp_path / "small.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ResnetInferError, match=r"cut\.onnx"):
            open_model(str(path), device="cpu", overrides=FLAGS)


def test_the_provider_asked_for_or_an_error(tmp_path: Path) -> None:
    path = classifier(tmp_path / "small.onnx")
    if torch.cuda.is_available():
        model = open_model(str(path), device="cuda", overrides=FLAGS)
        assert model.backend.info.versions["provider"] == "CUDAExecutionProvider"
    else:
        with pytest.raises(BackendError, match="cuda"):
            open_model(str(path), device="cuda", overrides=FLAGS)


def test_precision_and_backend_are_not_changed_in_silence(tmp_path: Path) -> None:
    path = str(classifier(tmp_path / "small.onnx"))
    with pytest.raises(ArtifactError, match=r"is fp32, not fp16.*export with --precision fp16"):
        open_model(path, device="cpu", precision="fp16", overrides=FLAGS)
    with pytest.raises(UsageError, match="runs on onnxruntime"):
        open_model(path, backend="torch", overrides=FLAGS)
    with pytest.raises(UsageError, match="resnet-infer export"):
        open_model("resnet50.tv_in1k", backend="onnxruntime")
    with pytest.raises(UsageError, match="torch, onnxruntime"):
        open_model(path, backend="tensorflow")
    with pytest.raises(UsageError, match=r"missing\.onnx: no such file"):
        open_model("missing.onnx")
