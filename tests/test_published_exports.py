"""Third-party checkpoints keep their published errors in other precisions, and on the backends of a GPU.

The fp32 file on a CPU is in test_published.py.
"""

from pathlib import Path

import onnxruntime
import pytest
import torch

from resnet_infer.backends.load import open_model
from resnet_infer.backends.tensorrt_api import find_flavour, this_host
from resnet_infer.data.open import open_source
from resnet_infer.errors import BackendError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.exporters.calibrate import METHODS, Method, Quantization
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.exporters.to_tensorrt import build_engine
from resnet_infer.model.checkpoints import Overrides, load_checkpoint
from resnet_infer.pipeline.score import Member
from resnet_infer.spec.engine_manifest import misfits
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnet_infer.spec.protocols import protocol_for, protocol_of_head
from resnet_infer.spec.shapes import BatchRange, profiles_for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "errors", "precision", "more", "method"),
    [
        ("resnet20-12fca82f", 827, "fp16", 5, None),
        ("resnet56-4bfd9763", 661, "fp16", 5, None),
        ("resnet20-12fca82f", 827, "int8", 50, None),  # a search over all methods
        ("resnet56-4bfd9763", 661, "int8", 50, "percentile"),
    ],
)
def test_errors_of_the_export_in_onnxruntime(
    shared: Path, tmp_path: Path, name: str, errors: int, precision: Precision, more: int, method: Method | None
) -> None:
    cifar10 = shared / "data" / "cifar10"
    checkpoint = load_checkpoint(
        str(shared / "checkpoints" / f"{name}.th"), Overrides(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    )
    calibration = Quantization(data=open_source(cifar10 / "train-0.zip"), method=method)
    quantization = calibration if precision == "int8" else None
    path = tmp_path / "net.onnx"
    manifest = export_onnx(checkpoint, path, precision=precision, quantization=quantization)
    model = open_model(str(path), device="cpu")
    protocol = protocol_for("single-crop", manifest.spec, manifest.preprocessing)
    (row,) = evaluate([Member(model, (protocol,))], open_source(cifar10 / "test.zip"))
    assert (row.images, row.backend, row.precision) == (10_000, "onnxruntime", precision)
    if quantization:
        assert manifest.quantization["held_out"] == 500
        tried = {(line["method"], line["images"]) for line in manifest.quantization["table"]}
        assert tried == {(name, images) for name in ([method] if method else METHODS) for images in (125, 500)}
        assert row.top1_errors <= errors + more  # half a point; fewer errors are welcome
    else:
        assert abs(row.top1_errors - errors) <= more


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "tensorrt"])
@pytest.mark.parametrize(("precision", "more"), [("fp32", 0), ("fp16", 5)])
@pytest.mark.parametrize(("name", "errors"), [("resnet20-12fca82f", 827), ("resnet56-4bfd9763", 661)])
def test_errors_on_a_gpu(
    shared: Path, tmp_path: Path, name: str, errors: int, precision: Precision, more: int, backend: str
) -> None:
    if backend == "onnxruntime" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu; this is the build for CPUs")
    if backend == "tensorrt":
        try:
            flavour = find_flavour()
        except BackendError as error:
            pytest.skip(str(error))
    cifar10 = shared / "data" / "cifar10"
    overrides = Overrides(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    weights = str(shared / "checkpoints" / f"{name}.th")
    artifact = weights
    if backend != "torch":
        artifact = str(tmp_path / "net.onnx")
        manifest = export_onnx(load_checkpoint(weights, overrides), Path(artifact), precision=precision)
    if backend == "tensorrt":
        protocol = protocol_of_head("pooled", manifest.spec, manifest.preprocessing)
        profiles = profiles_for(protocol, manifest.spec, BatchRange(max=2048))
        options = BuildOptions(flavour=flavour, profiles=profiles, cache=tmp_path / "cache")
        record = build_engine(Path(artifact), tmp_path / "net.engine", options).record
        if reasons := misfits(record, this_host(flavour)):
            pytest.skip("; ".join(reasons))
        artifact = str(tmp_path / "net.engine")
    model = open_model(artifact, device="cuda", precision=precision, overrides=overrides)
    assert model.backend.info.device == "cuda:0"
    protocol = protocol_for("single-crop", model.manifest.spec, model.manifest.preprocessing)
    (row,) = evaluate([Member(model, (protocol,))], open_source(cifar10 / "test.zip"))
    assert (row.images, row.backend, row.precision) == (10_000, backend, precision)
    assert abs(row.top1_errors - errors) <= more
