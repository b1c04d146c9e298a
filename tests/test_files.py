"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from resnet_infer.errors import UsageError
from resnet_infer.files import replacing


def test_a_file_appears_when_it_is_whole_with_the_mode_of_any_other(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file.bin"
    before = os.umask(0o027)
    try:
        with replacing(path) as partial:
            partial.write_bytes(b"whole")
            assert not path.exists()
            assert partial.parent == path.parent
    finally:
        os.umask(before)
    assert path.read_bytes() == b"whole"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["file.bin"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fails() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fails()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"file/x: cannot be written \("), replacing(tmp_path / "file" / "x"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"folder: cannot be written \("), replacing(tmp_path / "folder") as partial:
        partial.write_bytes(b"")


@pytest.mark.parametrize("durable", [False, True])
def test_durable_syncs_the_file_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    path = tmp_path / "file.bin"
    synced: list[tuple[bool, bool]] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append((Path(f"/proc/self/fd/{handle}").resolve().is_dir(), path.exists()))
    )
    with replacing(path, durable=durable) as partial:
        partial.write_bytes(b"x")
    assert synced == ([(False, False), (True, True)] if durable else [])
