"""A checkpoint to one ONNX file that says what it is and has been checked before anyone sees it.

In this order: the graph is made (graphs.py, quantize.py), its layers are read back and must be of the precision it
claims, its scores are compared with PyTorch's (parity.py), and, where a gate is asked for, its accuracy is (gate.py).
The manifest with the outcome of each is in `metadata_props`.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import get_args

import onnx

from resnet_infer import __version__
from resnet_infer.backends.load import Model
from resnet_infer.backends.onnx_file import graph_sha256
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.source import Source
from resnet_infer.errors import GateError, UsageError
from resnet_infer.exporters.calibrate import Quantization, quantize
from resnet_infer.exporters.gate import Gate, run_gate
from resnet_infer.exporters.graphs import float_graph, with_preprocessing
from resnet_infer.exporters.opset import opset_for
from resnet_infer.exporters.parity import check_parity, checking_backend
from resnet_infer.files import replacing
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import INPUT_OFFSET
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import QUANTIZED, Precision, check_claim
from resnet_infer.spec.preprocessing import InputFormat

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
TOOLS = ("torch", "onnx", "onnxscript")

Advance = Callable[[float], None]


def export_onnx(
    checkpoint: Checkpoint,
    path: Path,
    *,
    head: Head = "pooled",
    precision: Precision = "fp32",
    input_format: InputFormat = "normalized",
    opset: int | None = None,
    quantization: Quantization | None = None,
    gate: Gate | None = None,
    images: Source | None = None,
    calibrating: Advance = lambda candidates: None,
    gating: Advance = lambda images: None,
) -> Manifest:
    """Write `path` and return the manifest inside it.

    fp16 takes and gives half-precision tensors, bf16 float32 ones. `opset` is the operator set, 13 to 25; by default
    the exporter's own. The comparison runs PyTorch in fp32 against ONNX
    Runtime, both on the CPU, at several shapes and batch sizes, on `images` or on random ones.

    Raises UsageError for an unknown head or precision, or int8 and fp8 without `quantization`; GateError if the file is
    no valid ONNX model, is not of its precision, departs from PyTorch or fails the gate: then nothing is written, and a
    file that was at `path` before is still there.
    """
    check_request(head, precision, quantization)
    opset_for(precision, opset)
    if INPUT_OFFSET in checkpoint.state_dict:
        raise UsageError(
            f"{checkpoint.name}: was trained with a per-pixel mean, which no export carries; train with --mean channel"
        )
    if head == "dense" and checkpoint.manifest.spec.multiple_of > 1:
        raise UsageError(
            f"{checkpoint.name}: has no dense head: its anti-aliasing takes one size; export --head pooled"
        )
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path}: the output's name must end in .onnx")
    manifest = replace(
        checkpoint.manifest,
        source=checkpoint.manifest.source or checkpoint.name,
        head=head,
        precision=precision,
        input=input_format,
        versions={"resnet-infer": __version__} | {tool: metadata.version(tool) for tool in TOOLS},
    )
    reference = Model(name=checkpoint.name, manifest=checkpoint.manifest, backend=TorchBackend(checkpoint))
    if quantization:
        plain = replace(manifest, input="normalized")
        graph = float_graph(checkpoint, head, "fp32", opset)
        proto, record = quantize(graph, plain, reference, quantization, advance=calibrating)
        manifest = replace(manifest, quantization=record)
        images = images or quantization.data
    else:
        proto = float_graph(checkpoint, head, precision, opset)
    if input_format != "normalized":
        with_preprocessing(proto, checkpoint.manifest.preprocessing, input_format)
    with replacing(path) as partial:
        write_graph(proto, manifest, partial)
        try:
            onnx.checker.check_model(str(partial), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise GateError(f"{path}: not written: onnx.checker refuses the graph ({error})") from error
        kept = quantization.keep_float if quantization else ()
        _check_opset(proto, opset, path)
        check_claim(precision, read_layers(onnx.load(partial)), kept, f"{path}: not written")
        parity = check_parity(checkpoint, partial, manifest, images)
        if not parity.passed:
            raise GateError(f"{path}: not written: {parity.describe()}")
        manifest = replace(manifest, parity=parity.to_dict())
        if gate:
            with checking_backend(partial, manifest) as backend:
                candidate = Model(name=path.name, manifest=manifest, backend=backend)
                manifest = replace(manifest, gate=run_gate(gate, reference, candidate, path, advance=gating))
        write_graph(proto, manifest, partial)
    return manifest


def check_request(head: str, precision: str, quantization: Quantization | None) -> None:
    """Raise UsageError for a head or precision that no export has, or a quantised one without calibration data."""
    if precision == "tf32":
        raise UsageError(
            "precision 'tf32' is a way to run an fp32 file, not a type of file: export fp32, and give --precision tf32 "
            "to eval, predict, or export --to tensorrt"
        )
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
    if head not in get_args(Head):
        raise UsageError(f"head '{head}' is not one of {', '.join(get_args(Head))}")
    if (precision in QUANTIZED) != (quantization is not None):
        raise UsageError(
            f"precision {precision} needs images to calibrate on: give --calibration-data DATA"
            if quantization is None
            else f"--calibration-data is for {' and '.join(QUANTIZED)}, not for {precision}"
        )


def _check_opset(proto: onnx.ModelProto, wanted: int | None, path: Path) -> None:
    found = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if wanted is not None and found != [wanted]:
        raise GateError(f"{path}: not written: is of opset {found}, not {wanted}, which the exporter does not write")


def write_graph(proto: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    """Write a graph with its manifest, the checksum of the graph in it."""
    manifest = replace(manifest, weights_sha256=graph_sha256(proto))
    onnx.helper.set_model_props(proto, {manifests.KEY: manifest.to_json()})
    onnx.save(proto, path)
