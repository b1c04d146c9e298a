"""A model by name, with what the user says of it."""

import os
from collections.abc import Sequence
from pathlib import Path

from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.load import Model, open_model
from resnet_infer.errors import UsageError
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec.label_files import labels_from_file
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Scores
from resnet_infer.spec.preprocessing import ChannelOrder, ChannelValues, InputRange, Interpolation


def load(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str | None = None,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: Interpolation | None = None,
    channel_order: ChannelOrder | None = None,
    input_range: InputRange | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    scores: Scores | None = None,
    options: RunOptions | None = None,
) -> Model:
    """Open a checkpoint by key, file or `hf-hub:owner/name` (runs on PyTorch), an .onnx (ONNX Runtime) or an .engine.

    `device` is auto, cpu, cuda or cuda:N. `precision` of None is the file's own, fp32 for a checkpoint. `arch`, `mean`
    and `std` (a number a channel, in the network's order of channels and range), `interpolation` (bilinear, bicubic,
    lanczos), `channel_order` (rgb, bgr), `input_range` (0-1, 0-255), `labels` (a file, or class names in order) and
    `scores` (what an .onnx file of another tool gives) go over what the file says; a description behind the name, as
    `net.pth?arch=resnet18&mean=0.5,0.5,0.5` or `net.onnx?output-name=logits`, goes over these. Close the model, or use
    it in a `with` statement, to free the device's memory.

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
    overrides = Overrides(
        arch=arch,
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        interpolation=interpolation,
        channel_order=channel_order,
        input_range=input_range,
        labels=known,
        scores=scores,
    )
    return open_model(os.fspath(model), device=device, precision=precision, overrides=overrides, options=options)


def _numbers(name: str, values: Sequence[float] | None) -> ChannelValues | None:
    if values is None:
        return None
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} needs a number a channel, as (0.485, 0.456, 0.406); got {values!r}") from error


def opened(model: Model | str | os.PathLike[str]) -> Model:
    """The model itself, or the one of this name; raises as `load`."""
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        return load(model)
    raise UsageError(f"a model is what `load` returns, a key or a file; got {type(model).__name__}")
