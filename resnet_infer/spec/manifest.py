"""What an artifact says of itself, so that nobody has to guess how to feed it or where it came from.

Stored as JSON under the key `resnet_infer` in safetensors metadata and in ONNX `metadata_props`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.spec.architectures import Head, ModelSpec
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.precisions import FLOAT_LAYERS, FloatLayer, Precision
from resnet_infer.spec.preprocessing import InputFormat, Preprocessing

Scores = Literal["logits", "probabilities", "log-probabilities"]
"""What a graph gives: logits, or what its own last softmax or log-softmax made of them."""

KEY = "resnet_infer"
VERSION = 1
VERSION_OF_OTHERS = 2
"""Of what earlier releases would run as another network, feed wrongly or read wrongly: they refuse it."""
MAX_BYTES = 64 * 2**20
MAX_DEPTH = 32
MAX_TEXT = 2**16
"""Characters of one text."""
UNVERIFIED = "(--no-verify uses it all the same)"
MAX_VALUES = 4_000_000
"""A million classes have a name and an id each."""
NEW_SINCE_VERSION_1: Mapping[str, Any] = {
    "input": "normalized",
    "output": "logits",
    "output_name": "",
    "adopted": False,
    "quantization": {},
    "gate": {},
    "weights_sha256": "",
}
"""What earlier releases wrote has these values."""


def checked_json(text: str) -> Any:
    """Parse JSON of another's making; raises UsageError or ValueError if it is malformed or beyond all use."""
    if len(text) > MAX_BYTES:
        raise UsageError(f"{len(text):,} bytes are over the limit of {MAX_BYTES:,}")
    values = json.loads(text)
    level, depth, count = [values], 0, 0
    while level:
        depth += 1
        count += len(level)
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise UsageError(f"it is nested deeper than {MAX_DEPTH} levels, or holds more than {MAX_VALUES:,} values")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and len(value) > MAX_TEXT:
                raise UsageError(f"a text of {len(value):,} characters is over the limit of {MAX_TEXT:,}")
        level = inner
    return values


