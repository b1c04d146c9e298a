"""Checkpoints: weights with their architecture, preprocessing, labels and origin, loaded without running code."""

import argparse
import hashlib
import io
import itertools
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from resnet_infer.console import note
from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.files import replacing
from resnet_infer.model.adapters import StateDict, conform, read_architecture, unwrap
from resnet_infer.model.digest import tensors_sha256
from resnet_infer.model.download import weights_file
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.architectures import ModelSpec, spec_from_name
from resnet_infer.spec.labels import Labels, default_labels, imagenet1k
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ChannelOrder,
    ChannelValues,
    InputRange,
    Interpolation,
    Preprocessing,
    changed,
)
from resnet_infer.spec.registry import bundled_folders, published

PICKLED = (".pth", ".pt", ".th")
SUFFIXES = (".safetensors", *PICKLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the user says of a model over what its file says; None leaves the file's word."""

    arch: str | None = None
    mean: ChannelValues | None = None
    std: ChannelValues | None = None
    interpolation: Interpolation | None = None
    channel_order: ChannelOrder | None = None
    input_range: InputRange | None = None
    labels: Labels | None = None
    verify: bool = True
    """Whether checksums in the file must be right."""

    @property
    def input(self) -> dict[str, Any]:
        """What was said of the input, by the names of Preprocessing's fields."""
        names = ("mean", "std", "interpolation", "channel_order", "input_range")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def native(self, spec: ModelSpec, where: str) -> Preprocessing:
        """The network's usual test input with what was said, mean and std among it; raises UsageError."""
        try:
            return native_preprocessing(spec, **self.input)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error

    def applied_to(self, manifest: Manifest, where: str) -> Manifest:
        """The manifest with these values; raises UsageError if they do not fit it, or are no preprocessing."""
        classes = manifest.spec.classes
        if self.labels and len(self.labels.names) != classes:
            raise UsageError(f"--labels has {len(self.labels.names)} names, but {where} has {classes} classes")
        inside = [name for name in self.input if name != "interpolation"]
        if manifest.input != "normalized" and inside:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in inside)
            raise UsageError(f"{where}: normalises inside its graph, which {flags} cannot change; export it again")
        try:
            preprocessing = changed(manifest.preprocessing, self.input, channels_of(manifest.spec))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        if preprocessing.channels == 4:
            note(f"{where} takes alpha as well: images are laid over white as ever, and alpha is opaque everywhere")
        return replace(manifest, preprocessing=preprocessing, labels=self.labels or manifest.labels)


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
    """Load a checkpoint by key (bundled or published) or by file.

    Raises UnknownNameError, DownloadError, CheckpointError or UsageError, each saying what to do.
    """
    overrides = overrides or Overrides()
    if is_checkpoint_file(model):
        return _from_file(Path(model), overrides)
    bundled = bundled_folders()
    if model in bundled:
        return replace(_from_file(bundled[model] / "weights.safetensors", overrides), name=model)
    if Path(model).exists():
        raise UsageError(
            f"{model}: not a model file by its name; weights end in {', '.join(SUFFIXES)}, exports in .onnx"
        )
    card = published(model)
    path = weights_file(card)
    data = _bytes_of(path)
    spec, state_dict = _network(unwrap(_load_pickle(data, path), model), overrides.arch or card.architecture, model)
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


def _from_file(path: Path, overrides: Overrides) -> Checkpoint:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a weights file, or a key that `resnet-infer models` lists")
    tensors, manifest, digest = read_file(path, verify=overrides.verify)
    if manifest and not overrides.arch:
        spec, state_dict = manifest.spec, conform(tensors, manifest.spec, str(path))
    else:
        spec, state_dict = _network(tensors, overrides.arch, str(path))
    if manifest is None:
        manifest = Manifest(
            spec=spec,
            preprocessing=_assumed_preprocessing(spec, overrides, path),
            labels=default_labels(spec.classes, spec.stem),
            source=path.name,
            source_sha256=digest,
        )
    manifest = overrides.applied_to(replace(manifest, spec=spec), str(path))
    return Checkpoint(name=path.name, manifest=manifest, state_dict=state_dict, file=path, sha256=digest)


