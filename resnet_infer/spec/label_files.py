"""Class names from the files that people keep them in: text, JSON, and the configuration of a Hugging Face model."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_infer.errors import UsageError
from resnet_infer.spec.labels import MAX_BYTES, MAX_CLASSES, MAX_NAME, Labels

TAKES = (
    "--labels takes one name a line in order, `id<TAB>name`, `n01440764 name` or `0 name` lines, a JSON list or map, "
    "imagenet_class_index.json, or a config.json with id2label"
)
_NUMBERED = re.compile(r"(\d+)[\s:,]+(\S.*)")
_SYNSET = re.compile(r"(n\d{8})\s+(\S.*)")


def labels_from_file(path: Path) -> Labels:
    """The class names of a file, in order of their index.

    Numbers in it are class indices: each from 0 on once, in any order. Raises UsageError for anything else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"{path}: cannot read class names ({reason}); {TAKES}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: over the limit of {MAX_BYTES:,} bytes; {TAKES}")
    labels = _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _from_lines(text, path)
    if not 1 <= len(labels.names) <= MAX_CLASSES:
        raise UsageError(f"{path}: {len(labels.names)} class names; {TAKES}")
    if any(len(each) > MAX_NAME or not each for each in (*labels.names, *labels.ids)):
        raise UsageError(f"{path}: has a name that is empty or over {MAX_NAME:,} characters; {TAKES}")
    return labels


def _from_lines(text: str, path: Path) -> Labels:
    lines = [line.strip("\r") for line in text.split("\n") if line.strip()]
    if any("\t" in line for line in lines):
        rows = [line.split("\t") for line in lines]
        if {len(row) for row in rows} != {2}:
            raise UsageError(f"{path}: every line must be `name` or `id<TAB>name`, all alike; {TAKES}")
        if all(row[0].strip().isdecimal() for row in rows):
            return Labels(names=_in_order({int(row[0]): row[1].strip() for row in rows}, len(rows), path))
        return Labels(names=tuple(row[1].strip() for row in rows), ids=tuple(row[0].strip() for row in rows))
    synsets = [_SYNSET.fullmatch(line.strip()) for line in lines]
    if lines and all(synsets):
        found = [match for match in synsets if match]
        return Labels(names=tuple(match[2] for match in found), ids=tuple(match[1] for match in found))
    numbered = [_NUMBERED.fullmatch(line.strip()) for line in lines]
    if lines and all(numbered):
        pairs = [(int(match[1]), match[2]) for match in numbered if match]
        if sorted(number for number, _ in pairs) == list(range(len(pairs))):
            return Labels(names=tuple(name for _, name in sorted(pairs)))
        if len({number for number, _ in pairs}) == len(pairs) > 1:  # not names as `3 wheeler` and `3 piece suit`
            return Labels(names=_in_order(dict(pairs), len(pairs), path))
    return Labels(names=tuple(line.strip() for line in lines))


def _from_json(text: str, path: Path) -> Labels:
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON ({str(error)[:80]}); {TAKES}") from error
    if isinstance(values, list) and all(isinstance(name, str) for name in values):
        return Labels(names=tuple(values))
    if isinstance(values, dict):
        for key in ("id2label", "label2id"):
            if isinstance(values.get(key), dict):
                return _from_map(values[key], path)
        return _from_map(values, path)
    raise UsageError(f"{path}: is no list of names; {TAKES}")


def _from_map(values: Mapping[str, Any], path: Path) -> Labels:
    """Index to name, name to index, or index to [id, name]."""
    if all(key.isdecimal() for key in values):
        if all(isinstance(value, str) for value in values.values()):
            return Labels(names=_in_order({int(key): value for key, value in values.items()}, len(values), path))
        if all(
            isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
            for value in values.values()
        ):
            pairs = {int(key): value for key, value in values.items()}
            ids = _in_order({key: value[0] for key, value in pairs.items()}, len(values), path)
            return Labels(names=_in_order({key: value[1] for key, value in pairs.items()}, len(values), path), ids=ids)
    elif all(type(value) is int for value in values.values()):
        return Labels(names=_in_order({value: key for key, value in values.items()}, len(values), path))
    raise UsageError(f"{path}: is no map of class indices and names; {TAKES}")


def _in_order(name_of: Mapping[int, str], count: int, path: Path) -> tuple[str, ...]:
    if sorted(name_of) != list(range(count)):
        low, high = min(name_of, default=0), max(name_of, default=0)
        raise UsageError(
            f"{path}: its {count} class numbers go from {low} to {high}, and must be 0 to {count - 1}, each once"
        )
    return tuple(name_of[index] for index in range(count))
