"""Weights files as bytes on disk: read once, hashed, and unpacked without running code."""

import argparse
import hashlib
import io
import itertools
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.model.digest import tensors_sha256
from resnet_infer.model.layouts import StateDict, unwrap
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.manifest import Manifest

PICKLED = (".pth", ".pt", ".th", ".ckpt", ".bin", ".tar", ".pkl")


def read_file(path: Path, *, verify: bool = True) -> tuple[StateDict, Manifest | None, str]:
    """The tensors of a weights file under our names, its manifest if it is one of ours, and the SHA-256 of its bytes.

    All three are of the same bytes, even if the file is replaced meanwhile. Raises CheckpointError or ArtifactError,
    with `verify` also where checksums in the file are wrong.
    """
    data = bytes_of(path)
    digest = hashlib.sha256(data).hexdigest()
    if path.suffix.lower() in PICKLED:
        return unwrap(load_pickle(data, path), str(path)), None, digest
    tensors, metadata = _load_safetensors(data, path)
    text = metadata.get(manifests.KEY)
    manifest = Manifest.from_json(text, str(path), verify=verify) if text else None
    if verify and manifest and manifest.weights_sha256 not in ("", tensors_sha256(tensors)):
        raise CheckpointError(
            f"{path}: its weights are not those that it was saved with (the checksum differs): damaged, or changed by "
            f"another tool; copy or save it again {manifests.UNVERIFIED}"
        )
    return unwrap(tensors, str(path)), manifest, digest


def _load_safetensors(data: bytes, path: Path) -> tuple[StateDict, Mapping[str, str]]:
    """Tensors and metadata."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        return tensors, json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (OSError, ValueError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file, or damaged ({error}); download or save it again"
        ) from error


def bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def load_pickle(data: bytes, path: Path) -> object:
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
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path}: not a PyTorch checkpoint, or truncated; download or save it again") from error
    if any("/code/" in name for name in names):
        raise CheckpointError(
            f"{path}: is TorchScript, a program and not weights; save those: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if unpacked > len(data):
        raise CheckpointError(f"{path}: is packed, to {unpacked:,} bytes; torch.save stores: save it again")


def _global_in(message: str) -> str:
    words = message.replace("`", " ").split()
    for before, word in itertools.pairwise(words):
        if before in ("GLOBAL", "global:", "class", "function", "operand") and word != "GLOBAL":
            return word.strip(".,")[:100]
    return "an object other than tensors"


def held_by(path: Path) -> object:
    """What a weights file holds, as it is."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    data = bytes_of(path)
    return load_pickle(data, path) if path.suffix.lower() in PICKLED else _load_safetensors(data, path)[0]
