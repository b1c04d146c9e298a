"""Checkpoints: weights with their architecture, preprocessing, labels and origin, loaded without running code."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
from torch import Tensor

from resnet_infer.console import note
from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.files import replacing
from resnet_infer.model import hub
from resnet_infer.model.adapters import conform, read_architecture
from resnet_infer.model.described import describe, spec_said
from resnet_infer.model.digest import tensors_sha256
from resnet_infer.model.download import weights_file
from resnet_infer.model.layouts import StateDict, unwrap, with_classifier
from resnet_infer.model.overrides import Overrides, native_preprocessing
from resnet_infer.model.sidecars import Sidecar
from resnet_infer.model.untold import asked_for, named_by, untold
from resnet_infer.model.weights import PICKLED, bytes_of, held_by, load_pickle, read_file
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.labels import default_labels, imagenet1k
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
)
from resnet_infer.spec.registry import bundled_folders, published
from resnet_infer.spec.timm_models import timm_models

SUFFIXES = (".safetensors", *PICKLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights and everything needed to use them."""

    name: str
    """What the user calls it: a key, or the file's name."""
    manifest: Manifest
    state_dict: Mapping[str, Tensor]
    file: Path | None = None
    """What it was read from; None for one that was made in memory."""
    sha256: str = ""
    """Of the very bytes that were read, whatever the file holds since."""


def is_checkpoint_file(model: str) -> bool:
    """Whether this names a weights file by its suffix."""
    return model.lower().endswith(SUFFIXES)


def load_checkpoint(model: str, overrides: Overrides | None = None) -> Checkpoint:
    """Load a checkpoint by key (bundled or published), by file, or by name from the hub.

    Raises UnknownNameError, DownloadError, CheckpointError or UsageError, each saying what to do.
    """
    overrides = overrides or Overrides()
    overrides.check_no_graph(model)
    if is_checkpoint_file(model) and not model.startswith(hub.PREFIXES):
        return _from_file(Path(model), overrides)
    bundled = bundled_folders()
    if model in bundled:
        return replace(_from_file(bundled[model] / "weights.safetensors", overrides), name=model)
    if fetched := hub.fetch_named(model):
        return replace(_from_file(fetched.weights, overrides, fetched.source), name=model)
    if Path(model).exists():
        raise UsageError(
            f"{model}: not a model file by its name; weights end in {', '.join(SUFFIXES)}, exports in .onnx"
        )
    card = published(model, timm_models())
    path = weights_file(card)
    data = bytes_of(path)
    overrides = replace(overrides, arch=overrides.arch or card.architecture)
    spec, state_dict, _ = _network(unwrap(load_pickle(data, path), model), overrides, model)
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(card.sha256_prefix):
        raise CheckpointError(f"{path}: was replaced while it was opened; open it again")
    manifest = Manifest(
        spec=spec,
        preprocessing=card.preprocessing,
        labels=imagenet1k(),
        source=model,
        source_sha256=digest,
    )
    manifest = overrides.applied_to(manifest, model)
    return Checkpoint(name=model, manifest=manifest, state_dict=state_dict, file=path, sha256=digest)


def save_checkpoint(path: Path, state_dict: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Write weights and manifest as safetensors; the file appears whole or not at all."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in state_dict.items()}
    manifest = replace(manifest, weights_sha256=tensors_sha256(tensors))
    with replacing(path) as partial:
        safetensors.torch.save_file(tensors, partial, metadata={manifests.KEY: manifest.to_json()})


def _from_file(path: Path, overrides: Overrides, source: str = "") -> Checkpoint:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a weights file, or a key that `resnet-infer models` lists")
    tensors, manifest, digest = read_file(path, verify=overrides.verify)
    known = Sidecar() if manifest else describe(path, digest)
    if manifest:
        overrides.check_no_weights(str(path))
    if manifest and not overrides.arch:
        spec, state_dict, how = manifest.spec, conform(tensors, manifest.spec, str(path)), ""
    else:
        spec, state_dict, how = _network(tensors, overrides, str(path), known, manifest.spec if manifest else None)
    if manifest is None:
        manifest = Manifest(
            spec=spec,
            preprocessing=known.preprocessing or _assumed_preprocessing(spec, overrides, path),
            labels=known.labels or default_labels(spec.classes, spec.family),
            source=source or known.published or path.name,
            source_sha256=digest,
            extra={"architecture": how} | ({"described_by": known.record()} if known.told() else {}),
        )
    elif source:
        manifest = replace(manifest, source=source, source_sha256=digest)
    manifest = overrides.applied_to(replace(manifest, spec=spec), str(path))
    return Checkpoint(name=path.name, manifest=manifest, state_dict=state_dict, file=path, sha256=digest)


def _network(
    tensors: StateDict, overrides: Overrides, where: str, known: Sidecar | None = None, own: ModelSpec | None = None
) -> tuple[ModelSpec, StateDict, str]:
    """The architecture, the tensors as its state dict, and how it is known.

    What a flag says goes over the file's `own` manifest, that over what files beside it and published names say, that
    over its name, and that over what its tensors tell.
    """
    if overrides.head_from:
        tensors = with_classifier(tensors, held_by(overrides.head_from), str(overrides.head_from))
    read = own or read_architecture(tensors, where)
    if overrides.arch:
        spec, how = asked_for(overrides.arch, read), "as asked for"
    elif known and (said := spec_said(known, read, where)):
        spec, how = said, f"by {known.where or 'its published name'}"
    elif named := named_by(where, read):
        spec, how = named, f"by the file's name; assumed: {untold(named)}"
        note(f"{where}: taken for a {spec.name} by its name, with {untold(spec)}; --arch says otherwise")
    else:
        spec, how = read, f"read off the tensors; assumed: {untold(read)}"
        note(f"{where}: a {spec.name} by its tensors, which do not tell {untold(spec)}; --arch says otherwise")
    try:
        return spec, conform(tensors, spec, where), how
    except CheckpointError as error:
        if not (known and known.files) or overrides.arch:
            raise
        raise CheckpointError(f"{known.where}: says {spec.name}, which these weights are not: {error}") from error


def _assumed_preprocessing(spec: ModelSpec, overrides: Overrides, path: Path) -> Preprocessing:
    """What a bare weights file is fed: ImageNet's convention is universal; for CIFAR there is none to assume."""
    if overrides.mean and overrides.std:
        return overrides.native(spec, str(path))
    if (channels := spec.channels) != 3:
        raise UsageError(
            f"{path}: takes {channels} channel{'s' if channels > 1 else ''} and does not say its preprocessing; give "
            f"--mean and --std in 0..1, {channels} number{'s' if channels > 1 else ''} each"
        )
    if spec.small:
        raise UsageError(
            f"{path}: a bare CIFAR weights file does not say its preprocessing; give --mean and --std in 0..1 "
            "(often 0.485,0.456,0.406 and 0.229,0.224,0.225, or the data set's own)"
        )
    note(f"{path.name} does not say its preprocessing; using ImageNet's mean and std (--mean, --std change it)")
    return native_preprocessing(spec, IMAGENET_MEAN, IMAGENET_STD)


__all__ = [
    "Checkpoint",
    "Overrides",
    "is_checkpoint_file",
    "load_checkpoint",
    "native_preprocessing",
    "read_file",
    "replacing",
    "save_checkpoint",
]
