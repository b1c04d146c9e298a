"""The manifest comes back whole, and a spoilt one is an ArtifactError of one line whatever it holds."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.errors import ArtifactError
from resnet_infer.spec.catalogue import architecture_names, spec_from_name
from resnet_infer.spec.labels import CIFAR10_NAMES, Labels, imagenet1k
from resnet_infer.spec.manifest import MAX_DEPTH, MAX_TEXT, Manifest
from resnet_infer.spec.preprocessing import Preprocessing

PLAIN = Manifest(spec=spec_from_name("resnet20"), preprocessing=Preprocessing(resize=32, crop=32))
FULL = Manifest(
    spec=spec_from_name("resnet20"),
    preprocessing=Preprocessing(resize=32, crop=32),
    labels=Labels(names=CIFAR10_NAMES, ids=tuple(f"n{i:02}" for i in range(10))),
    source="resnet20.th",
    source_sha256="0" * 64,
    head="dense",
    precision="fp16",
    versions={"torch": "2"},
    input="uint8-nhwc",
    output="log-probabilities",
    output_name="scores",
    adopted=True,
    parity={"max": 1e-6, "sizes": [[32, 32]], "passed": True},
    quantization={"method": "entropy", "table": [{"images": 125}]},
    gate={"passed": True},
    extra={"note": None},
)

TEXT = st.text(st.characters())  # surrogates too: a file's name may hold them
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
NUMBERS_NO_SIZE_HAS = st.sampled_from([float("nan"), float("inf"), -float("inf"), 10**400, -1, 0, 0.5, True])

Path = tuple[str | int, ...]


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Where every value inside a JSON document is."""
    if at:
        yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*at, key))


def holder(document: Any, path: Path) -> Any:
    """The container of the value at `path`."""
    for key in path[:-1]:
        document = document[key]
    return document


def refused(text: str) -> str:
    """The one line with which this manifest is refused."""
    with pytest.raises(ArtifactError) as caught:
        Manifest.from_json(text, "model.onnx")
    message = str(caught.value)
    assert "model.onnx" in message
    assert len(message.splitlines()) == 1
    return message


def read_or_refused(text: str) -> None:
    """Whatever is read can be written again; anything else is refused."""
    try:
        manifest = Manifest.from_json(text, "model.onnx")
    except ArtifactError:
        refused(text)
    else:
        again = Manifest.from_json(manifest.to_json(), "model.onnx")
        assert again.to_json() == manifest.to_json()


EVERYWHERE = list(paths(json.loads(FULL.to_json())))


@pytest.mark.parametrize("name", [*architecture_names(), "resnet34-C", "resnet152-v1"])
def test_every_architecture_round_trips(name: str) -> None:
    manifest = Manifest(spec=spec_from_name(name), preprocessing=Preprocessing())
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


