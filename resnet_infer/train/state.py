"""A run on disk: its state, from which it goes on bit for bit, and the weights that the rest of the package reads.

A run's folder holds `state.pt` (the last checkpoint, everything a run needs to go on), `last.safetensors` and
`best.safetensors` (weights with their manifest, of the last checkpoint and of the lowest test error), `recipe.toml`,
`metrics.jsonl`, `tensorboard/`, and at the end `curves.png` and `curves.html`. Every file appears whole or not at all.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_infer.data.source import Source
from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.files import replacing
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.train.recipe import Recipe

STATE, LAST, BEST, RECIPE = "state.pt", "last.safetensors", "best.safetensors", "recipe.toml"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that the iterations to come depend on, and the account of those done."""

    format: int = FORMAT
    iteration: int
    """Iterations done."""
    architecture: Mapping[str, Any]
    recipe: Mapping[str, Any]
    data: str
    """Fingerprint of the training images' names and classes."""
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
    torch.save({field.name: getattr(state, field.name) for field in fields(State)}, buffer)
    write_bytes(folder / STATE, buffer.getvalue())


def load_state(folder: Path) -> State:
    """The state of the run in a folder; raises UsageError or CheckpointError."""
    path = folder / STATE
    if not path.is_file():
        raise UsageError(f"{folder}: no run to resume: it has no {STATE}; give the folder that --output named")
    try:
        state = State(**torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not the state of a training run, or damaged ({error})") from error
    if state.format != FORMAT:
        raise CheckpointError(f"{path}: written in format {state.format}; this release reads format {FORMAT}")
    return state


def check_same_run(folder: Path, state: State, spec: ModelSpec | None, given: Mapping[str, Any], data: str) -> None:
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
    if data != state.data:
        raise UsageError(
            f"{folder}: the run was made with other training images (names or classes differ); give the same data"
        )


def fingerprint(source: Source) -> str:
    """A hash of every image's name and class, in order; folders above the class do not count."""
    digest = hashlib.sha256()
    for sample in source.samples:
        digest.update(f"{Path(sample.name).name}\t{sample.label}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
