"""An int8 form of an ONNX file, of ours or of another tool: the reference is the file itself in ONNX Runtime."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime

from resnet_infer import __version__
from resnet_infer.backends.load import Model
from resnet_infer.backends.onnx_checks import usable_outputs
from resnet_infer.backends.onnx_file import load_graph, manifest_of
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.data.source import Source
from resnet_infer.errors import GateError, UsageError
from resnet_infer.exporters.calibrate import Quantization, quantize
from resnet_infer.exporters.gate import Gate, run_gate
from resnet_infer.exporters.parity import checking_backend, compare_with
from resnet_infer.exporters.quantize import remove_unused
from resnet_infer.exporters.to_onnx import write_graph
from resnet_infer.files import replacing
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import check_claim

LOWEST_OPSET = 13
"""The first with a scale for every channel."""
TARGET_OPSET = 18
"""What an older graph is raised to."""


def quantize_file(
    path: Path,
    target: Path,
    quantization: Quantization,
    overrides: Overrides | None = None,
    *,
    gate: Gate | None = None,
    images: Source | None = None,
    calibrating: Callable[[float], None] = lambda candidates: None,
    gating: Callable[[float], None] = lambda images: None,
) -> Manifest:
    """Write `target` in int8 and return the manifest inside it; its input and its scores are those of `path`.

    Raises UsageError or ArtifactError for a file that cannot be quantised, GateError if the result is not int8, departs
    from the file or fails the gate: then nothing is written.
    """
    overrides = overrides or Overrides()
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"{target}: the output's name must end in .onnx")
    manifest = manifest_of(load_graph(path), path, overrides)
    if manifest.precision != "fp32" or manifest.head is None:
        raise UsageError(f"{path}: is {manifest.precision}; int8 is made from fp32 files")
    graph = folded(raised(only_output(onnx.load(path), manifest), path))
    made_of = replace(
        manifest,
        source=manifest.source or path.name,
        precision="int8",
        versions={"resnet-infer": __version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        parity={},
        gate={},
    )
    with Model(name=path.name, manifest=manifest, backend=OrtBackend(path, manifest, "cpu")) as reference:
        proto, record = quantize(graph, made_of, reference, quantization, advance=calibrating)
        made_of = replace(made_of, quantization=record)
        with replacing(target) as partial:
            write_graph(proto, made_of, partial)
            check_claim("int8", read_layers(proto), quantization.keep_float, f"{target}: not written")
            parity = compare_with(reference.backend, path.name, partial, made_of, images or quantization.data)
            if not parity.passed:
                raise GateError(f"{target}: not written: {parity.describe()}")
            made_of = replace(made_of, parity=parity.to_dict())
            if gate:
                with checking_backend(partial, made_of, "cpu") as backend:
                    candidate = Model(name=target.name, manifest=made_of, backend=backend)
                    report = run_gate(gate, reference, candidate, target, advance=gating)
                made_of = replace(made_of, gate=report)
            write_graph(proto, made_of, partial)
    return made_of


def only_output(proto: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """The graph without the outputs that are no scores, and without what only they need."""
    proto = copy.deepcopy(proto)
    name = manifest.output_name or usable_outputs(proto)[0].name
    for output in [output for output in proto.graph.output if output.name != name]:
        proto.graph.output.remove(output)
    remove_unused(proto.graph)
    return proto


def raised(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The graph in an opset that can be quantised a channel at a time; raises UsageError if it cannot be raised."""
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if opset >= LOWEST_OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, TARGET_OPSET)
    except Exception as error:  # it raises C++'s
        raise UsageError(
            f"{path}: is of opset {opset}, which has no scale for every channel, and cannot be raised "
            f"({' '.join(str(error).split())[:120]}); export it with opset {LOWEST_OPSET} or later"
        ) from error


def folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with batch norm in its convolutions and constants computed, by ONNX Runtime's basic optimisations."""
    with TemporaryDirectory(prefix="resnet-infer-fold-") as folder:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        made: onnx.ModelProto = onnx.load(settings.optimized_model_filepath)
        return made
