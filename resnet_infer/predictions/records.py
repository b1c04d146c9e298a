"""What a model said of one image under one protocol, and what a set of such records was made with.

Shapes: K classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import DataError
from resnet_infer.files import json_text
from resnet_infer.spec.manifest import has_check, with_check

KEY = "resnet_infer"
FORMAT = 1
TOP_K = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One image under one protocol. Probabilities are float32 values."""

    index: int
    """Position in the data."""
    protocol: str
    name: str
    label: str | None = None
    """The class as the data says it."""
    truth: int | None = None
    """The same as the model's class index; None where the data states no class."""
    rank: int | None = None
    """How many classes score above the true one, equal scores included: 0 is right, 5 and more a top-5 error."""
    truth_prob: float | None = None
    """Probability of the true class."""
    top_classes: Sequence[int] = ()
    """The best five class indices (all, if there are fewer), best first; empty for an image that cannot be read."""
    top_probs: Sequence[float] = ()
    error: str = ""
    """Why the image could not be read."""
    warning: str = ""
    """What the decoder found wrong with an image that it decoded all the same."""
    content_sha256: str = ""
    """The first 32 hex digits of the SHA-256 of the image's bytes as they were scored (`data.source.content_hash`)."""
    source_mark: int = 0
    """What the source said of the image without reading it, as when its file was written (`data.source.Marked`)."""
    probs_K: NDArray[np.float32] | None = None
    """Every class's probability, where they were kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What records were made with: two files can be joined or compared only as far as these agree."""

    release: str
    """Version of this package."""
    model: str
    model_sha256: str
    """Of the model's file, and of external weights if it has any."""
    architecture: str
    preprocessing: Mapping[str, Any]
    classes: int
    labels: Sequence[str] | None
    """Class names in order, where the model knows them."""
    backend: str
    device: str
    """cpu or cuda."""
    precision: str
    runtime: Mapping[str, str] = field(default_factory=dict)
    """The backend's version and whatever else its scores depend on, as ONNX Runtime's provider."""
    offload: str
    """What of preparing the images the device did."""
    strict_decode: bool = False
    """Whether images that their decoder warned of counted as unreadable."""
    protocols: Sequence[Mapping[str, Any]]
    """The fields of every `protocols.Protocol`, in order."""
    data: str
    """What the user called the data."""
    data_sha256: str
    """Of every image's name below `data`, and its class, in order."""
    images: int
    probabilities: bool
    """Whether records hold every class's probability."""

    @property
    def protocol_names(self) -> list[str]:
        """In the order of an image's records."""
        return [protocol["name"] for protocol in self.protocols]

    def to_json(self) -> str:
        """One line of JSON, a checksum of the rest in it."""
        plain = json.loads(json_text({"format": FORMAT} | asdict(self)))  # as it is read
        return json_text(with_check(plain))

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "Identity":
        """The inverse of `to_json`; raises DataError naming `where` for anything malformed."""
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or values.get("format") != FORMAT:
                raise ValueError(f"this release reads format {FORMAT}")
            if not has_check(values):
                raise ValueError("its checksum differs")
            values = {key: value for key, value in values.items() if key not in ("format", "check")}
            values = {"strict_decode": False} | values  # new since the first format
            known = {column.name: values.pop(column.name) for column in fields(cls)}
            for name in ("classes", "images"):
                if type(known[name]) is not int or known[name] < 0:
                    raise ValueError(f"{name} is not a count")
            if values or not known["protocols"] or not all(isinstance(p["name"], str) for p in known["protocols"]):
                raise ValueError("its fields are not the expected ones")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{where}: not predictions of resnet-infer, or damaged ({error})") from error
        return cls(**known)

    def differences(self, other: "Identity") -> list[str]:
        """In what the other differs, in words; empty if records of both belong together.

        Names do not count: the same data may lie elsewhere, and the same file be called otherwise.
        """
        pairs = ((words, getattr(self, name), getattr(other, name)) for name, words in _COMPARED.items())
        return [f"{words}{_shown(own, theirs)}" for words, own, theirs in pairs if _plain(own) != _plain(theirs)]


_COMPARED = {
    "model_sha256": "the model's file (sha256)",
    "architecture": "the architecture",
    "preprocessing": "the preprocessing",
    "classes": "the number of classes",
    "labels": "the class names",
    "backend": "the backend",
    "device": "the device",
    "precision": "the precision",
    "runtime": "the runtime",
    "offload": "where images are prepared",
    "strict_decode": "whether damaged JPEG files are unreadable",
    "protocols": "the protocols",
    "images": "the number of images",
    "data_sha256": "the data's listing (sha256)",
    "probabilities": "whether all probabilities are kept",
    "release": "the release of resnet-infer",
}


def _plain(value: Any) -> str:
    return json_text(value, sort_keys=True)


def _shown(own: Any, theirs: Any) -> str:
    """Both values, of nested ones those that differ, of long ones nothing."""
    if isinstance(own, Mapping) and isinstance(theirs, Mapping):
        differing = [key for key in own if _plain(own[key]) != _plain(theirs.get(key))]
        return ", ".join(f" ({key}{_shown(own[key], theirs.get(key))})" for key in differing)
    if _named(own) and _named(theirs):
        names, others = ([protocol["name"] for protocol in protocols] for protocols in (own, theirs))
        if names != others:
            return _shown(", ".join(names), ", ".join(others))
        return ",".join(_shown(a, b) for a, b in zip(own, theirs, strict=True) if _plain(a) != _plain(b))
    a, b = (value if isinstance(value, str) else _plain(value) for value in (own, theirs))
    if len(a) == len(b) == 64:  # hashes
        a, b = a[:12], b[:12]
    return f": {a}, not {b}" if len(a) + len(b) <= 100 else ""


def _named(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, Mapping) and "name" in entry for entry in value)
