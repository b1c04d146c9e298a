"""The record of an engine comes back whole or is refused, and says in words why a host cannot run it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.errors import ArtifactError
from resnet_infer.spec import engine_manifest
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.engine_manifest import Capability, EngineRecord, Host, check_file, check_host, misfits
from resnet_infer.spec.labels import CIFAR10_NAMES, Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import Layer
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.shapes import ShapeRange

NET = Manifest(
    spec=spec_from_name("resnet20"),
    preprocessing=Preprocessing(resize=32, crop=32),
    labels=Labels(names=CIFAR10_NAMES, ids=tuple(f"n{i:02}" for i in range(10))),
    source="resnet20.th",
    source_sha256="0" * 64,
    head="dense",
    precision="int8",
    versions={"torch": "2"},
    parity={"relative_diff": 1e-6, "passed": True},
    quantization={"method": "entropy", "kept_float": ["classifier"], "search": [{"method": "minmax", "images": 100}]},
    gate={"passed": True, "top1_agreement": 0.995, "images": 500},
)
FULL = EngineRecord(
    manifest=NET,
    flavour="tensorrt",
    version="10.13.0.35",
    platform="linux-x86_64",
    gpu="NVIDIA H100 80GB HBM3",
    capabilities=((9, 0),),
    profiles=(
        ShapeRange(min=(1, 32, 32), opt=(24, 32, 42), max=(97, 64, 64)),
        ShapeRange(min=(1, 36, 36), opt=(19, 36, 48), max=(75, 72, 72)),
    ),
    size_bytes=12345,
    sha256="a" * 64,
    onnx_sha256="b" * 64,
    options={"optimization_level": 3, "workspace_mib": None, "tf32": False, "capabilities": []},
    layers=(
        Layer(name="conv1", operator="Conv", type="int8", parameters=432),
        Layer(name="add", operator="Add", type="int8"),
    ),
    kernels={"int8": 19, "fp32": 1},
)
RTX = replace(
    FULL, flavour="tensorrt_rtx", version="1.7.1.116", gpu="", capabilities=((8, 6), (8, 9)), layers=(), kernels={}
)
HOPPER = Host(versions={"tensorrt": "10.13.0.35"}, gpu="NVIDIA H100 80GB HBM3", capability=(9, 0))
ADA = Host(versions={"tensorrt_rtx": "1.7.1.116"}, gpu="NVIDIA L4", capability=(8, 9))
DOCUMENT: dict[str, Any] = json.loads(FULL.to_json())
WHERE = "net.engine.json"

TEXT = st.text(st.characters(), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where every value inside a JSON document is."""
    if at:
        yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*at, key))


EVERYWHERE = list(places(DOCUMENT))


def changed(place: Place, value: object) -> str:
    """The record's JSON with one value replaced."""
    document = json.loads(FULL.to_json())
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return json.dumps(document)


def refused(text: str) -> str:
    """The one line with which this record is refused."""
    with pytest.raises(ArtifactError) as caught:
        EngineRecord.from_json(text, WHERE)
    message = str(caught.value)
    assert WHERE in message
    assert len(message.splitlines()) == 1
    return message


def read_or_refused(text: str) -> None:
    """Whatever is read can be written and read again; anything else is refused."""
    try:
        record = EngineRecord.from_json(text, WHERE)
    except ArtifactError:
        refused(text)
    else:
        assert EngineRecord.from_json(record.to_json(), WHERE).to_json() == record.to_json()


@pytest.mark.parametrize("record", [
    FULL, RTX, replace(FULL, manifest=replace(NET, labels=None, quantization={}, gate={}), options={}),
    replace(FULL, version_compatible=True, hardware_compatibility="ampere-plus"),
    replace(FULL, gpu='a "GPU" of\nÄ\u2028', platform="windows-amd64", hardware_compatibility="ampere-plus"),
], ids=["full", "rtx", "bare", "compatible", "odd"])  # fmt: skip
def test_every_field_round_trips(record: EngineRecord) -> None:
    again = EngineRecord.from_json(record.to_json(), WHERE)
    assert again == record
    assert again.manifest.labels == record.manifest.labels
    assert again.manifest.gate == record.manifest.gate
    assert again.manifest.quantization == record.manifest.quantization


