"""What a TensorRT engine is and needs, kept in `NAME.engine.json` beside it, and whether a host has that.

The engine itself stays a plain plan, which trtexec, Triton and C++ load: a header inside it would not. An engine runs
on the release, and mostly on the GPU, that it was built for; TensorRT says so only after reading all of it, in words
that name neither. So its needs are compared with the host before.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.spec.manifest import UNVERIFIED, Manifest, checked_json, has_check, with_check
from resnet_infer.spec.precisions import Layer
from resnet_infer.spec.shapes import ShapeRange

Flavour = Literal["tensorrt", "tensorrt_rtx"]
VERSION = 1
MAX_PROFILES = 100
Capability = tuple[int, int]
"""CUDA compute capability, (9, 0) for Hopper."""

KINDS: Mapping[str, type] = {
    "version": str, "platform": str, "gpu": str, "capabilities": list, "version_compatible": bool, "profiles": list,
    "size_bytes": int, "sha256": str, "onnx_sha256": str, "options": dict, "layers": list, "kernels": dict,
}  # fmt: skip
"""Types of an engine manifest's values."""

RTX_DEFAULT: tuple[Capability, ...] = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""GPUs that TensorRT-RTX 1.x builds portable engines for unless told otherwise; Hopper and B200 are not among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine an engine is to run on."""

    versions: Mapping[str, str]
    """Version of every TensorRT flavour that is installed."""
    gpu: str = ""
    """Name of the GPU; empty if there is none."""
    capability: Capability | None = None
    platform: str = "linux-x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """The manifest of an engine file."""

    manifest: Manifest
    """Of the network in it."""
    flavour: Flavour
    version: str
    """Of the TensorRT that built it."""
    platform: str
    gpu: str
    """What it was built on; empty for an engine built without a GPU."""
    capabilities: tuple[Capability, ...]
    """GPUs it was built for."""
    hardware_compatibility: Literal["none", "ampere-plus", "same-compute-capability"] = "none"
    version_compatible: bool = False
    profiles: tuple[ShapeRange, ...]
    size_bytes: int
    sha256: str
    onnx_sha256: str
    """Of the graph it was built from, without its manifest."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Builder options as they were set."""
    layers: tuple[Layer, ...] = ()
    """As read back from TensorRT's own network after parsing."""
    kernels: Mapping[str, int] = field(default_factory=dict)
    """Convolution kernels by the type they read, from the engine inspector; empty where no GPU could be asked."""

    def to_json(self) -> str:
        """Indented JSON, for people too."""
        values = asdict(self) | {
            "version": self.version,
            "manifest": self.manifest.to_dict(),
            "profiles": [profile.to_dict() for profile in self.profiles],
        }
        return json.dumps(with_check({"resnet_infer_engine": VERSION} | values), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str, *, verify: bool = True) -> "EngineRecord":
        """Parse and validate; raises ArtifactError naming `where` for anything malformed.

        Without `verify` its checksum may be wrong.
        """
        try:
            values = checked_json(text)
            if not isinstance(values, dict) or values.get("resnet_infer_engine") is not VERSION:
                raise UsageError(f"it is not an engine manifest of version {VERSION}")
            if values["flavour"] not in get_args(Flavour):
                raise UsageError(f"unknown flavour {values['flavour']!r}")
            if values["hardware_compatibility"] not in ("none", "ampere-plus", "same-compute-capability"):
                raise UsageError(f"unknown hardware compatibility {values['hardware_compatibility']!r}")
            for key, kind in KINDS.items():
                if type(values[key]) is not kind:
                    raise UsageError(f"its {key} is not of type {kind.__name__}")
            capabilities = tuple((major, minor) for major, minor in values["capabilities"])
            if not capabilities or not all(type(number) is int for pair in capabilities for number in pair):
                raise UsageError("its capabilities are not pairs of whole numbers")
            layers = tuple(Layer(**layer) for layer in values["layers"])
            for layer in layers:
                if not all(isinstance(v, str) for v in (layer.name, layer.operator, layer.type)):
                    raise UsageError("its layers have no names or types")
                if type(layer.parameters) is not int:
                    raise UsageError("its layers have no number of parameters")
            profiles = tuple(ShapeRange.from_dict(profile) for profile in values["profiles"])
            if not 1 <= len(profiles) <= MAX_PROFILES:
                raise UsageError(f"it has {len(profiles)} profiles, not 1..{MAX_PROFILES}")
            if not all(type(count) is int for count in values["kernels"].values()):
                raise UsageError("its kernels are not counted in whole numbers")
            record = cls(
                manifest=Manifest.from_json(json.dumps(values["manifest"]), where),
                flavour=values["flavour"],
                version=values["version"],
                platform=values["platform"],
                gpu=values["gpu"],
                capabilities=capabilities,
                hardware_compatibility=values["hardware_compatibility"],
                version_compatible=values["version_compatible"],
                profiles=profiles,
                size_bytes=values["size_bytes"],
                sha256=values["sha256"],
                onnx_sha256=values["onnx_sha256"],
                options=values["options"],
                layers=layers,
                kernels=values["kernels"],
            )
            if verify and not has_check(values):
                raise UsageError(f"it was damaged or changed by hand: its checksum differs {UNVERIFIED}")
        except (UsageError, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise ArtifactError(
                f"{where}: cannot be used as an engine's manifest: {str(error)[:200]}; rebuild it"
            ) from error
        return record


def record_path(engine: Path) -> Path:
    """Where the manifest of an engine is: `NAME.engine.json` beside `NAME.engine`."""
    return engine.with_name(engine.name + ".json")


def misfits(record: EngineRecord, host: Host) -> list[str]:
    """Every reason why this engine cannot run on this host, in words; empty if it should run."""
    reasons = []
    package = record.flavour.replace("_", "-")
    installed = host.versions.get(record.flavour)
    if installed is None:
        reasons.append(f"it needs {package} {record.version}, which is not installed (pip install {_wanted(record)})")
    elif not _version_fits(record, installed):
        later = " or later" if record.version_compatible else ""
        reasons.append(f"it needs {package} {record.version}{later}, and {installed} is installed")
    if record.platform != host.platform:
        reasons.append(f"it was built for {record.platform}, and this is {host.platform}")
    if host.capability is None:
        reasons.append(f"it needs an NVIDIA GPU ({_capabilities(record)}), and PyTorch finds none here")
    elif not _capability_fits(record, host.capability):
        reasons.append(
            f"it was built for {_capabilities(record)}, and the {host.gpu} here is "
            f"compute capability {_dotted(host.capability)}"
        )
    return reasons


def check_host(record: EngineRecord, host: Host, path: Path) -> None:
    """Raise ArtifactError with everything that does not fit and the command that builds the engine anew."""
    if reasons := misfits(record, host):
        manifest = record.manifest
        flags = f" --precision {manifest.precision}" if manifest.precision != "fp32" else ""
        flags += f" --head {manifest.head}" if manifest.head == "dense" else ""
        flags += " --preprocess-in-graph" if manifest.input.startswith("uint8") else ""
        if len(record.profiles) > 1:
            flags += " --scales " + ",".join(str(profile.min[1]) for profile in record.profiles)
        known = manifest.source and " " not in manifest.source  # else it is told in words
        made = f" (made from: {manifest.source})" if manifest.source and not known else ""
        raise ArtifactError(
            f"{path}: cannot run here: {'; '.join(reasons)}{made}. Build it where it is to run: resnet-infer export "
            f"{manifest.source if known else 'MODEL'} --to tensorrt{flags} -o {path.name}"
        )


def check_file(record: EngineRecord, path: Path, size_bytes: int, sha256: str) -> None:
    """Raise ArtifactError if the file is not the one that the manifest was written for."""
    if size_bytes < record.size_bytes:
        raise ArtifactError(
            f"{path}: truncated: {size_bytes:,} of {record.size_bytes:,} bytes; copy it again, or rebuild it"
        )
    if sha256 != record.sha256:
        raise ArtifactError(
            f"{path}: is not the engine that {record_path(path).name} describes (its sha256 differs); "
            "put the two files of one build together, or rebuild it"
        )


def _wanted(record: EngineRecord) -> str:
    return f"'{record.flavour.replace('_', '-')}=={record.version}'"


def _version_fits(record: EngineRecord, installed: str) -> bool:
    """The same release; a version-compatible engine also runs on later ones (never an RTX engine)."""
    if installed == record.version:
        return True
    if not record.version_compatible or record.flavour == "tensorrt_rtx":
        return False
    return _numbers(installed) >= _numbers(record.version)


def _capability_fits(record: EngineRecord, capability: Capability) -> bool:
    if record.hardware_compatibility == "ampere-plus":
        return capability >= (8, 0)
    return capability in record.capabilities


def _capabilities(record: EngineRecord) -> str:
    if record.hardware_compatibility == "ampere-plus":
        return "compute capability 8.0 or later"
    return f"compute capability {', '.join(map(_dotted, record.capabilities))}"


def _dotted(capability: Sequence[int]) -> str:
    return ".".join(map(str, capability))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal() and len(part) < 10)
