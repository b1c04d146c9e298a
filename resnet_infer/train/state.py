"""A run on disk: its state, from which it goes on bit for bit, and the weights that the rest of the package reads.

A run's folder holds `state.pt` (the last checkpoint, everything a run needs to go on), `last.safetensors` and
`best.safetensors` (weights with their manifest, of the last checkpoint and of the lowest test error), `recipe.toml`,
`metrics.jsonl`, `tensorboard/`, and at the end `curves.png` and `curves.html`. Every file appears whole or not at all.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.files import replacing, sync_folder
from resnet_infer.locks import Lock
from resnet_infer.model.digest import tensors_sha256
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.train.recipe import Recipe

STATE, LAST, BEST, RECIPE = "state.pt", "last.safetensors", "best.safetensors", "recipe.toml"
FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that the iterations to come depend on, and the account of those done."""

    format: int = FORMAT
    iteration: int
    """Iterations done."""
    architecture: Mapping[str, Any]
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    """The fields of the training images' `Fingerprint`."""
    mean_HWC: Tensor
    weights: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]
    schedule: Mapping[str, Any]
    window_N2: Tensor
    """Loss and error of the iterations since the last record of the metrics."""
    best_err: float | None
    """Lowest test error so far, in percent."""
    seconds: float
    """Time spent so far."""


def write_bytes(path: Path, data: bytes) -> None:
    """A file that is on the disk when this returns, whole; on an error the old one is still there."""
    with replacing(path, durable=True) as partial:
        partial.write_bytes(data)


def save_state(folder: Path, state: State) -> None:
    """Write the run's state; raises OSError if it does not fit the disk, and the former state is still there."""
    buffer = io.BytesIO()  # torch's own writer would not report a full disk in the operating system's words
    values = {field.name: getattr(state, field.name) for field in fields(State)}
    torch.save(values | {"sha256": _digest(values)}, buffer)
    write_bytes(folder / STATE, buffer.getvalue())


def load_state(folder: Path) -> State:
    """The state of the run in a folder; raises UsageError or CheckpointError."""
    path = folder / STATE
    if not path.is_file():
        raise UsageError(f"{folder}: no run to resume: it has no {STATE}; give the folder that --output named")
    try:
        values = dict(torch.load(path, map_location="cpu", weights_only=True))
        if "format" in values and values["format"] != FORMAT:
            raise CheckpointError(f"{path}: written in format {values['format']!r}; this release reads format {FORMAT}")
        digest = values.pop("sha256")
        state = State(**values)
        if digest != _digest(values):
            raise ValueError("its checksum differs")
    except CheckpointError:
        raise
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise CheckpointError(
            f"{path}: not the state of a training run, or damaged ({_in_short(error)}); restore it from a copy, or "
            f"start over in another folder: {LAST} has the weights"
        ) from error
    return state


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _digest(value: Any) -> str:
    """SHA-256 of plain values and tensors within one another."""
    digest = hashlib.sha256()
    if isinstance(value, Tensor):
        digest.update(tensors_sha256({"": value}).encode())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(f"{key!r}: {_digest(value[key])}\n".encode())
    else:
        digest.update(repr(value).encode())
    return digest.hexdigest()


def check_same_run(folder: Path, state: State, spec: ModelSpec | None, given: Mapping[str, Any]) -> None:
    """Raise UsageError, naming what differs, if a run is to be resumed as another.

    `spec` and `given` hold what the user states: the architecture if any, and fields of the recipe.
    """
    of_run, recipe = ModelSpec.from_dict(state.architecture), Recipe.from_dict(state.recipe)
    if spec and spec.name != of_run.name:
        raise UsageError(f"{folder}: holds a run of {of_run.name}, not of {spec.name}; leave out --arch, or start over")
    differing = [
        f"{name} is {getattr(recipe, name)}, not {value}"
        for name, value in given.items()
        if getattr(recipe, name) != value
    ]
    if differing:
        raise UsageError(f"{folder}: the run's recipe differs: {'; '.join(differing)}; leave these out, or start over")


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Within the body no other process trains in the folder; of several processes of a run, the leading one claims it.

    Raises UsageError if another run is under way there.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    new = not folder.exists()
    try:
        with Lock(folder, f"{folder}: another training is under way there; wait for its end, or give another folder"):
            sync_folder(folder.parent)
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):  # it has a run in it; else nothing was begun
                folder.rmdir()