def with_check(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values and, under `check`, a checksum of them: the first 16 hex digits of the SHA-256 of their JSON."""
    text = json.dumps({key: value for key, value in values.items() if key != "check"}, sort_keys=True)
    return {**values, "check": hashlib.sha256(text.encode()).hexdigest()[:16]}


def has_check(values: Mapping[str, Any]) -> bool:
    """Whether the checksum is right, or there is none, as in what earlier releases wrote."""
    return "check" not in values or with_check(values) == values


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record kept inside every artifact this package writes."""

    spec: ModelSpec
    preprocessing: Preprocessing
    labels: Labels | None = None
    """None where the class names are not known."""
    source: str = ""
    """What the weights were read from: a checkpoint key or a file's name."""
    source_sha256: str = ""
    """SHA-256 of that file."""
    weights_sha256: str = ""
    """Of the weights in the file that has this manifest, by their values: `tensors_sha256` of a checkpoint,
    `graph_sha256` of an ONNX file. Empty where none was taken."""
    head: Head | None = None
    """The head an exported graph ends in; None for plain weights, which serve both."""
    precision: Precision = "fp32"
    """Type its layers compute in: fp32, tf32, fp16, bf16, int8 or fp8."""
    input: InputFormat = "normalized"
    """What an exported graph takes."""
    output: Scores = "logits"
    """What it gives. All but logits went through a softmax in the graph, which is not applied again."""
    output_name: str = ""
    """The output that has the scores; empty where the graph has only one."""
    adopted: bool = False
    """Whether the graph is another tool's: its precision is read off its layers, and no claim of all of them."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Tool versions that made the file."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """Outcome of the comparison with PyTorch at export."""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    """How int8 or fp8 ranges were found: method, images, layers kept in float, and the search's table."""
    gate: Mapping[str, Any] = field(default_factory=dict)
    """Outcome of the accuracy gate, where one was asked for."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Anything a maker wants kept: metrics, recipe."""

    @property
    def _as_ever(self) -> bool:
        """Whether earlier releases, which ignore what they do not know, would run it as it is."""
        plain = self.preprocessing.plain and self.spec.classic and self.output == "logits"
        return plain and not self.adopted and not self.input.startswith("normalized-")

    @property
    def input_channels(self) -> int:
        """Of what an exported graph takes: the network's own, or RGB bytes."""
        return self.preprocessing.channels if self.input.startswith("normalized") else 3

    @property
    def kept_float(self) -> tuple[FloatLayer, ...]:
        """The layers that a quantised export left in float."""
        kept = self.quantization.get("kept_float")
        return tuple(name for name in FLOAT_LAYERS if isinstance(kept, list) and name in kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return {
            "version": VERSION if self._as_ever else VERSION_OF_OTHERS,
            "architecture": self.spec.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "labels": self.labels.to_dict() if self.labels else None,
            "source": self.source,
            "source_sha256": self.source_sha256,
            "weights_sha256": self.weights_sha256,
            "head": self.head,
            "precision": self.precision,
            "input": self.input,
            "output": self.output,
            "output_name": self.output_name,
            "adopted": self.adopted,
            "versions": dict(self.versions),
            "parity": dict(self.parity),
            "quantization": dict(self.quantization),
            "gate": dict(self.gate),
            "extra": dict(self.extra),
        }

    def to_json(self) -> str:
        """One line of JSON, a checksum of the rest in it."""
        return json.dumps(with_check(self.to_dict()), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str, *, verify: bool = True) -> "Manifest":
        """Parse and validate; raises ArtifactError naming `where` for anything malformed.

        Without `verify` its checksum may be wrong.
        """
        try:
            values = checked_json(text)
            if not isinstance(values, dict):
                raise UsageError("manifest is not a JSON object")
            if values.get("version") not in (VERSION, VERSION_OF_OTHERS):
                raise UsageError(
                    f"manifest version {values.get('version')!r}; this release reads version {VERSION} and "
                    f"{VERSION_OF_OTHERS}"
                )
            stored = values
            values = {**NEW_SINCE_VERSION_1, **values}
            for key, known in (
                ("head", (None, *get_args(Head))),
                ("input", get_args(InputFormat)),
                ("output", get_args(Scores)),
            ):
                if values[key] not in known:
                    raise UsageError(f"unknown {key} {values[key]!r}")
            if values["precision"] not in get_args(Precision):
                raise UsageError(f"unknown precision {values['precision']!r}")
            for key, kind in (
                ("source", str),
                ("source_sha256", str),
                ("weights_sha256", str),
                ("output_name", str),
                ("adopted", bool),
                ("parity", dict),
                ("quantization", dict),
                ("gate", dict),
                ("extra", dict),
                ("versions", dict),
            ):
                if not isinstance(values[key], kind):
                    raise UsageError(f"its {key} is not of type {kind.__name__}")
            if not all(isinstance(version, str) for version in values["versions"].values()):
                raise UsageError("its versions are no texts")
            manifest = cls(
                spec=ModelSpec.from_dict(values["architecture"]),
                preprocessing=Preprocessing.from_dict(values["preprocessing"]),
                labels=Labels.from_dict(values["labels"]) if values["labels"] else None,
                source=values["source"],
                source_sha256=values["source_sha256"],
                weights_sha256=values["weights_sha256"],
                head=values["head"],
                precision=values["precision"],
                input=values["input"],
                output=values["output"],
                output_name=values["output_name"],
                adopted=values["adopted"],
                versions=values["versions"],
                parity=values["parity"],
                quantization=values["quantization"],
                gate=values["gate"],
                extra=values["extra"],
            )
            if verify and not has_check(stored):
                raise UsageError(f"it was damaged or changed by hand: its checksum differs {UNVERIFIED}")
            if manifest.preprocessing.channels != manifest.spec.channels:
                raise UsageError(f"its mean has {manifest.preprocessing.channels} numbers, not one an input channel")
            if manifest.labels and len(manifest.labels.names) != manifest.spec.classes:
                raise UsageError(f"{len(manifest.labels.names)} class names for {manifest.spec.classes} classes")
        except (UsageError, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise ArtifactError(
                f"{where}: its resnet-infer manifest cannot be used: {str(error)[:300]}; export it again"
            ) from error
        return manifest
