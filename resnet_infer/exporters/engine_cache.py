"""Engines kept by what they were built from, so that the same build is never done twice.

Key: SHA-256 over the graph, the profiles, every builder option, the TensorRT release and the GPU. Two builds of one
graph need not give the same engine (tactics are timed), so a hit also gives back the very file that was tested.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_infer.backends.engine_file import read_engine, write_engine
from resnet_infer.console import note
from resnet_infer.errors import ArtifactError
from resnet_infer.files import cache_folder
from resnet_infer.spec.engine_manifest import EngineRecord


def default_folder() -> Path:
    """Where engines are kept unless told otherwise."""
    return cache_folder() / "engines"


def engine_key(onnx_sha256: str, build: Mapping[str, Any]) -> str:
    """The content address of a build: `build` holds everything but the graph that decides the engine."""
    text = json.dumps({"onnx": onnx_sha256, "build": build}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fetch(folder: Path, key: str) -> tuple[EngineRecord, bytes] | None:
    """The kept engine of this key, or None if there is none, or a damaged one."""
    kept = _place(folder, key)
    if not kept.is_file():
        return None
    try:
        return read_engine(kept)
    except ArtifactError as error:
        note(f"the kept engine {kept.name} cannot be used and is rebuilt ({error})")
        return None


def keep(folder: Path, key: str, record: EngineRecord, plan: bytes) -> None:
    """Keep an engine under this key."""
    write_engine(record, plan, _place(folder, key))


def timing_file(folder: Path, version: str, gpu: str) -> Path:
    """The timing cache of this release and GPU, which all builds share."""
    name = "".join(c if c.isalnum() else "-" for c in f"{version}-{gpu}")
    return folder / f"timing-{name}.cache"


def _place(folder: Path, key: str) -> Path:
    return folder / f"{key}.engine"
