"""Archives inside archives: read where they are, as deep as is allowed, with the classes that their names say."""

import io
import pickle
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from resnet_infer.data.formats.archives import MAX_DEPTH
from resnet_infer.data.open import open_source
from resnet_infer.errors import DataError

IMAGES = {"n01/a.jpg": b"a" * 700, "n01/b.jpg": b"b" * 900, "n02/c.jpg": b"c" * 800}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def stored(members: dict[str, bytes]) -> bytes:
    return zipped(members, zipfile.ZIP_STORED)


MAKERS = {"zip": zipped, "stored": stored, "tar": tarred}


@pytest.mark.parametrize("inner", MAKERS)
@pytest.mark.parametrize("outer", MAKERS)
def test_an_archive_of_one_archive_per_class_is_read_in_place(
    outer: str, inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ILSVRC2012_img_train.tar has one tar file for each synset."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    end = "tar" if inner == "tar" else "zip"
    parts = {
        f"{folder}.{end}": MAKERS[inner]({n.split("/")[1]: d for n, d in IMAGES.items() if n.startswith(folder)})
        for folder in ("n01", "n02")
    }
    path = tmp_path / f"x.{'tar' if outer == 'tar' else 'zip'}"
    path.write_bytes(MAKERS[outer](parts))
    source = open_source(path)
    for travelled in (source, pickle.loads(pickle.dumps(source))):
        found = {s.name: (s.label, travelled.read(s)) for s in travelled.samples}
        expected = {n.replace("/", f".{end}/"): (n[:3], data) for n, data in IMAGES.items()}
        assert found == expected
        assert [travelled.read(s) for s in reversed(travelled.samples)] == list(IMAGES.values())[::-1]
    assert sorted(file.name for file in tmp_path.rglob("*")) == sorted(["temporary", path.name])


def test_archives_are_followed_as_deep_as_allowed_and_no_deeper(tmp_path: Path) -> None:
    data = zipped({"cat/1.png": b"1"})
    for depth in range(1, MAX_DEPTH + 2):
        (tmp_path / "x.zip").write_bytes(data)
        if depth <= MAX_DEPTH:
            source = open_source(tmp_path / "x.zip")
            assert [source.read(s) for s in source.samples] == [b"1"]
        else:
            with pytest.raises(DataError, match=f"more than {MAX_DEPTH} deep"):
                open_source(tmp_path / "x.zip")
        data = zipped({f"{depth}.zip": data, "notes.txt": b""})


def test_a_damaged_archive_inside_is_named_with_the_way_to_it(tmp_path: Path) -> None:
    whole = zipped({"1.png": b"1"})
    for name, damaged in (("a.zip", whole[:-5]), ("b.tar", tarred({"1.png": b"1"})[:600]), ("c.zip", b"")):
        for make in (zipped, stored):
            (tmp_path / "x.zip").write_bytes(make({"ok.png": b"1", f"deep/{name}": damaged}))
            with pytest.raises(DataError, match=rf"x\.zip/deep/{name}: "):
                open_source(tmp_path / "x.zip")


def test_an_inner_archive_too_large_for_memory_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_infer.data.formats.archives.MAX_BYTES", 100)
    (tmp_path / "x.zip").write_bytes(zipped({"a.zip": zipped({"1.png": b"1"})}))
    with pytest.raises(DataError, match=r"x\.zip/a\.zip: .*store it uncompressed"):
        open_source(tmp_path / "x.zip")
    (tmp_path / "x.zip").write_bytes(stored({"a.zip": zipped({"1.png": b"1"})}))
    assert len(open_source(tmp_path / "x.zip").samples) == 1


def test_hidden_archives_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({"__MACOSX/._a.zip": b"x", "b/.c.tar": b"x", "cat/1.png": b"1"}))
    assert [s.name for s in open_source(tmp_path / "x.zip").samples] == ["cat/1.png"]
