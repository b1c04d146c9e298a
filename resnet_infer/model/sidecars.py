"""What lies beside a weights file and describes it: architecture, preprocessing and class names.

Read: timm's `config.json`, transformers' `config.json` and `preprocessor_config.json`, and `architecture` or
`architecture.json`, which holds a name (`resnet50-v1`) or the architecture record of one of our manifests.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_infer.console import note
from resnet_infer.errors import CheckpointError, UnknownNameError, UsageError
from resnet_infer.files import sha256_of
from resnet_infer.model.sidecar_configs import (
    check_timm_args,
    processor_preprocessing,
    timm_labels,
    timm_preprocessing,
    transformers_labels,
)
from resnet_infer.model.transformers_layout import TransformersFacts, facts_of_transformers
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import checked_json
from resnet_infer.spec.preprocessing import Preprocessing

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
ARCHITECTURE = ("architecture", "architecture.json")
HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The names that timm and transformers give the weights that `config.json` describes."""
OTHER_WEIGHTS = (".safetensors", ".pth", ".pt", ".th", ".bin", ".tar", ".ckpt")
NOT_WEIGHTS = ("optimizer.", "scheduler.", "rng_state", "training_args.", "scaler.")
"""What transformers' trainer puts beside them."""
MAX_BYTES = 16 * 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What the files beside a weights file say of it; None where they say nothing."""

    architecture: str | ModelSpec | None = None
    """A name, or a record whose class count is to be taken from the tensors."""
    transformers: TransformersFacts | None = None
    """In place of `architecture` for a transformers ResNet."""
    preprocessing: Preprocessing | None = None
    setting: str = ""
    """The preprocessing in words: whose, and which of several test settings."""
    labels: Labels | None = None
    classes: int | None = None
    files: tuple[Path, ...] = ()
    published: str = ""
    """The key of the published checkpoint that the file is, by its name and hash."""

    @property
    def where(self) -> str:
        """The files in words, for a message."""
        return " and ".join(map(str, self.files))

    def told(self) -> str:
        """What they say, in words."""
        name = self.architecture.name if isinstance(self.architecture, ModelSpec) else self.architecture
        parts = [f"architecture {name}"] if name else []
        parts += ["its architecture"] if self.transformers else []
        parts += [f"preprocessing ({self.setting})"] if self.preprocessing else []
        parts += [f"{len(self.labels.names)} class names"] if self.labels else []
        return ", ".join(parts)

    def record(self) -> dict[str, Any]:
        """For a manifest: what was said, and by which files, with the SHA-256 of each."""
        return {"said": self.told(), "files": {file.name: sha256_of(file) for file in self.files}}


def read_sidecar(weights: Path) -> Sidecar | None:
    """What the files in the folder of this weights file say of it; None if there are none.

    Raises CheckpointError naming the file that is malformed, contradicts another, or asks for what cannot be done.
    """
    folder = weights.parent
    found = [file for file in (folder / name for name in ARCHITECTURE) if file.is_file()]
    named = [_read(_architecture_file, file) for file in found]
    for file, other in zip(found[1:], named[1:], strict=True):
        _agree(named[0], other, found[0], file)
    config = folder / CONFIG
    hub = _read(_config, config) if _describes(config, weights) else None
    if hub is None:
        return Sidecar(architecture=named[0], files=tuple(found)) if found else None
    if (folder / PROCESSOR).is_file():
        hub = _with_processor(hub, folder / PROCESSOR)
    if found:
        if hub.architecture:
            _agree(named[0], hub.architecture, found[0], config)
        hub = replace(hub, architecture=named[0], transformers=None, files=(*found, *hub.files))
    return hub


def _describes(config: Path, weights: Path) -> bool:
    """Whether `config.json` is about this file: the hub's own name, or the only weights in the folder."""
    if not config.is_file():
        return False
    if weights.name in HUB_WEIGHTS:
        return True
    others = [
        file.name
        for file in sorted(weights.parent.iterdir())
        if file.name.lower().endswith(OTHER_WEIGHTS) and not file.name.startswith(NOT_WEIGHTS) and file != weights
    ]
    if others:
        note(f"{config}: not used for {weights.name}, since {others[0]} beside it may be what it describes")
    return not others


def _read(reader: Any, file: Path) -> Any:
    try:
        return reader(file)
    except (UsageError, OSError) as error:
        raise CheckpointError(
            f"{file}: {error}; mend it, or move it out of the folder and say with flags what is to be said"
        ) from error


