"""What is to be trained on what, and where it is kept: everything decided before the first iteration."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from resnet_infer.backends.devices import torch_device
from resnet_infer.data.classes import class_indices, labels_of
from resnet_infer.data.source import Source, Subset
from resnet_infer.errors import UsageError
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels
from resnet_infer.train import state as saved
from resnet_infer.train.fingerprint import Fingerprint, fingerprint
from resnet_infer.train.images import Images, InMemory, Streamed, read_into_memory
from resnet_infer.train.recipe import Recipe, recipe_for
from resnet_infer.train.step import resolved_precision
from resnet_infer.train.stream import Stream, split


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training run."""

    spec: ModelSpec
    recipe: Recipe
    training: Source
    testing: Source | None
    """Images not trained on; None where there are none."""
    labels: Labels
    folder: Path
    workers: int | None = None
    """Processes that decode; None chooses."""


def new_job(
    source: Source,
    folder: Path,
    *,
    arch: str,
    recipe: str,
    values: Mapping[str, Any],
    testing: Source | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Job:
    """A run to be begun in a folder that holds none; raises UsageError or DataError."""
    if (folder / saved.STATE).exists():
        raise UsageError(
            f"{folder}: holds a training run already; continue with --resume {folder}, or give another folder"
        )
    labels = labels_of(source)
    spec = spec_from_name(arch, len(labels.names))
    settled = recipe_for(recipe, spec, values)
    settled = replace(settled, precision=resolved_precision(settled, torch_device(device)))  # type: ignore[arg-type]
    training, testing = _parts(source, testing, settled)
    if testing is not None:
        class_indices(testing, labels, spec.classes)  # raises now rather than at the first test
    saved.write_bytes(folder / saved.RECIPE, settled.to_toml().encode())  # fails now rather than after the first hours
    return Job(
        spec=spec,
        recipe=settled,
        training=training,
        testing=testing,
        labels=labels,
        folder=folder,
        workers=workers,
    )


def resumed_job(
    source: Source,
    folder: Path,
    *,
    arch: str | None = None,
    values: Mapping[str, Any],
    testing: Source | None = None,
    workers: int | None = None,
) -> tuple[Job, saved.State]:
    """A run to be continued, and its state; raises UsageError, naming what differs, if it is not the one asked for."""
    state = saved.load_state(folder)
    recipe = Recipe.from_dict(state.recipe)
    training, testing = _parts(source, testing, recipe)
    labels = labels_of(source)
    spec = spec_from_name(arch, len(labels.names)) if arch else None
    saved.check_same_run(folder, state, spec, values)
    used = Stream(len(training.samples), recipe.batch, recipe.seed).used(state.iteration)
    Fingerprint(**state.data).check(fingerprint(training), training, folder, used)
    job = Job(
        spec=ModelSpec.from_dict(state.architecture),
        recipe=recipe,
        training=training,
        testing=testing,
        labels=labels,
        folder=folder,
        workers=workers,
    )
    return job, state


def training_images(job: Job, device: torch.device, rank: int, world: int) -> Images:
    """The job's training set, ready to give batches; raises DataError or UsageError."""
    recipe = job.recipe
    stream = Stream(len(job.training.samples), recipe.batch, recipe.seed, rank, world)
    classes_N = class_indices(job.training, job.labels, job.spec.classes)
    if recipe.loading == "stream":
        return Streamed(job.training, classes_N, stream, recipe, device, job.workers)
    images_NHWC = read_into_memory(job.training, recipe.crop, job.workers)
    return InMemory(images_NHWC, classes_N, stream, recipe, device)


def _parts(source: Source, testing: Source | None, recipe: Recipe) -> tuple[Source, Source | None]:
    """The images to train on and those to test on."""
    if not recipe.hold_out:
        return source, testing
    if testing is not None:
        raise UsageError("--hold-out and --test-data both say what to test on; leave one out")
    kept, held_out = split(len(source.samples), recipe.hold_out, recipe.seed)
    name = f"{source.name} ({len(held_out)} held out)"
    return Subset(source.name, source, kept), Subset(name, source, held_out)
