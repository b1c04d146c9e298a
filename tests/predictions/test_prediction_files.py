"""Predictions on disk: what was written is read, in both forms, and a damaged file is never taken for a whole one."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from resnet_infer.errors import DataError, UsageError
from resnet_infer.predictions.files import format_of, open_predictions, read_predictions
from resnet_infer.predictions.records import Identity, Record

IMAGES = 5
IDENTITY = Identity(
    release="1",
    model="net.onnx",
    model_sha256="ab" * 32,
    architecture="resnet20",
    preprocessing={"mean": [0.1, 0.2, 0.3]},
    classes=7,
    labels=[f"class {number}" for number in range(7)],
    backend="onnxruntime",
    device="cpu",
    precision="fp32",
    offload="nothing",
    protocols=[{"name": "single-crop"}, {"name": "ten-crop"}],
    data="data.zip",
    data_sha256="cd" * 32,
    images=IMAGES,
    probabilities=True,
)


def records() -> Iterator[Record]:
    """Every float a float32, names of all kinds, and one image that could not be read."""
    rng = np.random.default_rng(0)
    names = ("a.png", "b\nc\t'\".png", "été/ü.png", "bytes \udcff.png", "")
    for index, name in enumerate(names):
        for protocol in IDENTITY.protocol_names:
            if index == 3:
                yield Record(index=index, protocol=protocol, name=name, label="x", truth=1, error="cut \udcfe off")
                continue
            probs_K = rng.dirichlet(np.full(7, 0.1)).astype(np.float32)
            best = np.argsort(-probs_K)[:5]
            yield Record(
                index=index,
                protocol=protocol,
                name=name,
                label=None if index == 4 else "class 1",
                truth=None if index == 4 else 1,
                rank=None if index == 4 else int((probs_K >= probs_K[1]).sum()) - 1,
                truth_prob=None if index == 4 else float(probs_K[1]),
                top_classes=tuple(best.tolist()),
                top_probs=tuple(probs_K[best].tolist()),
                probs_K=probs_K,
            )


def same(found: Record, written: Record) -> bool:
    for field in fields(Record):
        a, b = getattr(found, field.name), getattr(written, field.name)
        if isinstance(b, str):
            b = b.encode("utf-8", "backslashreplace").decode()
        if not (np.array_equal(a, b) if field.name == "probs_K" and b is not None else a == b):
            return False
    return True


@pytest.fixture(params=["jsonl", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"predictions.{request.param}"
    format_of(path).write(path, IDENTITY, records())
    return path


def test_what_was_written_is_read_to_the_last_bit(file: Path) -> None:
    found = read_predictions(file)
    assert found.identity.differences(IDENTITY) == []
    assert found.identity.data == "data.zip"
    assert list(found.records) == ["single-crop", "ten-crop"]
    for protocol, of_protocol in found.records.items():
        written = [record for record in records() if record.protocol == protocol]
        assert [record.index for record in of_protocol] == list(range(IMAGES))
        for mine, theirs in zip(of_protocol, written, strict=True):
            assert same(mine, theirs)


def test_other_tools_read_both_forms(file: Path) -> None:
    if file.suffix == ".parquet":
        frame = pd.read_parquet(file)
    else:
        frame = pd.DataFrame([json.loads(line) for line in file.read_text("ascii").splitlines()[1:]])
    assert frame["index"].tolist() == [index for index in range(IMAGES) for _ in range(2)]
    assert (frame["rank"] == 0).sum() == sum(record.rank == 0 for record in records())
    names = [record.name.encode("utf-8", "backslashreplace").decode() for record in records()]
    assert frame["name"].tolist() == names


def test_a_file_without_probabilities_is_smaller_and_otherwise_the_same(file: Path) -> None:
    bare = file.with_name("bare" + file.suffix)
    bare_identity = replace(IDENTITY, probabilities=False)
    format_of(bare).write(bare, bare_identity, (replace(record, probs_K=None) for record in records()))
    found = read_predictions(bare)
    assert bare.stat().st_size < file.stat().st_size
    assert bare_identity.differences(IDENTITY) == ["whether all probabilities are kept: false, not true"]
    for record, whole in zip(found.records["ten-crop"], read_predictions(file).records["ten-crop"], strict=True):
        assert record == replace(whole, probs_K=None)


def test_a_file_cut_off_anywhere_or_with_other_bytes_is_an_error(file: Path) -> None:
    """One line, never fewer records."""
    whole = file.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=file.name):
            read_predictions(file)
    file.write_bytes(whole[:-40] + bytes(40))
    with pytest.raises(DataError, match=file.name):
        read_predictions(file)


@pytest.mark.parametrize("change", ["one missing", "one twice", "two swapped", "last missing", "one too many"])
def test_records_that_are_not_each_image_once_in_order_are_an_error(file: Path, change: str) -> None:
    listed = list(records())
    listed = {
        "one missing": listed[:3] + listed[4:],
        "one twice": [*listed[:3], listed[2], *listed[3:]],
        "two swapped": [listed[2], listed[1], listed[0], *listed[3:]],
        "last missing": listed[:-1],
        "one too many": [*listed, replace(listed[-1], index=IMAGES)],
    }[change]
    format_of(file).write(file, IDENTITY, listed)
    with pytest.raises(DataError, match=r"out of place|missing"):
        read_predictions(file)


def test_whatever_is_not_a_predictions_file_is_refused_in_one_line(tmp_path: Path) -> None:
    for text in (b"", b"\n", b"[1]\n", b'{"a": 1}\n', b'{"resnet_infer": {"format": 2}}\n', b"\xff\n", b"[" * 9999):
        path = tmp_path / "x.jsonl"
        path.write_bytes(text)
        with pytest.raises(DataError, match=r"x\.jsonl"):
            read_predictions(path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="not predictions of resnet-infer"):
        read_predictions(tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"end in \.parquet or \.jsonl"):
        open_predictions(tmp_path / "x.csv")
    for suffix in ("jsonl", "parquet"):
        with pytest.raises(UsageError, match="no such file"):
            read_predictions(tmp_path / f"none.{suffix}")


def test_identities_differ_in_what_changes_scores_and_say_in_what() -> None:
    other = replace(IDENTITY, precision="int8", model_sha256="ef" * 32, model="other", data="elsewhere")
    assert other.differences(IDENTITY) == [
        "the model's file (sha256): efefefefefef, not abababababab",
        "the precision: int8, not fp32",
    ]
    for field in fields(Identity):
        changed = replace(IDENTITY, **{field.name: "changed"})
        assert bool(changed.differences(IDENTITY)) == (field.name not in ("model", "data"))
