"""Thousands of malformed images and archives: nothing crashes or hangs, and every one that cannot be read is named."""

import os
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest
from malformed import broken_images, damaged_archives, damaged_images, encoded, jpeg_claiming, png_claiming, zipped

from resnet_infer.data.open import open_source
from resnet_infer.data.source import Memory
from resnet_infer.errors import DataError
from resnet_infer.pipeline.loader import load
from resnet_infer.spec.protocols import single_crop

PROTOCOLS = (single_crop(8, 8),)
LIMIT_S = 30.0


def test_broken_images_are_all_named() -> None:
    """In a worker process, so that a crash or a hang would be an error of another kind."""
    images = list(broken_images())
    assert len(images) > 900
    loaded = list(load(Memory("broken", images), PROTOCOLS, range(len(images)), 1, LIMIT_S))
    assert [image.index for image in loaded] == list(range(len(images)))
    assert [images[image.index][0] for image in loaded if not image.error] == []
    fatal = [images[image.index][0] for image in loaded if "the process that" in image.error or "took" in image.error]
    assert fatal == []


def test_damaged_images_are_decoded_or_named() -> None:
    images = list(damaged_images(1000))
    loaded = list(load(Memory("damaged", images), PROTOCOLS, range(len(images)), 1, LIMIT_S))
    assert [image.index for image in loaded] == list(range(len(images)))
    assert all(bool(image.error) != bool(image.tiles) for image in loaded)
    assert [image.error for image in loaded if "the process that" in image.error or "took" in image.error] == []
    assert 200 < sum(bool(image.error) for image in loaded) < 990  # the damage is neither too light nor too heavy


def test_damaged_archives_are_read_or_named(tmp_path: Path) -> None:
    outcomes = {"refused": 0, "unreadable": 0, "read": 0, "unnamed": 0}
    whole = encoded("PNG")
    for name, data in damaged_archives(450):
        path = tmp_path / name
        path.write_bytes(data)
        try:
            source = open_source(path)
        except DataError as error:
            outcomes["refused"] += name in str(error)
            outcomes["unnamed"] += name not in str(error)
            continue
        for sample in source.samples:
            assert sample.name
            try:
                found = source.read(sample)
                assert name.endswith(".tar") or len(found) != len(whole) or found == whole  # a zip has checksums
                outcomes["read"] += 1
            except (DataError, OSError):
                outcomes["unreadable"] += 1
    assert outcomes.pop("unnamed") == 0
    assert min(outcomes.values()) > 20


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_in_a_zip_is_unpacked_no_further_than_its_claim(method: int, tmp_path: Path) -> None:
    """Sixteen megabytes of zeros whose directory entry claims a thousand bytes."""
    whole = bytearray(zipped([("a/1.png", bytes(2**24))], method))
    struct.pack_into("<L", whole, whole.index(b"PK\1\2") + 24, 1000)
    (tmp_path / "bomb.zip").write_bytes(whole)
    source = open_source(tmp_path / "bomb.zip")
    tracemalloc.start()
    with pytest.raises(DataError, match="checksum or size is wrong"):
        source.read(source.samples[0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_images_of_impossible_size_are_refused_before_they_are_decoded() -> None:
    for name, data in (("x.png", png_claiming(65_500, 65_500)), ("x.jpg", jpeg_claiming(65_500, 65_500))):
        tracemalloc.start()
        (image,) = load(Memory("m", [(name, data)]), PROTOCOLS, [0], 0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert "limit of 134 million pixels" in image.error
        assert peak < 2**22


def test_names_of_any_bytes_are_read_and_named(tmp_path: Path) -> None:
    names = [
        b"line\nfeed.png",
        b"not \xff\xfe utf-8.png",
        "ünï.png".encode(),
        b"tab\t.png",
        b" .png",
        b"-o.png",
        b"*.png",
    ]
    (tmp_path / "cat").mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path / "cat"), name), "wb") as file:
            file.write(encoded("PNG"))
    source = open_source(tmp_path)
    assert sorted(os.fsencode(sample.name).rpartition(b"/")[2] for sample in source.samples) == sorted(names)
    assert all(not image.error for image in load(source, PROTOCOLS, range(len(names)), 1))


def test_several_members_of_one_name_are_several_images(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (tmp_path / "x.zip").write_bytes(zipped([("a/1.png", b"one"), ("a/1.png", b"two"), ("b/1.png", b"three")]))
    source = open_source(tmp_path / "x.zip")
    assert [source.read(sample) for sample in source.samples] == [b"one", b"two", b"three"]


def test_links_to_themselves_and_to_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/ok.png").write_bytes(encoded("PNG"))
    (tmp_path / "a/self.png").symlink_to(tmp_path / "a/self.png")
    (tmp_path / "a/nothing.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "a/above").symlink_to(tmp_path, target_is_directory=True)
    source = open_source(tmp_path)
    errors = {Path(source.samples[i.index].name).name: i.error for i in load(source, PROTOCOLS, range(3), 0)}
    assert errors == {"ok.png": "", "self.png": os.strerror(40), "nothing.png": os.strerror(2)}


def test_pipes_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "ok.png").write_bytes(encoded("PNG"))
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(tmp_path)
    assert [sample.name for sample in source.samples] == [str(tmp_path / "ok.png")]
    assert list(source.left_out) == ["pipe.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root, who runs these tests")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/closed.png", "a/open.png"):
        (tmp_path / name).write_bytes(encoded("PNG"))
    (tmp_path / "a/closed.png").chmod(0)
    source = open_source(tmp_path)
    assert [image.error for image in load(source, PROTOCOLS, range(2), 0)] == [os.strerror(13), ""]
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(DataError, match=r"/a: cannot be listed \(Permission denied\)"):
            open_source(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_an_error_not_a_smaller_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(b"")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"/b: cannot be listed \(Permission denied\)"):
        open_source(tmp_path)