def test_the_file_is_plain_ascii_that_a_person_can_read() -> None:
    text = replace(FULL, gpu="Ä").to_json()
    assert text.isascii()
    values = json.loads(text)
    assert values["resnet_infer_engine"] == 1
    assert values["version"] == "10.13.0.35"  # TensorRT's, not the manifest's
    assert values["manifest"]["version"] == 1
    assert values["capabilities"] == [[9, 0]]
    assert len(text.splitlines()) > 50


@pytest.mark.parametrize("key", [key for key in DOCUMENT if key != "check"])
def test_a_missing_key_is_refused(key: str) -> None:
    message = refused(json.dumps({name: value for name, value in DOCUMENT.items() if name != key}))
    assert key in message or key == "resnet_infer_engine"


WRONG: dict[str, list[Any]] = {
    "resnet_infer_engine": [None, 0, 2, "1", [1], {}],
    "manifest": [None, 1, "net", [], {}, [1], {"version": 2}],
    "flavour": [None, 1, "", "trt", ["tensorrt"], {}, True],
    "capabilities": [None, 9, "9.0", [9, 0], [[9]], [[9, 0, 0]], [None], ["x"], [["a", "b"]]],
    "hardware_compatibility": [None, 1, "", "ampere", [], {}, True],
    "profiles": [None, 1, "x", [], {}, [1], [{}], [None], [{"min": [1, 1, 1]}]],
    "size_bytes": [None, "x", "", [], {}, [1]],
    "options": [None, 1, "x", [1], True],
    "layers": [None, 1, "x", [1], [None], [{}], ["Conv"], [{"name": "a", "speed": 1}], True],
    "kernels": [None, 1, "x", [], [1], {"fp32": "x"}, {"fp32": None}, {"fp32": []}, True],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_is_refused(key: str) -> None:
    for value in WRONG[key]:
        refused(changed((key,), value))


@pytest.mark.parametrize("text", ["", "null", "[]", "1", '"x"', "{}", "{", "\x00", NET.to_json()])
def test_what_is_no_record_is_refused(text: str) -> None:
    refused(text)


def test_endless_nesting_and_a_huge_file_are_refused() -> None:
    assert "over the limit" in refused(FULL.to_json() + " " * 64 * 2**20)
    for start in ("", '{"resnet_infer_engine": 1, "manifest": ', '{"resnet_infer_engine": 1, "options": '):
        refused(start + "[" * 10**5)


@pytest.mark.parametrize("place", EVERYWHERE, ids=lambda place: ".".join(map(str, place)))
def test_any_value_may_be_a_number_that_makes_no_sense(place: Place) -> None:
    for number in (float("nan"), float("inf"), -float("inf"), 10**400, -1, 0, 0.5, True):
        read_or_refused(changed(place, number))


@settings(max_examples=300)
@given(st.sampled_from(EVERYWHERE), TREES)
def test_any_value_may_be_any_other(place: Place, value: object) -> None:
    read_or_refused(changed(place, value))


@given(st.data())
def test_any_cut_or_changed_text(data: st.DataObject) -> None:
    text = FULL.to_json()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    read_or_refused(text[:start] + data.draw(st.text(max_size=5)) + text[end:])


def test_a_truncated_record_is_refused() -> None:
    for length in range(0, len(FULL.to_json()) - 2, 41):
        refused(FULL.to_json()[:length])


def test_the_host_it_was_built_on_can_run_it() -> None:
    assert misfits(FULL, HOPPER) == []
    check_host(FULL, HOPPER, Path("net.engine"))
    assert misfits(RTX, ADA) == []


def test_a_flavour_that_is_not_installed() -> None:
    (reason,) = misfits(FULL, replace(HOPPER, versions={"tensorrt_rtx": "10.13.0.35"}))
    assert "tensorrt 10.13.0.35" in reason
    assert "pip install 'tensorrt==10.13.0.35'" in reason
    (reason,) = misfits(RTX, replace(ADA, versions={"tensorrt": "1.7.1.116"}))
    assert "pip install 'tensorrt-rtx==1.7.1.116'" in reason


@pytest.mark.parametrize(("installed", "plain", "compatible"), [
    ("10.13.0.35", True, True),
    ("10.13.2.6", False, True),
    ("10.14.1.48", False, True),
    ("11.0.0.114", False, True),
    ("10.12.0.36", False, False),
    ("10.9.0.34", False, False),  # older, though "10.9" sorts after "10.13" as text
    ("9.3.0.1", False, False),
])  # fmt: skip
def test_a_later_release_runs_version_compatible_engines_only(installed: str, plain: bool, compatible: bool) -> None:
    host = replace(HOPPER, versions={"tensorrt": installed})
    assert (misfits(FULL, host) == []) is plain
    assert (misfits(replace(FULL, version_compatible=True), host) == []) is compatible
    for reason in misfits(FULL, host) + misfits(replace(FULL, version_compatible=True), host):
        assert "10.13.0.35" in reason
        assert f"{installed} is installed" in reason


def test_an_rtx_engine_is_never_version_compatible() -> None:
    for record in (RTX, replace(RTX, version_compatible=True)):
        (reason,) = misfits(record, replace(ADA, versions={"tensorrt_rtx": "1.8.0.1"}))
        assert "tensorrt-rtx 1.7.1.116" in reason
        assert "1.8.0.1 is installed" in reason


def test_another_platform() -> None:
    (reason,) = misfits(FULL, replace(HOPPER, platform="windows-amd64"))
    assert reason == "it was built for linux-x86_64, and this is windows-amd64"


def test_no_gpu() -> None:
    (reason,) = misfits(FULL, replace(HOPPER, gpu="", capability=None))
    assert "NVIDIA GPU (compute capability 9.0)" in reason
    (reason,) = misfits(RTX, replace(ADA, gpu="", capability=None))
    assert "compute capability 8.6, 8.9" in reason


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 1), (10, 0), (12, 0)])
@pytest.mark.parametrize("level", ["none", "same-compute-capability"])
def test_another_compute_capability(capability: Capability, level: str) -> None:
    record = replace(FULL, hardware_compatibility=level)  # type: ignore[arg-type]
    (reason,) = misfits(record, replace(HOPPER, gpu="NVIDIA Other", capability=capability))
    assert "built for compute capability 9.0" in reason
    assert f"the NVIDIA Other here is compute capability {capability[0]}.{capability[1]}" in reason