def _json(file: Path) -> Any:
    """Its values; raises UsageError."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"is over {MAX_BYTES:,} bytes")
        return checked_json(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot be read as JSON ({str(error)[:120]})") from error


def _config(file: Path) -> Sidecar | None:
    values = _json(file)
    if not isinstance(values, dict):
        raise UsageError("is not a JSON object")
    if "architecture" in values:
        return _timm(values, file)
    kind = values.get("model_type")
    if kind == "resnet":
        facts = facts_of_transformers(values)
        return Sidecar(transformers=facts, labels=transformers_labels(values), classes=facts.classes, files=(file,))
    if kind is not None or "architectures" in values:
        raise UsageError(f"describes a model of type {str(kind)[:40]!r}, not a ResNet")
    note(f"{file}: not used: it names no architecture, as timm's and transformers' config.json do")
    return None


def check_type(config: Path) -> None:
    """Raise CheckpointError if a `config.json` names another kind of model, before its weights are fetched."""

    def reader(file: Path) -> None:
        values = _json(file)
        kind = values.get("model_type") if isinstance(values, dict) and "architecture" not in values else None
        if kind not in (None, "resnet"):
            raise UsageError(f"describes a model of type {str(kind)[:40]!r}, not a ResNet")

    _read(reader, config)


def _timm(values: Mapping[str, Any], file: Path) -> Sidecar:
    name = _plain_name(values["architecture"])
    nested = values.get("pretrained_cfg")
    if nested is not None and not isinstance(nested, dict):
        raise UsageError("pretrained_cfg is not an object")
    cfg = values if nested is None else {**nested, **{k: v for k, v in values.items() if k.startswith("label_")}}
    check_timm_args(values)
    if cfg is not values:
        check_timm_args({**cfg, "model_args": None, "pretrained_cfg": None})
    classes = values.get("num_classes", cfg.get("num_classes"))
    if classes is not None and type(classes) is not int:
        raise UsageError(f"num_classes is {str(classes)[:40]}, not a whole number")
    told = (values.get("model_args") or {}).get("num_classes")
    if None not in (told, classes) and told != classes:
        raise UsageError(f"num_classes is {classes}, and {told} in model_args")
    preprocessing, setting = timm_preprocessing(cfg)
    return Sidecar(
        architecture=name,
        preprocessing=preprocessing,
        setting=setting,
        labels=timm_labels(cfg, classes),
        classes=classes,
        files=(file,),
    )


def _with_processor(hub: Sidecar, file: Path) -> Sidecar:
    def reader(file: Path) -> tuple[Preprocessing | None, str]:
        values = _json(file)
        if not isinstance(values, dict):
            raise UsageError("is not a JSON object")
        found, setting = processor_preprocessing(values)
        if found and hub.preprocessing and found != hub.preprocessing:
            raise UsageError(
                f"contradicts {hub.files[0].name} beside it: {found.describe()}, against {hub.preprocessing.describe()}"
            )
        return found, setting

    found, setting = _read(reader, file)
    if found is None or hub.preprocessing:
        return hub
    return replace(hub, preprocessing=found, setting=setting, files=(*hub.files, file))


def _architecture_file(file: Path) -> str | ModelSpec:
    """A name, alone or as JSON, or a record; raises UsageError."""
    with file.open("rb") as opened:
        start = opened.read(200).strip()
    if file.suffix != ".json" and not start.startswith((b"{", b'"', b"[")):
        try:
            return _plain_name(start.decode("ascii"))
        except UnicodeDecodeError as error:
            raise UsageError("holds no name of an architecture") from error
    values = _json(file)
    if isinstance(values, dict) and "architecture" in values:
        values = values["architecture"]
    return ModelSpec.from_dict(values) if isinstance(values, dict) else _plain_name(values)


def _plain_name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UsageError(f"holds no name of an architecture: {json.dumps(value)[:60]}")
    return value


def _agree(first: str | ModelSpec, other: str | ModelSpec, file: Path, beside: Path) -> None:
    """Raise CheckpointError if two files name different networks."""
    try:
        one, two = (
            replace(spec_from_name(said) if isinstance(said, str) else said, name="", classes=1)
            for said in (first, other)
        )
    except UnknownNameError as error:
        if first == other:
            return  # whoever uses it says that it is unknown
        raise CheckpointError(f"{file}: contradicts {beside.name} beside it; move one of them away") from error
    if one != two:
        names = [said if isinstance(said, str) else said.name for said in (first, other)]
        raise CheckpointError(
            f"{file}: says {names[0]}, and {beside.name} beside it {names[1]}; move the wrong one out of the folder"
        )
