"""An ONNX file of ours to a TensorRT engine that is what it claims to be, with a manifest beside it.

In this order: the graph is checked, the engine is built (engine_builder.py) or taken from the cache (engine_cache.py),
its layers are read back and must be of the precision the graph claims, and, where a gate is asked for, its accuracy is
measured. Only then is there a file.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from resnet_infer.backends.engine_file import write_engine
from resnet_infer.backends.engine_inspector import check_kernels, kernel_types
from resnet_infer.backends.load import Model
from resnet_infer.backends.onnx_ends import image_input
from resnet_infer.backends.onnx_file import check_precision, graph_sha256, load_graph, manifest_of
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.backends.tensorrt_api import load_flavour, this_host, this_platform
from resnet_infer.backends.trt import TensorRTBackend
from resnet_infer.errors import ArtifactError, BackendError, UsageError
from resnet_infer.exporters import engine_cache
from resnet_infer.exporters.engine_builder import BuildOptions, Progress, build_plan
from resnet_infer.exporters.gate import Gate, run_gate
from resnet_infer.exporters.quantize_file import only_output
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec.engine_manifest import RTX_DEFAULT, EngineRecord, Flavour, misfits
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.shapes import ShapeRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An engine on disk."""

    record: EngineRecord
    key: str
    """Its content address."""
    cache_hit: bool


def build_engine(
    onnx_path: Path,
    path: Path,
    options: BuildOptions,
    *,
    overrides: Overrides | None = None,
    gate: Gate | None = None,
    reference: Model | None = None,
    progress: Progress = lambda phase, step, steps: None,
    gating: Callable[[float], None] = lambda images: None,
) -> Built:
    """Build `path` and its manifest from an ONNX file, or take them from the cache.

    A file of another tool needs `overrides`, or to be adopted; of a fixed batch, that is the engine's.
    `progress` is called as TensorRT's phases advance; Ctrl-C ends the build between two of its steps. `gate` compares
    the engine with `reference` before it is promoted, which needs the GPU that the engine is for.

    Raises ArtifactError for an ONNX file of which not enough is known, BackendError if TensorRT is missing or refuses
    it, GateError if the engine is not of the precision the file claims or fails the gate; then nothing is written.
    """
    if (gate is None) != (reference is None):
        raise ValueError("a gate and the model it compares with come together")
    if path.suffix.lower() != ".engine":
        raise UsageError(f"{path}: the output's name must end in .engine")
    proto, manifest = _graph_of(onnx_path, overrides)
    options = replace(options, profiles=_fitting(options.profiles, proto, manifest, onnx_path))
    if options.tf32:
        if manifest.precision != "fp32":
            raise UsageError(f"{onnx_path}: is {manifest.precision}; tf32 is for fp32 files")
        manifest = replace(manifest, precision="tf32")
    trt, host = load_flavour(options.flavour), this_host(options.flavour)
    if options.flavour == "tensorrt" and host.capability is None:
        raise BackendError(
            "tensorrt builds on the GPU that its engine is for, and PyTorch finds none here; build there, or with "
            "--flavour tensorrt-rtx for an RTX GPU"
        )
    on_gpu = host if options.flavour == "tensorrt" else None  # RTX compiles ahead of time, for no GPU in particular
    onnx_sha256 = graph_sha256(proto)
    build = {
        "flavour": options.flavour,
        "version": str(trt.__version__),
        "platform": this_platform(),
        "gpu": on_gpu.gpu if on_gpu else "",
        "profiles": [profile.to_dict() for profile in options.profiles],
    } | options.to_dict()
    key = engine_cache.engine_key(onnx_sha256, build)
    folder = options.cache or engine_cache.default_folder()
    kept = engine_cache.fetch(folder, key) if options.use_cache else None
    if kept:
        record, plan = replace(kept[0], manifest=manifest), kept[1]  # the manifest of this export, not of that one
    else:
        timing = engine_cache.timing_file(folder, str(trt.__version__), on_gpu.gpu) if on_gpu else None
        targets = (on_gpu.capability,) if on_gpu and on_gpu.capability else RTX_DEFAULT
        plan, layers = build_plan(trt, proto, options, timing, progress)
        record = EngineRecord(
            manifest=manifest,
            flavour=options.flavour,
            version=str(trt.__version__),
            platform=this_platform(),
            gpu=on_gpu.gpu if on_gpu else "",
            capabilities=options.capabilities or targets,
            hardware_compatibility=options.hardware_compatibility,  # type: ignore[arg-type]  # BuildOptions checked it
            version_compatible=options.version_compatible,
            profiles=options.profiles,
            size_bytes=len(plan),
            sha256=hashlib.sha256(plan).hexdigest(),
            onnx_sha256=onnx_sha256,
            options=options.to_dict(),
            layers=layers,
        )
    where = f"{path}: not written"
    check_precision(manifest, record.layers, where)
    if not misfits(record, host):
        record = _inspected(record, plan, where)
    if options.use_cache and not kept:
        engine_cache.keep(folder, key, record, plan)
    if gate and reference:
        record = _gated(record, plan, path, gate, reference, gating)
    write_engine(record, plan, path)
    return Built(record=record, key=key, cache_hit=kept is not None)