@pytest.mark.parametrize(("capability", "runs"), [
    ((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True), ((12, 0), True),
])  # fmt: skip
def test_an_ampere_plus_engine_runs_on_ampere_and_later(capability: Capability, runs: bool) -> None:
    record = replace(FULL, hardware_compatibility="ampere-plus", capabilities=((8, 6),))
    reasons = misfits(record, replace(HOPPER, capability=capability))
    assert (reasons == []) is runs
    assert all("compute capability 8.0 or later" in reason for reason in reasons)


def test_one_message_holds_every_reason_and_the_command_that_builds_it_anew() -> None:
    host = Host(versions={"tensorrt": "11.0.0.114"}, gpu="NVIDIA A100", capability=(8, 0), platform="linux-aarch64")
    reasons = misfits(FULL, host)
    assert len(reasons) == 3
    command = r"resnet-infer export resnet20\.th --to tensorrt --precision int8 --head dense .*-o net\.engine$"
    with pytest.raises(ArtifactError, match=command) as caught:
        check_host(FULL, host, Path("engines/net.engine"))
    message = str(caught.value)
    assert message.startswith("engines/net.engine: cannot run here: ")
    assert all(reason in message for reason in reasons)
    assert len(message.splitlines()) == 1


def test_the_command_names_no_flag_that_is_the_default() -> None:
    plain = replace(NET, precision="fp32", head="pooled", input="normalized", quantization={})
    record = replace(FULL, manifest=plain, profiles=FULL.profiles[:1])
    with pytest.raises(ArtifactError, match=r"resnet-infer export resnet20\.th --to tensorrt -o net\.engine$"):
        check_host(record, replace(HOPPER, capability=None), Path("net.engine"))


def test_the_file_of_the_record_passes_and_any_other_is_told_apart() -> None:
    check_file(FULL, path := Path("net.engine"), 12345, "a" * 64)
    with pytest.raises(ArtifactError, match=r"net\.engine: truncated: 12,344 of 12,345 bytes"):
        check_file(FULL, path, 12344, "c" * 64)
    for size in (12345, 12346):
        with pytest.raises(ArtifactError, match=r"is not the engine that net\.engine\.json describes.*sha256"):
            check_file(FULL, path, size, "c" * 64)


def test_the_record_lies_beside_the_engine() -> None:
    assert engine_manifest.record_path(Path("a/net.v1.engine")) == Path("a/net.v1.engine.json")
    assert engine_manifest.record_path(Path("model.plan")) == Path("model.plan.json")
