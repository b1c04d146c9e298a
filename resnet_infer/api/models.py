"""A model by name, with what the user says of it."""

import os
from collections.abc import Sequence
from pathlib import Path

from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.load import Model, open_model
from resnet_infer.errors import UsageError
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec.labels import Labels, labels_from_file
from resnet_infer.spec.manifest import Scores

Triple = tuple[float, float, float]


def load(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str | None = None,
    arch: str | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    scores: Scores | None = None,
    output_name: str | None = None,
    options: RunOptions | None = None,
) -> Model:
    """Open a checkpoint by key or file (runs on PyTorch), an .onnx file (ONNX Runtime) or an .engine file (TensorRT).

    `device` is auto, cpu, cuda or cuda:N. `precision` of None is the file's own, fp32 for a checkpoint. `arch`, `mean`,
    `std` (of RGB in 0..1) and `labels` (a file, or class names in order) go over what the file says. `scores` and
    `output_name` say of an .onnx file of another tool what it gives, and by which output. Close the model, or use it in
    a `with` statement, to free the device's memory.

    Raises UsageError or UnknownNameError for a request that cannot work, CheckpointError or ArtifactError for a file
    that cannot be used, DownloadError, BackendError if the device or precision is not available, GateError for a file
    that is not of the precision it claims.
    """
    if labels is None:
        known = None
    elif isinstance(labels, (str, os.PathLike)):
        known = labels_from_file(Path(labels))
    else:
        known = Labels(names=tuple(labels))
    overrides = Overrides(arch=arch, mean=mean, std=std, labels=known, scores=scores, output_name=output_name)
    return open_model(os.fspath(model), device=device, precision=precision, overrides=overrides, options=options)


def opened(model: Model | str | os.PathLike[str]) -> Model:
    """The model itself, or the one of this name; raises as `load`."""
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        return load(model)
    raise UsageError(f"a model is what `load` returns, a key or a file; got {type(model).__name__}")
