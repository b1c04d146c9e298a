"""`--labels`: every form that class names are kept in, and none read with a shift."""

import json
from pathlib import Path

import pytest

from resnet_infer.errors import UsageError
from resnet_infer.spec.label_files import labels_from_file
from resnet_infer.spec.labels import Labels, imagenet1k

THREE = ("cat", "dog, hound", "fox")
FORMS = {
    "names": "cat\ndog, hound\nfox\n",
    "numbered": "2 fox\n0 cat\n1 dog, hound\n",
    "numbered, colons": "0: cat\n1: dog, hound\n2: fox",
    "numbered, tabs": "1\tdog, hound\r\n0\tcat\r\n2\tfox\r\n",
    "list": json.dumps(THREE),
    "index to name": json.dumps({"1": "dog, hound", "0": "cat", "2": "fox"}),
    "name to index": json.dumps({"fox": 2, "cat": 0, "dog, hound": 1}),
    "config": json.dumps({"architectures": ["X"], "id2label": {"0": "cat", "1": "dog, hound", "2": "fox"}}),
    "label2id": json.dumps({"label2id": {"cat": 0, "dog, hound": 1, "fox": 2}}),
}


def read(folder: Path, text: str) -> Labels:
    path = folder / "labels"
    path.write_text(text)
    return labels_from_file(path)


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, form: str) -> None:
    assert read(tmp_path, FORMS[form]) == Labels(names=THREE)


def test_ids(tmp_path: Path) -> None:
    known = imagenet1k()
    pairs = list(zip(known.ids, known.names, strict=True))
    index = {str(at): pair for at, pair in enumerate(pairs)}
    assert read(tmp_path, json.dumps(index)) == known
    assert read(tmp_path, "\n".join(f"{id_} {name}" for id_, name in pairs)) == known
    assert read(tmp_path, "\n".join(f"{id_}\t{name}" for id_, name in pairs)) == known


@pytest.mark.parametrize(
    "text",
    [
        "1 cat\n2 dog\n3 fox\n",
        "1\tcat\n2\tdog\n",
        json.dumps({"1": "cat", "2": "dog"}),
        json.dumps({"0": "cat", "2": "dog"}),
        json.dumps({"cat": 1, "dog": 2}),
        json.dumps({"cat": 0, "dog": 0}),
    ],
)
def test_numbers_are_never_shifted(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"class numbers go from . to ., and must be 0 to ., each once"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["", "{", '{"a": {"b": 1}}', "[1, 2]", "cat\ndog\tfox\n", '["cat", ""]'])
def test_anything_else_says_what_is_taken(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--labels takes one name a line"):
        read(tmp_path, text)


def test_names_that_begin_with_numbers_are_names(tmp_path: Path) -> None:
    assert read(tmp_path, "3 wheeler\n3 piece suit\n").names == ("3 wheeler", "3 piece suit")
