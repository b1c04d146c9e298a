"""A model's name with a description behind it: `FILE?arch=resnet18&mean=0.5,0.5,0.5&precision=bf16`.

For commands that take several models, which may differ. What stands behind the question mark goes over the flags of the
command, and those go over what the file says. Keys are the flags' names; values are percent-decoded, and `+` is itself.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, quote, urlencode

from resnet_infer.backends.base import RunOptions
from resnet_infer.errors import UnknownNameError, UsageError
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec.label_files import labels_from_file
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import ChannelValues, channel_values

BackendName = Literal["torch", "onnxruntime", "tensorrt", "auto"]
OPTIONS = ("compile", "autocast", "provider", "prefer_nhwc", "cuda_graph")
"""Of RunOptions, those that are flags."""
WORDS = {"": True, "true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A model and how it is to be opened."""

    model: str
    """A key or a file; with a description behind it until `described` has read that."""
    backend: BackendName | None = None
    precision: Precision | None = None
    overrides: Overrides = field(default_factory=Overrides)
    options: RunOptions = field(default_factory=RunOptions)
    said: str = ""
    """What stood behind the question mark."""

    @property
    def settings(self) -> list[str]:
        """The keys given that are of how the model runs, not of what it is."""
        said = _pairs(self.said) if self.said else {}
        return [key for key in said if key in ("backend", "precision", *map(_key, OPTIONS))]


def described(asked: Asked) -> Asked:
    """The same with what its name says of it put over the rest; itself where the name says nothing.

    A file that has a question mark in its name is that file. Raises UsageError or UnknownNameError for keys and values
    that are none.
    """
    model, said = cut(asked.model)
    if said is None:
        return asked
    asked = replace(asked, model=model, said=said)
    readers = _readers()
    for key, text in _pairs(said).items():
        if key not in readers:
            raise UnknownNameError("key", key, readers, f"{model}?{key}: the keys are {', '.join(readers)}.")
        part, name, read = readers[key]
        try:
            value = read(text)
        except UsageError as error:
            raise UsageError(f"{model}?{key}={text}: {error}") from error
        if part:
            asked = replace(asked, **{part: replace(getattr(asked, part), **{name: value})})
        else:
            asked = replace(asked, **{name: value})
    return asked


def cut(model: str) -> tuple[str, str | None]:
    """The model's own name, and what stands behind its question mark; None where there is none."""
    places = [place for place, letter in enumerate(model) if letter == "?"]
    if not places or Path(model).exists():
        return model, None
    place = next((place for place in places if Path(model[:place]).exists()), places[0])
    return model[:place], model[place + 1 :]


def with_description(model: str, given: Mapping[str, str]) -> str:
    """The name with these keys and texts in its description, but for those that are there."""
    name, said = cut(model)
    pairs = {_key(key): text for key, text in given.items()} | (_pairs(said) if said is not None else {})
    return f"{name}?{urlencode(pairs, safe=',/:', quote_via=quote)}" if pairs else name


def _pairs(said: str) -> dict[str, str]:
    """Keys, written with dashes, and texts."""
    pairs: dict[str, str] = {}
    for key, text in parse_qsl(said.replace("+", "%2B"), keep_blank_values=True):
        key = _key(key)
        if key in pairs:
            raise UsageError(f"?{said}: {key} is there twice")
        pairs[key] = text
    if not pairs:
        raise UsageError(f"'?{said}' describes nothing; write it as ?arch=resnet18&mean=0.5,0.5,0.5")
    return pairs


def _key(name: str) -> str:
    return name.replace("_", "-")


@cache
def _readers() -> Mapping[str, tuple[str, str, Callable[[str], Any]]]:
    """Of every key: the field of Asked that it is a part of, its own field's name, and how its text is read."""
    found: dict[str, tuple[str, str, Callable[[str], Any]]] = {}
    for part, kind, names in (
        ("overrides", Overrides, list(Overrides.__dataclass_fields__)),
        ("", Asked, ["backend", "precision"]),
        ("options", RunOptions, list(OPTIONS)),
    ):
        hints = get_type_hints(kind)
        for name in names:
            if name == "verify":  # as the flag
                found["no-verify"] = part, name, lambda text: not _truth(text)
            elif read := _reader(hints[name]):
                found[_key(name)] = part, name, read
    return found


def _reader(hint: Any) -> Callable[[str], Any] | None:
    """How a text becomes a value of this type; None for a type that has no text form here."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not types.NoneType]
        return _reader(kinds[0]) if len(kinds) == 1 else None
    if get_origin(hint) is Literal:
        return lambda text: _one_of(get_args(hint), text)
    if hint == ChannelValues:
        return channel_values
    return {
        str: _text,
        bool: _truth,
        int: lambda text: _number(int, text),
        float: lambda text: _number(float, text),
        Path: lambda text: Path(_text(text)),
        Labels: lambda text: labels_from_file(Path(_text(text))),
    }.get(hint)


def _one_of(known: tuple[str, ...], text: str) -> str:
    if text not in known:
        raise UnknownNameError("value", text, known, f"There are {', '.join(known)}.")
    return text


def _truth(text: str) -> bool:
    if text.lower() not in WORDS:
        raise UsageError("write it alone, or as true or false")
    return WORDS[text.lower()]


def _number(kind: Callable[[str], Any], text: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError("is no number") from error


def _text(text: str) -> str:
    if not text:
        raise UsageError("needs a value")
    return text
