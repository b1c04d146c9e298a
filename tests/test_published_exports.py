"""Third-party checkpoints keep their published errors in every precision that a file can be exported in."""

from pathlib import Path

import pytest

from resnet_infer.backends.load import open_model
from resnet_infer.data.sources import open_source
from resnet_infer.evaluate import evaluate
from resnet_infer.export.calibrate import Quantization
from resnet_infer.export.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Overrides, load_checkpoint
from resnet_infer.precisions import Precision
from resnet_infer.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnet_infer.protocols import protocol_for


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "more"), [("fp32", 0), ("fp16", 5), ("int8", 50)])
@pytest.mark.parametrize(("name", "errors"), [("resnet20-12fca82f", 827), ("resnet56-4bfd9763", 661)])
def test_errors_of_the_export_in_onnxruntime(
    shared: Path, tmp_path: Path, name: str, errors: int, precision: Precision, more: int
) -> None:
    cifar10 = shared / "data" / "cifar10"
    checkpoint = load_checkpoint(
        str(shared / "checkpoints" / f"{name}.th"), Overrides(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    )
    quantization = Quantization(data=open_source(cifar10 / "train-0.zip")) if precision == "int8" else None
    path = tmp_path / "net.onnx"
    manifest = export_onnx(checkpoint, path, precision=precision, quantization=quantization)
    model = open_model(str(path), device="cpu")
    protocol = protocol_for("single-crop", manifest.spec, manifest.preprocessing)
    (row,) = evaluate(model, [protocol], open_source(cifar10 / "test.zip"))
    assert (row.images, row.backend, row.precision) == (10_000, "onnxruntime", precision)
    if quantization:
        assert manifest.quantization["held_out"] == 500
        assert sorted({line["images"] for line in manifest.quantization["table"]}) == [125, 500]
        assert row.top1_errors <= errors + more  # half a point; fewer errors are welcome
    else:
        assert abs(row.top1_errors - errors) <= more
