"""A model by the name a user gives it - a checkpoint's key or a file - ready to run, with its manifest."""

from dataclasses import dataclass
from pathlib import Path

from resnet_infer.backends.base import Backend
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.manifest import Manifest
from resnet_infer.model.checkpoints import Overrides, load_checkpoint

BACKENDS = ("torch", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A runnable network and what is known of it."""

    name: str
    manifest: Manifest
    backend: Backend


def open_model(
    model: str,
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    overrides: Overrides | None = None,
) -> Model:
    """Open a checkpoint (runs on torch) or an .onnx file (runs on onnxruntime).

    `backend` and `precision` of None take what the model is made for; fp32 for a checkpoint. What is asked for is
    what runs, or an error: UsageError, UnknownNameError, CheckpointError, ArtifactError, DownloadError, BackendError.
    """
    overrides = overrides or Overrides()
    if backend not in (None, *BACKENDS):
        raise UsageError(f"backend '{backend}' is not one of {', '.join(BACKENDS)}")
    if model.lower().endswith(".onnx"):
        if backend == "torch":
            raise UsageError(f"{model}: an ONNX file runs on onnxruntime; for torch give the checkpoint it came from")
        return _open_onnx(Path(model), device, precision, overrides)
    if backend == "onnxruntime":
        raise UsageError(
            f"{model}: onnxruntime runs .onnx files; make one with `resnet-infer export {model} --to onnx -o FILE`"
        )
    from resnet_infer.backends.pytorch import TorchBackend

    checkpoint = load_checkpoint(model, overrides)
    running = TorchBackend(checkpoint, device, precision or "fp32")
    return Model(name=checkpoint.name, manifest=checkpoint.manifest, backend=running)


def _open_onnx(path: Path, device: str, precision: str | None, overrides: Overrides) -> Model:
    from resnet_infer.backends.onnx_file import load_graph, manifest_of
    from resnet_infer.backends.ort import OrtBackend

    manifest = manifest_of(load_graph(path), path, overrides)
    running = OrtBackend(path, manifest, device)
    if precision and precision != running.info.precision:
        running.close()
        raise ArtifactError(
            f"{path}: is {running.info.precision}, not {precision}; precision is in the file: "
            f"export with --precision {precision}"
        )
    return Model(name=path.name, manifest=manifest, backend=running)
