"""Shards: parts of a sample meet by their key, classes are numbers or names, several files are one source."""

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from resnet_infer.data.classes import class_indices
from resnet_infer.data.open import open_inputs, open_source
from resnet_infer.errors import DataError
from resnet_infer.spec.labels import Labels

Part = tuple[str, bytes]


def write(path: Path, parts: Sequence[Part]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in parts:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5  # type: ignore[assignment]  # WebDataset's times have fractions
            archive.addfile(member, io.BytesIO(data))
    return path


def sample(number: int, label: bytes, ending: str = "cls") -> list[Part]:
    return [(f"{number:04}.jpg", b"picture %d" % number), (f"{number:04}.{ending}", label)]


@pytest.mark.parametrize("pattern", ["val-{000..002}.tar", "val-*.tar", "val-{000,001,002}.tar", "val-00[0-2].tar"])
def test_several_shards_are_one_source_in_order(pattern: str, tmp_path: Path) -> None:
    for shard in range(3):
        parts = [part for number in range(4) for part in sample(10 * shard + number, b"%d\n" % (number % 3))]
        write(tmp_path / f"val-{shard:03}.tar", parts)
    for source in (open_source(f"{tmp_path}/{pattern}"), open_inputs([f"{tmp_path}/{pattern}"], io.BytesIO())):
        expected = [
            (f"{tmp_path}/val-{shard:03}.tar/{10 * shard + number:04}.jpg", str(number % 3), 10 * shard + number)
            for shard in range(3)
            for number in range(4)
        ]
        for travelled in (source, pickle.loads(pickle.dumps(source))):
            assert [(s.name, s.label) for s in travelled.samples] == [(name, label) for name, label, _ in expected]
            assert [travelled.read(s) for s in travelled.samples] == [b"picture %d" % number for *_, number in expected]
        assert not source.left_out


def test_classes_are_numbers_or_names_of_cls_or_json(tmp_path: Path) -> None:
    parts = [
        *sample(0, b" 07\n"),
        *sample(1, "Grünfink\n".encode()),
        *sample(2, json.dumps({"width": 3, "label": 7}).encode(), "json"),
        *sample(3, json.dumps({"class_name": "Grünfink"}).encode(), "json"),
        *sample(4, json.dumps({"label": True}).encode(), "json"),
        *sample(5, json.dumps({"label": 1}).encode(), "json"),
        ("0005.cls", b"2"),
        ("0006.jpg", b"picture 6"),
        ("0007.json", b"{}"),
    ]
    source = open_source(write(tmp_path / "x.tar", parts))
    assert [s.label for s in source.samples] == ["7", "Grünfink", "7", "Grünfink", None, "2", None]
    assert list(source.left_out) == [f"{tmp_path}/x.tar/0007.json"]


def test_numbers_are_the_models_class_indices_and_names_its_names(tmp_path: Path) -> None:
    labels = Labels(names=("ant", "bee", "cat"))
    for texts, expected in (((b"2", b"0"), [2, 0]), ((b"Cat", b"ant"), [2, 0])):
        parts = [part for number, text in enumerate(texts) for part in sample(number, text)]
        assert list(class_indices(open_source(write(tmp_path / "x.tar", parts)), labels, 3)) == expected
    parts = [*sample(0, b"0"), *sample(1, b"3")]
    with pytest.raises(DataError, match="'3'"):
        class_indices(open_source(write(tmp_path / "x.tar", parts)), labels, 3)


def test_an_ending_that_comes_again_is_another_sample_of_that_name(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "x.tar", [*sample(1, b"0"), *sample(1, b"1")]))
    assert [s.label for s in source.samples] == ["0", "1"]
    assert len({s.name for s in source.samples}) == 1
    assert [source.read(s) for s in source.samples] == [b"picture 1"] * 2


def test_a_tree_in_a_tar_is_no_shard(tmp_path: Path) -> None:
    parts = [("cat/1.jpg", b"1"), ("dog/2.jpg", b"2"), ("dog/2.json", b'{"camera": "x"}')]
    source = open_source(write(tmp_path / "x.tar", parts))
    assert [(s.name, s.label) for s in source.samples] == [("cat/1.jpg", "cat"), ("dog/2.jpg", "dog")]


def test_what_is_wrong_with_a_shard_names_it(tmp_path: Path) -> None:
    write(tmp_path / "a-0.tar", sample(0, b"1"))
    write(tmp_path / "a-1.tar", [*sample(0, b"1"), *sample(1, b"\xff\xfe")])
    with pytest.raises(DataError, match=r"a-1\.tar: 0001\.cls: cannot be read"):
        open_source(f"{tmp_path}/a-*.tar")
    with pytest.raises(DataError, match=r"a-2\.tar: no such file or folder \(1 of the 3"):
        open_source(f"{tmp_path}/a-{{0..2}}.tar")
    with pytest.raises(DataError, match="no file matches"):
        open_source(f"{tmp_path}/b-*.tar")
    with pytest.raises(DataError, match="is not a range"):
        open_source(f"{tmp_path}/a-{{5..2}}.tar")
    with pytest.raises(DataError, match="more than 100,000 files"):
        open_source(f"{tmp_path}/{{0..9999}}{{0..9999}}.tar")
    (tmp_path / "a-1.tar").write_bytes((tmp_path / "a-1.tar").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a-1\.tar: .*(end mark|damaged)"):
        open_source(f"{tmp_path}/a-*.tar")