@pytest.mark.parametrize("manifest", [PLAIN, FULL], ids=["plain", "full"])
def test_every_field_round_trips(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


def test_a_thousand_classes_round_trip() -> None:
    manifest = Manifest(spec=spec_from_name("resnet18"), preprocessing=Preprocessing(), labels=imagenet1k())
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


@given(TEXT, TEXT, st.lists(TEXT, min_size=1, max_size=4), st.dictionaries(TEXT, TEXT), st.dictionaries(TEXT, TREES))
def test_any_text_round_trips_in_one_line_of_ascii(
    source: str, digest: str, names: list[str], versions: dict[str, str], extra: dict[str, Any]
) -> None:
    """Safetensors and ONNX keep UTF-8; escapes let what UTF-8 cannot hold through."""
    manifest = Manifest(
        spec=replace(PLAIN.spec, classes=len(names)),
        preprocessing=PLAIN.preprocessing,
        labels=Labels(names=tuple(names), ids=tuple(reversed(names))),
        source=source,
        source_sha256=digest,
        versions=versions,
        parity=extra,
        quantization=extra,
        gate=extra,
        extra=extra,
    )
    text = manifest.to_json()
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert Manifest.from_json(text, "here") == manifest


LATER = ("input", "output", "output_name", "adopted", "quantization", "gate", "weights_sha256", "check")


def test_a_file_of_the_first_release_reads_as_a_plain_float_export() -> None:
    document = {key: value for key, value in json.loads(FULL.to_json()).items() if key not in LATER}
    manifest = Manifest.from_json(json.dumps(document), "here")
    new = {"input": "normalized", "output": "logits", "output_name": "", "adopted": False}
    assert manifest == replace(FULL, **new, quantization={}, gate={}, weights_sha256="")


@pytest.mark.parametrize("key", [key for key in json.loads(FULL.to_json()) if key not in LATER])
def test_a_missing_key_is_named(key: str) -> None:
    document = json.loads(FULL.to_json())
    del document[key]
    assert key in refused(json.dumps(document))


@pytest.mark.parametrize("version", [0, 3, "1", None, [1]])
def test_another_version_is_refused_with_both_versions(version: object) -> None:
    message = refused(json.dumps(json.loads(FULL.to_json()) | {"version": version}))
    assert f"version {version!r}" in message
    assert "reads version 1" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("architecture", wrong) for wrong in ([], "resnet20", None, {}, 20)],
        *[("input", wrong) for wrong in ("uint8", None, 8, [], {})],
        *[("precision", wrong) for wrong in ("fp31", None, 32, [], {})],
        *[("gate", wrong) for wrong in ([], "passed", None, 1)],
        *[("quantization", wrong) for wrong in ([], "minmax", None, 1)],
        *[("preprocessing", wrong) for wrong in ([], "imagenet", None, {}, 224)],
        *[("labels", wrong) for wrong in ("cat", ["cat"], 10, {"names": "cat"}, {"names": ["cat"]})],
        *[("head", wrong) for wrong in ("", "pool", 1, ["dense"], {})],
        *[("versions", wrong) for wrong in (None, [], "2", 2)],
        *[("parity", wrong) for wrong in (None, 2, "passed")],
        *[("extra", wrong) for wrong in (None, 2, "extra")],
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(key: str, value: object) -> None:
    refused(json.dumps(json.loads(FULL.to_json()) | {key: value}))


@pytest.mark.parametrize("text", ["", "{", "nul", "[]", "1", '"resnet"', "{}", "\x00", "\ufeff{}", "{'version': 1}"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, '{"version": 1, "head": ' + "[" * 10**5])
def test_endless_nesting_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("path", EVERYWHERE, ids=lambda path: ".".join(map(str, path)))
def test_any_value_may_be_missing_or_a_number_that_makes_no_sense(path: Path) -> None:
    for number in (float("nan"), float("inf"), -float("inf"), 10**400, -1, 0, 0.5, True):
        document = json.loads(FULL.to_json())
        holder(document, path)[path[-1]] = number
        read_or_refused(json.dumps(document))
    document = json.loads(FULL.to_json())
    del holder(document, path)[path[-1]]
    read_or_refused(json.dumps(document))


@settings(max_examples=400)
@given(st.sampled_from(EVERYWHERE), TREES | NUMBERS_NO_SIZE_HAS)
def test_any_value_may_be_any_other(path: Path, value: object) -> None:
    document = json.loads(FULL.to_json())
    holder(document, path)[path[-1]] = value
    read_or_refused(json.dumps(document))


@given(st.data())
def test_any_cut_or_changed_text(data: st.DataObject) -> None:
    text = FULL.to_json()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    read_or_refused(text[:start] + data.draw(st.text(max_size=5)) + text[end:])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x" * (MAX_TEXT + 1), "characters is over the limit"),
        ({"x" * (MAX_TEXT + 1): 1}, "characters is over the limit"),
        (reduce(lambda inner, _: [inner], range(MAX_DEPTH), []), "nested deeper"),
    ],
)
def test_values_beyond_all_use_are_refused(value: Any, reason: str) -> None:
    text = json.dumps({"version": 1, "extra": value})
    with pytest.raises(ArtifactError, match=reason):
        Manifest.from_json(text, "x.onnx")


def test_more_values_than_any_manifest_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_infer.spec.manifest.MAX_VALUES", 100)
    with pytest.raises(ArtifactError, match="more than 100 values"):
        Manifest.from_json(json.dumps({"extra": list(range(200))}), "x.onnx")
