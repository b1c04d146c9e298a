"""What `export` does once its flags are known: the graph, the engine, the repository, and what is said of each."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_infer.backends.load import Model, open_model
from resnet_infer.backends.onnx_file import load_graph, manifest_of
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.backends.tensorrt_api import find_flavour
from resnet_infer.cli import export_options
from resnet_infer.cli.export_options import Flags
from resnet_infer.cli.options import sides
from resnet_infer.console import progress, working
from resnet_infer.data.left_out import note_left_out
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import UsageError
from resnet_infer.exporters.calibrate import Quantization, candidates
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.gate import Gate
from resnet_infer.exporters.quantize_file import quantize_file
from resnet_infer.exporters.to_onnx import check_request, export_onnx
from resnet_infer.exporters.to_tensorrt import build_engine, built_from, check_gate_runs
from resnet_infer.exporters.to_triton import export_triton
from resnet_infer.model.checkpoints import Overrides, is_checkpoint_file, load_checkpoint
from resnet_infer.model.hub import short_name
from resnet_infer.pipeline.readable import readable
from resnet_infer.report.export_text import checks, describe, describe_engine, search_table
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import float_layers
from resnet_infer.spec.protocols import protocol_for, protocol_of_head
from resnet_infer.spec.shapes import profiles_for


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """An export as the command line was given it."""

    model: str
    to: str
    overrides: Overrides
    given: Flags

    @property
    def exported(self) -> bool:
        """Whether the model is an exported file rather than a checkpoint."""
        return Path(self.model).suffix.lower() in (".onnx", ".engine", ".plan")


def run(request: ExportRequest, output: Path) -> Iterator[str]:
    """Do it, yielding what to print as it is known."""
    if request.to == "onnx":
        yield from describe(make_onnx(request, output), output)
        return
    with tempfile.TemporaryDirectory(prefix="resnet-infer-export-") as folder:
        if request.exported:
            artifact = Path(request.model)
        else:
            name = Path(request.model).stem if is_checkpoint_file(request.model) else short_name(request.model)
            artifact = Path(folder) / f"{name}.onnx"
        if request.to == "tensorrt":
            yield from _to_tensorrt(request, artifact, output)
            return
        if not request.exported:
            yield from checks(make_onnx(request, artifact, output / (request.given.name or artifact.stem)))
        batch = export_options.batch_range(request.given.batch_range)
        said = request.overrides if request.exported else Overrides()
        made = export_triton(artifact, output, request.given.name, batch, said)
        yield f"{made}: {', '.join(sorted(path.name for path in made.rglob('*') if path.is_file()))}"
        yield f"serve it: tritonserver --model-repository={output.resolve()}"


def make_onnx(request: ExportRequest, path: Path, target: Path | None = None) -> Manifest:
    """Write the ONNX file that the flags ask for, as such or on its way to `target`."""
    if request.exported:
        return _make_int8(request, path)
    given, checkpoint = request.given, load_checkpoint(request.model, request.overrides)
    precision, head = given.precision or "fp32", given.head or "pooled"
    arrangement = given.arrangement or ("tensorrt" if request.to == "tensorrt" else "onnxruntime")
    quantization = _quantization(given, precision, arrangement)
    check_request(head, precision, quantization)
    gate = None if request.to == "tensorrt" else _gate(given, checkpoint.manifest, head, target)
    tries = candidates(quantization) if quantization else 0
    judged = 2 * len(gate.data.samples) if gate else 0
    with (
        working(f"exporting {request.model}"),
        progress("calibrating", tries, "candidates") as calibrating,
        progress("gate", judged, "images") as gating,
    ):
        return export_onnx(
            checkpoint,
            path,
            head=head,
            precision=precision,
            input_format=_input_format(given),
            opset=given.opset,
            quantization=quantization,
            gate=gate,
            images=_images(given.images, given) if given.images else None,
            calibrating=calibrating,
            gating=gating,
        )


def _make_int8(request: ExportRequest, path: Path) -> Manifest:
    """Write an int8 form of an ONNX file."""
    given, source = request.given, Path(request.model)
    quantization = _quantization(given, "int8", given.arrangement or "onnxruntime")
    if quantization is None:
        raise UsageError("precision int8 needs images to calibrate on: give --calibration-data DATA")
    manifest = manifest_of(load_graph(source), source, request.overrides)
    gate = _gate(given, manifest, manifest.head or "pooled")
    with (
        working(f"exporting {request.model}"),
        progress("calibrating", candidates(quantization), "candidates") as calibrating,
        progress("gate", 2 * len(gate.data.samples) if gate else 0, "images") as gating,
    ):
        return quantize_file(
            source,
            path,
            quantization,
            request.overrides,
            gate=gate,
            images=_images(given.images, given) if given.images else None,
            calibrating=calibrating,
            gating=gating,
        )


def _to_tensorrt(request: ExportRequest, onnx_path: Path, path: Path) -> Iterator[str]:
    given = request.given
    wanted = given.flavour
    flavour = find_flavour(wanted.replace("-", "_") if wanted else None)  # type: ignore[arg-type]  # checked above
    tf32 = given.precision == "tf32"
    if given.gate_data:
        check_gate_runs(flavour)
    if not request.exported:
        plain = replace(request, given=replace(given, precision=None if tf32 else given.precision))
        made = make_onnx(plain, onnx_path)
        if made.quantization:
            yield search_table(made.quantization) + "\n"
    overrides = request.overrides if request.exported else Overrides()
    manifest = built_from(onnx_path, overrides)
    head = manifest.head or "pooled"
    profiles = profiles_for(
        protocol_of_head(head, manifest.spec, manifest.preprocessing, sides(given.scales)),
        manifest.spec,
        export_options.batch_range(given.batch_range),
        given.max_aspect or 2.0,
    )
    build = BuildOptions(
        flavour=flavour,
        profiles=profiles,
        optimization_level=3 if given.optimization_level is None else given.optimization_level,
        workspace_mib=given.workspace,
        tf32=tf32,
        version_compatible=given.version_compatible,
        hardware_compatibility=given.hardware_compatibility or "none",
        capabilities=tuple(export_options.capability(text) for text in given.compute_capability or ()),
        use_cache=not given.no_cache,
    )
    gate = _gate(given, manifest, head)
    with progress("building", None, "steps") as advance:
        built = build_engine(
            onnx_path,
            path,
            build,
            overrides=overrides,
            gate=gate,
            reference=_reference(request, onnx_path) if gate else None,
            progress=lambda phase, step, steps: advance(1),
        )
    yield from describe_engine(built, path)


def _reference(request: ExportRequest, onnx_path: Path) -> Model:
    """What an engine is compared with: the checkpoint in PyTorch, or the ONNX file that it is built from."""
    if request.exported:
        return open_model(str(onnx_path), overrides=request.overrides)
    checkpoint = load_checkpoint(request.model, request.overrides)
    return Model(name=checkpoint.name, manifest=checkpoint.manifest, backend=TorchBackend(checkpoint))


def _images(path: str, given: Flags) -> Source:
    """The images at a path; those that can be read, if that is what was asked for."""
    source = open_source(path)
    note_left_out(source)
    return readable(source) if given.on_error == "skip" else source


def _quantization(given: Flags, precision: str, arrangement: str) -> Quantization | None:
    if given.calibration_data is None:
        return None
    method = given.calibration_method
    return Quantization(
        data=_images(given.calibration_data, given),
        images=given.calibration_images or 500,
        method=None if method in (None, "search") else method,  # type: ignore[arg-type]  # Quantization checks it
        keep_float=float_layers(given.keep_float or "classifier"),
        arrangement="tensorrt" if precision == "fp8" else arrangement,  # type: ignore[arg-type]  # checked above
        reduce_range=given.reduce_range,
    )


def _gate(given: Flags, manifest: Manifest, head: str, target: Path | None = None) -> Gate | None:
    if given.gate_data is None:
        return None
    name = given.gate_protocol
    if name is None:
        protocol = protocol_of_head(head, manifest.spec, manifest.preprocessing, sides(given.scales))  # type: ignore[arg-type]
    else:
        protocol = protocol_for(name, manifest.spec, manifest.preprocessing)
    return Gate(
        data=_images(given.gate_data, given),
        protocol=protocol,
        max_top1_drop=0.5 if given.max_top1_drop is None else given.max_top1_drop,
        min_agreement=0.99 if given.min_agreement is None else given.min_agreement,
        target=target,
    )


def _input_format(given: Flags) -> Any:
    if not given.preprocess_in_graph:
        return "normalized"
    layout = given.input_layout or "nhwc"
    return f"uint8-{layout}"
