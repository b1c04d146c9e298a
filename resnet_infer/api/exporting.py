"""A checkpoint to an ONNX file or a TensorRT engine that has been checked before it is kept."""

import os
import tempfile
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from resnet_infer.api.images import Images, as_source
from resnet_infer.api.models import opened
from resnet_infer.api.protocols import AsProtocol, protocols_of
from resnet_infer.backends.load import Model
from resnet_infer.backends.tensorrt_api import find_flavour
from resnet_infer.errors import UsageError
from resnet_infer.exporters import gate as gates
from resnet_infer.exporters.calibrate import Quantization
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.exporters.to_tensorrt import build_engine
from resnet_infer.model.checkpoints import Checkpoint, load_checkpoint
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import InputFormat
from resnet_infer.spec.protocols import protocol_of_head
from resnet_infer.spec.shapes import BatchRange, profiles_for


@dataclass(frozen=True, slots=True)
class Gate:
    """What an export has to hold on `images`, or it is not written."""

    images: Images
    _: KW_ONLY
    max_top1_drop: float = 0.5
    """Points of top-1 error that the export may make more than its checkpoint; not checked without classes."""
    min_agreement: float = 0.99
    """Share of images whose best class must be the checkpoint's, 0..1."""
    protocol: AsProtocol | None = None
    """None is the one that the export's head is for."""


def export(
    model: Model | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    head: Head = "pooled",
    input_format: InputFormat = "normalized",
    opset: int | None = None,
    calibration_data: Images | None = None,
    calibration_images: int = 500,
    gate: Gate | None = None,
    batch: BatchRange | None = None,
) -> Manifest:
    """Write an .onnx file or an .engine with its manifest, checked against PyTorch, and return the manifest.

    `model` is a checkpoint. int8 and fp8 need `calibration_data`. `head` is pooled for crops, dense for whole images.
    `opset` is the operator set of an .onnx file, 13 to 25. `batch` says which batch sizes an engine is built for.

    Raises UsageError for a request that cannot work, GateError if the export is not of its precision, departs from
    PyTorch or fails the gate: then nothing is written, and a file that was at `path` before is still there.
    """
    target = Path(path)
    engine = target.suffix.lower() == ".engine"
    if not engine and target.suffix.lower() != ".onnx":
        raise UsageError(f"{target}: the output's name must end in .onnx or .engine")
    quantization = None
    if calibration_data is not None:
        arrangement = "tensorrt" if engine or precision == "fp8" else "onnxruntime"
        source = as_source(calibration_data)
        quantization = Quantization(data=source, images=calibration_images, arrangement=arrangement)  # type: ignore[arg-type]
    with ExitStack() as stack:
        reference = opened(model)
        if reference is not model:
            stack.callback(reference.close)
        checkpoint = _checkpoint_of(reference)
        asked = _gate(gate, reference, head)
        onnx_path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "net.onnx" if engine else target
        manifest = export_onnx(
            checkpoint,
            onnx_path,
            head=head,
            precision=precision,
            input_format=input_format,
            opset=opset,
            quantization=quantization,
            gate=None if engine else asked,
        )
        if not engine:
            return manifest
        spec, preprocessing = manifest.spec, manifest.preprocessing
        profiles = profiles_for(protocol_of_head(head, spec, preprocessing), spec, batch or BatchRange(), 2.0)
        options = BuildOptions(flavour=find_flavour(None), profiles=profiles)
        built = build_engine(onnx_path, target, options, gate=asked, reference=reference if asked else None)
        return built.record.manifest


def _checkpoint_of(model: Model) -> Checkpoint:
    """The weights that the model runs, read again from where they came from."""
    if model.backend.info.name != "torch" or model.file is None:
        what = "was made in memory; save it" if model.file is None else "is an export already; export its checkpoint"
        raise UsageError(f"{model.name}: {what}")
    return load_checkpoint(model.key or str(model.file), model.overrides)


def _gate(asked: Gate | None, model: Model, head: Head) -> gates.Gate | None:
    if asked is None:
        return None
    spec, preprocessing = model.manifest.spec, model.manifest.preprocessing
    own = protocol_of_head(head, spec, preprocessing)
    return gates.Gate(
        data=as_source(asked.images),
        protocol=own if asked.protocol is None else protocols_of(asked.protocol, model)[0],
        max_top1_drop=asked.max_top1_drop,
        min_agreement=asked.min_agreement,
    )
