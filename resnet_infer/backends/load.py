"""A model by the name a user gives it - a checkpoint's key or a file - ready to run, with its manifest."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from resnet_infer.backends.base import Backend, RunOptions
from resnet_infer.backends.described import Asked, described
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.model.checkpoints import Overrides, load_checkpoint
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.protocols import protocol_of_head
from resnet_infer.spec.shapes import BatchRange, profiles_for

BACKENDS = ("torch", "onnxruntime", "tensorrt")
SUFFIXES = {".onnx": "onnxruntime", ".engine": "tensorrt", ".plan": "tensorrt"}
"""Exported files and the backend that runs them (.plan is Triton's name); all else is a checkpoint, for torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A runnable network and what is known of it."""

    name: str
    manifest: Manifest
    backend: Backend
    file: Path | None = None
    """What it was read from; None for one that was made in memory."""
    sha256: str = ""
    """Of the very bytes that were loaded, those of external weights included; empty for one made in memory."""
    overrides: Overrides | None = None
    """What the user said over what the file says."""
    key: str = ""
    """What opens its checkpoint again, with those: the key or file that was asked for."""

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the device's memory; the model cannot run again."""
        self.backend.close()


def open_model(
    model: str,
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    overrides: Overrides | None = None,
    options: RunOptions | None = None,
) -> Model:
    """Open a checkpoint (runs on torch), an .onnx file (onnxruntime) or an .engine file (tensorrt).

    `model` may have a description behind it, as `net.pth?arch=resnet18&precision=bf16`: see `described`.
    `backend` and `precision` of None take what the model is made for; fp32 for a checkpoint. What is asked for is
    what runs, or an error: UsageError, UnknownNameError, CheckpointError, ArtifactError, DownloadError, BackendError;
    GateError for a file that is not of the precision it claims.
    """
    asked = Asked(
        model=model,
        backend=backend,  # type: ignore[arg-type]  # both are checked below
        precision=precision,  # type: ignore[arg-type]
        overrides=overrides or Overrides(),
        options=options or RunOptions(),
    )
    return open_asked(described(asked), device)


def open_asked(asked: Asked, device: str = "auto") -> Model:
    """`open_model` for what has been `described`."""
    return as_asked(_open(asked, device), asked)


def as_asked(opened: Model, asked: Asked) -> Model:
    """A model with the name and the overrides that it was asked for with."""
    name = f"{opened.name}?{asked.said}" if asked.said else opened.name
    return replace(opened, name=name, overrides=asked.overrides, key=asked.model)


def _open(asked: Asked, device: str) -> Model:
    model, backend, precision = asked.model, asked.backend, asked.precision
    overrides, options = asked.overrides, asked.options
    if backend not in (None, *BACKENDS):
        raise UsageError(f"backend '{backend}' is not one of {', '.join(BACKENDS)}")
    if precision not in (None, *get_args(Precision)):
        raise UsageError(f"precision '{precision}' is not one of {', '.join(get_args(Precision))}")
    own = SUFFIXES.get(Path(model).suffix.lower(), "torch")
    if backend not in (None, own):
        raise UsageError(_wrong_backend(model, own, str(backend)))
    if own != "torch" and (options.compile or options.autocast):
        raise UsageError(f"{model}: --compile and --autocast are for checkpoints on torch; it runs on {own}")
    if own != "torch":
        overrides.check_no_weights(model)
    if own == "onnxruntime":
        return _open_onnx(Path(model), device, precision, overrides, options)
    if own == "tensorrt":
        return _open_engine(Path(model), device, precision, overrides, options)
    if options != RunOptions(compile=options.compile, autocast=options.autocast):
        raise UsageError(f"{model}: --provider, --prefer-nhwc and --cuda-graph are for exported files, not for torch")
    from resnet_infer.backends.pytorch import TorchBackend

    checkpoint = load_checkpoint(model, overrides)
    running = TorchBackend(
        checkpoint,
        device,
        precision or "fp32",
        compile=options.compile,
        autocast=options.autocast,
    )
    return Model(
        name=checkpoint.name,
        manifest=checkpoint.manifest,
        backend=running,
        file=checkpoint.file,
        sha256=checkpoint.sha256,
    )


def _wrong_backend(model: str, own: str, asked: str) -> str:
    if own == "torch":
        to, kind = ("tensorrt", ".engine") if asked == "tensorrt" else ("onnx", ".onnx")
        return f"{model}: {asked} runs {kind} files; make one with `resnet-infer export {model} --to {to} -o FILE`"
    other = "for torch give the checkpoint it came from" if asked == "torch" else f"{asked} takes another kind of file"
    return f"{model}: runs on {own}; {other}"


def _open_onnx(path: Path, device: str, precision: str | None, overrides: Overrides, options: RunOptions) -> Model:
    from resnet_infer.backends.onnx_file import (
        check_precision,
        file_bytes,
        files_beside,
        load_graph,
        manifest_of,
        model_sha256,
    )
    from resnet_infer.backends.onnx_layers import file_precision, read_layers
    from resnet_infer.backends.ort import OrtBackend

    data = file_bytes(path)
    proto = load_graph(path, data)
    beside = files_beside(proto, path)
    digest = model_sha256(data, beside)
    manifest, layers = manifest_of(proto, path, overrides), read_layers(proto)
    check_precision(manifest, layers, str(path))
    if not manifest.head:  # it claims nothing
        manifest = replace(manifest, precision=file_precision(layers))
    if precision == "tf32" and manifest.precision == "fp32":
        options = replace(options, tf32=True)
    elif precision and precision != manifest.precision:
        raise ArtifactError(
            f"{path}: is {manifest.precision}, not {precision}; precision is in the file: "
            f"export with --precision {precision}"
        )
    if options.provider == "tensorrt" and not options.profiles:
        use = protocol_of_head(manifest.head or "pooled", manifest.spec, manifest.preprocessing)
        options = replace(options, profiles=profiles_for(use, manifest.spec, BatchRange()))
    running = OrtBackend(path, manifest, device, options, data=None if beside else data)
    if beside and model_sha256(file_bytes(path), beside) != digest:
        raise ArtifactError(f"{path}: it or its weights were replaced while it was opened; open it again")
    return Model(name=path.name, manifest=manifest, backend=running, file=path, sha256=digest)


def _open_engine(path: Path, device: str, precision: str | None, overrides: Overrides, options: RunOptions) -> Model:
    from resnet_infer.backends.engine_file import read_engine
    from resnet_infer.backends.trt import TensorRTBackend

    overrides.check_no_graph(str(path))
    record, plan = read_engine(path, verify=overrides.verify)
    if overrides.arch and overrides.arch != record.manifest.spec.name:
        raise UsageError(f"{path}: its manifest says {record.manifest.spec.name}; --arch cannot change it")
    if precision and precision != record.manifest.precision:
        raise ArtifactError(
            f"{path}: is {record.manifest.precision}, not {precision}; precision is in the file: "
            f"export with --precision {precision}"
        )
    if options != RunOptions(cuda_graph=options.cuda_graph):
        raise UsageError(f"{path}: --provider and --prefer-nhwc are for onnxruntime; an engine takes --cuda-graph only")
    manifest = overrides.applied_to(record.manifest, str(path))
    backend = TensorRTBackend(
        path.name, replace(record, manifest=manifest), plan, device, cuda_graph=options.cuda_graph
    )
    return Model(name=path.name, manifest=manifest, backend=backend, file=path, sha256=record.sha256)