def read_file(path: Path, *, verify: bool = True) -> tuple[StateDict, Manifest | None, str]:
    """The tensors of a weights file under our names, its manifest if it is one of ours, and the SHA-256 of its bytes.

    All three are of the same bytes, even if the file is replaced meanwhile. Raises CheckpointError or ArtifactError,
    with `verify` also where checksums in the file are wrong.
    """
    data = _bytes_of(path)
    digest = hashlib.sha256(data).hexdigest()
    if path.suffix.lower() in PICKLED:
        return unwrap(_load_pickle(data, path), str(path)), None, digest
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (OSError, ValueError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file, or damaged ({error}); download or save it again"
        ) from error
    text = metadata.get(manifests.KEY)
    manifest = Manifest.from_json(text, str(path), verify=verify) if text else None
    if verify and manifest and manifest.weights_sha256 not in ("", tensors_sha256(tensors)):
        raise CheckpointError(
            f"{path}: its weights are not those that it was saved with (the checksum differs): damaged, or changed by "
            f"another tool; copy or save it again {manifests.UNVERIFIED}"
        )
    return unwrap(tensors, str(path)), manifest, digest


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _load_pickle(data: bytes, path: Path) -> object:
    _check_packing(data, path)
    # torchvision's own training script stores its argparse.Namespace, which is plain data.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return loaded
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error) and (wanted := _global_in(str(error))):
            raise CheckpointError(
                f"{path}: loading it would run code ({wanted}), so it was not loaded; from a source you trust, "
                "save model.state_dict() alone"
            ) from error
        raise CheckpointError(f"{path}: not a PyTorch checkpoint, or damaged; download or save it again") from error
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise CheckpointError(
            f"{path}: not a PyTorch checkpoint, or truncated ({type(error).__name__}); download or save it again"
        ) from error


def _check_packing(data: bytes, path: Path) -> None:
    """Raise CheckpointError for a zip that unpacks to more than it is: torch stores, and inflates without bound."""
    if not data.startswith(b"PK\x03\x04"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path}: not a PyTorch checkpoint, or truncated; download or save it again") from error
    if unpacked > len(data):
        raise CheckpointError(f"{path}: is packed, to {unpacked:,} bytes; torch.save stores: save it again")


def _global_in(message: str) -> str:
    words = message.replace("`", " ").split()
    for before, word in itertools.pairwise(words):
        if before in ("GLOBAL", "global:", "class", "function", "operand") and word != "GLOBAL":
            return word.strip(".,")[:100]
    return "an object other than tensors"


def _network(tensors: StateDict, arch: str | None, where: str) -> tuple[ModelSpec, StateDict]:
    spec = read_architecture(tensors, where)
    if arch:
        spec = spec_from_name(arch, classes=spec.classes)
    return spec, conform(tensors, spec, where)


def native_preprocessing(spec: ModelSpec, mean: ChannelValues, std: ChannelValues, **said: Any) -> Preprocessing:
    """The usual test input of an architecture: 224 of 256 pixels on ImageNet, the whole 32x32 image on CIFAR.

    `said` are more fields of Preprocessing.
    """
    side = spec.native_size
    return Preprocessing(mean=mean, std=std, resize=256 if spec.stem == "imagenet" else side, crop=side, **said)


def channels_of(spec: ModelSpec) -> int:
    """Of the network's input: three but for grey, and with alpha."""
    return int(getattr(spec, "channels", 3))


def _assumed_preprocessing(spec: ModelSpec, overrides: Overrides, path: Path) -> Preprocessing:
    """What a bare weights file is fed: ImageNet's convention is universal; for CIFAR there is none to assume."""
    if overrides.mean and overrides.std:
        return overrides.native(spec, str(path))
    if (channels := channels_of(spec)) != 3:
        raise UsageError(
            f"{path}: takes {channels} channel{'s' if channels > 1 else ''} and does not say its preprocessing; give "
            f"--mean and --std in 0..1, {channels} number{'s' if channels > 1 else ''} each"
        )
    if spec.stem == "cifar":
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
