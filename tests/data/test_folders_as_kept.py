"""Folders and archives as users keep them: links, other spellings of an accent, Windows' zips, compressed files."""

import io
import os
import shlex
import shutil
import subprocess
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from resnet_infer.data.classes import class_indices
from resnet_infer.data.formats import folders
from resnet_infer.data.left_out import NAMED, left_out_record, note_left_out
from resnet_infer.data.open import open_source
from resnet_infer.errors import DataError
from resnet_infer.spec.labels import Labels

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png())


def test_linked_class_folders_are_read_as_image_folder_does(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root / "cat/1.png")
    put(root / "dog/2.PNG")
    put(tmp_path / "else/3.JPEG")
    (root / "also_cat").symlink_to("cat", target_is_directory=True)
    (root / "bird").symlink_to(tmp_path / "else", target_is_directory=True)
    (root / "dog/9.png").symlink_to("../cat/1.png")
    theirs = ImageFolder(str(root))
    ours = [(f"{root}/{s.name}".replace(f"{root}/{root}", str(root)), s.label) for s in open_source(f"{root}/").samples]
    assert ours == [(path, theirs.classes[index]) for path, index in theirs.samples]
    assert len(ours) == 5


def test_links_that_lead_in_circles_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a/1.png")
    put(tmp_path / "b/2.png")
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a/b").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b/a").symlink_to(tmp_path / "a", target_is_directory=True)
    names = [Path(s.name).relative_to(tmp_path).as_posix() for s in open_source(tmp_path).samples]
    assert names == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]
    monkeypatch.setattr(folders, "MAX_LINKED", 1)
    with pytest.raises(DataError, match="more than 1 folders"):
        open_source(tmp_path)


@pytest.mark.parametrize(("kept", "asked"), [(NFC, NFD), (NFD, NFC)])
def test_both_forms_of_an_accent_are_one_name(kept: str, asked: str, tmp_path: Path) -> None:
    put(tmp_path / "data" / kept / f"{kept}.png")
    put(tmp_path / "data/tea/1.png")
    index = class_indices(open_source(tmp_path / "data"), Labels(names=("tea", asked)), 2)
    assert sorted(index) == [0, 1]
    assert Labels(names=("tea", asked)).index_of([kept, "tea"], "x") == {kept: 1, "tea": 0}
    (tmp_path / "list.txt").write_text(f"data/{asked}/{asked}.png\ttea\n", "utf-8")
    listed = open_source(tmp_path / "list.txt")
    assert listed.read(listed.samples[0]) == png()


def test_a_zip_of_windows_has_its_class_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for system, name in ((0, "cat\\1.png"), (0, "dog\\2.png"), (3, "dog/3\\4.png")):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, system
            archive.writestr(info, png())
    source = open_source(tmp_path / "w.zip")
    assert [(s.name, s.label) for s in source.samples] == [
        ("cat/1.png", "cat"), ("dog/2.png", "dog"), ("dog/3\\4.png", "dog"),
    ]  # fmt: skip
    assert [source.read(s) for s in source.samples] == [png()] * 3


def test_names_in_a_zip_are_decoded_as_zipfile_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "n.zip", "w") as archive:
        archive.writestr("a/é.png", png())
        archive.writestr("b/xx.png", png())
    raw = (tmp_path / "n.zip").read_bytes().replace(b"xx.png", b"\x82\xe1.png")  # cp437, with no flag
    (tmp_path / "n.zip").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "n.zip") as archive:
        theirs = sorted(archive.namelist())
    assert sorted(s.name for s in open_source(tmp_path / "n.zip").samples) == theirs


def test_a_method_that_is_not_read_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.png", png())
        archive.filelist[0].compress_type = 93
    source = open_source(tmp_path / "z.zip")
    with pytest.raises(DataError, match=r"method 93 \(Zstandard\)"):
        source.read(source.samples[0])


@pytest.mark.parametrize(
    ("name", "mode"), [("a b.tar.gz", "gz"), ("x.tgz", "gz"), ("x.tar", "gz"), ("x.tar.bz2", "bz2"), ("x.txz", "xz")]
)
def test_the_command_named_makes_a_compressed_tar_readable(name: str, mode: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / name, f"w:{mode}") as archive:
        info = tarfile.TarInfo("cat/1.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
    with pytest.raises(DataError, match="decompress it: ") as caught:
        open_source(tmp_path / name)
    command = str(caught.value).rpartition("decompress it: ")[2]
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not here")
    subprocess.run(command, shell=True, check=True)
    source = open_source(shlex.split(command)[-1])
    assert source.read(source.samples[0]) == png()


@pytest.mark.parametrize(
    ("name", "head", "command"),
    [("x.tar.zst", b"\x28\xb5\x2f\xfd", "zstd -dc"), ("x.7z", b"7z\xbc\xaf\x27\x1c", "7z x"),
     ("x.rar", b"Rar!\x1a\x07\x01\x00", "unrar x")],
)  # fmt: skip
def test_other_packers_are_named_with_their_command(name: str, head: bytes, command: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(head + bytes(600))
    with pytest.raises(DataError, match=command):
        open_source(tmp_path / name)


def test_what_is_left_out_is_counted_by_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "a/1.png")
    note_left_out(open_source(tmp_path))
    assert capsys.readouterr().err == ""
    for number in range(30):
        (tmp_path / f"a/{number:02}.XCF").touch()
    for name in ("x.txt", "y.txt", "scraped"):
        put(tmp_path / "a" / name)
    source = open_source(tmp_path)
    note_left_out(source)
    (line,) = capsys.readouterr().err.splitlines()
    assert "33 files" in line
    assert "30 .xcf, 2 .txt, 1 without a suffix; an image needs a suffix" in line
    record = left_out_record(source)
    assert record["files"] == 33
    assert len(record["names"]) == NAMED
    assert os.path.basename(record["names"][0]) == "00.XCF"