def built_from(onnx_path: Path, overrides: Overrides | None = None) -> Manifest:
    """The manifest of a graph that an engine can be built from; raises ArtifactError or GateError for any other."""
    return _graph_of(onnx_path, overrides)[1]


def check_gate_runs(flavour: Flavour) -> None:
    """Raise BackendError before a long build if an engine of this flavour could not be gated here."""
    if this_host(flavour).capability is None:
        raise BackendError(
            "a gate runs the engine, and PyTorch finds no GPU here. Gate the same graph as ONNX (--to onnx --gate-data "
            "..., with --arrangement tensorrt if quantised), then build from that file: its report goes along"
        )


def _graph_of(onnx_path: Path, overrides: Overrides | None = None) -> tuple[onnx.ModelProto, Manifest]:
    """A graph that TensorRT can build from, and its manifest; of another tool's graph, what the scores need."""
    proto = load_graph(onnx_path)
    manifest = manifest_of(proto, onnx_path, overrides or Overrides())
    if manifest.head is None:
        raise ArtifactError(f"{onnx_path}: its manifest does not say which head it has; export it again")
    check_precision(manifest, read_layers(proto), str(onnx_path))
    if manifest.quantization.get("arrangement") == "onnxruntime":
        raise ArtifactError(
            f"{onnx_path}: is quantised for onnxruntime, with zero points that TensorRT does not take; "
            "export it with --arrangement tensorrt, or build from the checkpoint"
        )
    if not manifest.adopted:
        return proto, manifest
    graph = only_output(onnx.load(onnx_path), manifest)  # weights in other files come along
    image = image_input(graph)
    image.type.tensor_type.shape.dim[3 if manifest.input.endswith("-nhwc") else 1].dim_value = manifest.input_channels
    _call_input(graph, image)
    _cast_before_moving(graph)
    return graph, manifest


def _call_input(proto: onnx.ModelProto, image: onnx.ValueInfoProto) -> None:
    """Give the image the name that it has in our own graphs, and so in every engine."""
    names = {image.name: "input"} | ({"input": "input.inner"} if image.name != "input" else {})
    image.name = "input"
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in proto.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del proto.graph.value_info[:]


def _cast_before_moving(proto: onnx.ModelProto) -> None:
    """Bytes as numbers before their channels are moved: TensorRT moves no bytes."""
    readers = [node for node in proto.graph.node if "input" in node.input]
    if len(readers) != 1 or readers[0].op_type != "Transpose":
        return
    moved = readers[0].output[0]
    casts = [node for node in proto.graph.node if moved in node.input]
    if len(casts) == 1 and casts[0].op_type == "Cast":
        move, cast = readers[0], casts[0]
        result = cast.output[0]
        cast.input[0], cast.output[0] = "input", f"{moved}.cast"
        move.input[0], move.output[0] = cast.output[0], result
        first, second = (list(proto.graph.node).index(node) for node in (move, cast))
        ordered = list(proto.graph.node)
        ordered[first], ordered[second] = ordered[second], ordered[first]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del proto.graph.node[:]
        proto.graph.node.extend(kept)


def _fitting(
    profiles: Sequence[ShapeRange], proto: onnx.ModelProto, manifest: Manifest, path: Path
) -> tuple[ShapeRange, ...]:
    """The profiles with the graph's own sizes where those are fixed; raises UsageError where they cannot be."""
    dims = [dim.dim_value for dim in image_input(proto).type.tensor_type.shape.dim]
    last = manifest.input.endswith("-nhwc")
    batch, height, width = dims[0], dims[1 if last else 2], dims[2 if last else 3]
    for profile in profiles:
        for side, low, high in ((height, profile.min[1], profile.max[1]), (width, profile.min[2], profile.max[2])):
            if side and (low, high) != (side, side):
                raise UsageError(
                    f"{path}: takes {width}x{height} pixels only, and the engine is for {profile.describe()}; choose "
                    "its own size, or export it with free sides"
                )
    if not batch:
        return tuple(profiles)
    return tuple(
        ShapeRange(min=(batch, *profile.min[1:]), opt=(batch, *profile.opt[1:]), max=(batch, *profile.max[1:]))
        for profile in profiles
    )


def _inspected(record: EngineRecord, plan: bytes, where: str) -> EngineRecord:
    """The record with what the engine's own inspector says; raises GateError if that is not what is claimed."""
    running = TensorRTBackend(where, record, plan)
    try:
        kernels = kernel_types(running.layer_information())
    finally:
        running.close()
    check_kernels(record.manifest.precision, kernels, where)
    return replace(record, kernels=kernels)


def _gated(
    record: EngineRecord, plan: bytes, path: Path, gate: Gate, reference: Model, gating: Callable[[float], None]
) -> EngineRecord:
    running = TensorRTBackend(path.name, record, plan)
    try:
        candidate = Model(name=path.name, manifest=record.manifest, backend=running)
        report = run_gate(gate, reference, candidate, path, advance=gating)
    finally:
        running.close()
    return replace(record, manifest=replace(record.manifest, gate=report))
