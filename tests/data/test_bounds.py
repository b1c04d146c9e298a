"""Small inputs that claim or unpack to much, and files that are none: one line each, and little memory."""

import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from resnet_infer.data import listings
from resnet_infer.data import open as opening
from resnet_infer.data.formats import archives
from resnet_infer.data.open import open_inputs, open_source
from resnet_infer.data.source import held_bytes
from resnet_infer.errors import DataError, UsageError

CHILD = """
import resource, sys
from resnet_infer.data.open import open_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    source = open_source(sys.argv[1])
    for sample in source.samples[:3]:
        source.read(sample)
    print("read", len(source.samples))
except Exception as error:
    print(type(error).__name__, error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak_mib(path: Path) -> tuple[str, int]:
    """What came of opening and reading a source in a process of its own, and how far its memory rose."""
    done = subprocess.run([sys.executable, "-c", CHILD, path], capture_output=True, text=True, timeout=120, check=True)
    said, rise = done.stdout.splitlines()
    return said, int(rise)


def test_archives_inside_an_archive_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    """Eight of 64 MiB, which a file of half a megabyte holds."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("1.png", bytes(2**26))
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(8):
            archive.writestr(f"{number}.zip", inner.getvalue())
    assert (tmp_path / "x.zip").stat().st_size < 2**20
    said, rise = peak_mib(tmp_path / "x.zip")
    assert said == "read 8"
    assert rise < 400
    assert 2**26 < held_bytes(open_source(tmp_path / "x.zip")) < 2**27


def test_long_names_before_many_members_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_LISTED_BYTES", 2**20)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for number in range(100):
            archive.writestr(f"{number}.png", b"")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("long" * 10_000 + ".zip", inner.getvalue())
    with pytest.raises(DataError, match="names in its inner archives are over the limit"):
        open_source(tmp_path / "x.zip")


@pytest.mark.parametrize("column", ["image", "label", "path"])
def test_a_large_value_of_a_dictionary_is_not_every_rows(column: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    large = "x" * 2**23
    images = [{"bytes": large.encode() if column == "image" else b"1", "path": large if column == "path" else "1"}]
    labels = [large if column == "label" else "1"]
    table = pa.concat_tables([pa.table({"image": images, "label": labels})] * 1000)
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd", dictionary_pagesize_limit=2**30)
    assert (tmp_path / "x.parquet").stat().st_size < 2**20
    said, rise = peak_mib(tmp_path / "x.parquet")
    assert said == "read 1000" or "over the limit" in said
    assert rise < 900


def test_a_line_of_a_list_is_bounded_and_so_is_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "x.txt").open("wb") as file:
        file.truncate(2**34)  # no space on the disk
    said, rise = peak_mib(tmp_path / "x.txt")
    assert "a line of it has over 65,536 bytes" in said
    assert rise < 100
    monkeypatch.setattr(listings, "MAX_LIST_BYTES", 1000)
    (tmp_path / "y.txt").write_text("a.png\n" * 100)
    with pytest.raises(DataError, match=r"y\.txt: over the limit of 1,000 bytes for a list"):
        open_source(tmp_path / "y.txt")


def test_standard_input_is_read_no_further_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_BYTES", 1000)
    stream = io.BytesIO(b"\xff" * 5000)
    with pytest.raises(UsageError, match="over the limit of 1,000 bytes"):
        open_inputs(["-"], stream)
    assert stream.tell() == 1001
    monkeypatch.setattr(opening, "MAX_STDIN_NAMES", 10)
    with pytest.raises(UsageError, match="10 bytes for names; give a list file"):
        open_inputs(["-"], io.BytesIO(b"a.png\n" * 9))


@pytest.mark.parametrize("kind", ["array", "memo", "bytes"])
def test_a_pickle_takes_no_memory_that_it_only_claims(kind: str, tmp_path: Path) -> None:
    attack = {
        "array": b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        + pickle.dumps((10**11,), 2)[2:-1]
        + b"U\x01Otq\x05Rs.",
        "memo": b"\x80\x02}r" + struct.pack("<L", 2**30) + b".",
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**36) + b"x.",
    }[kind]
    (tmp_path / "batches.meta").write_bytes(attack)
    (tmp_path / "test_batch").write_bytes(attack)
    said, rise = peak_mib(tmp_path)
    assert said.startswith("DataError")
    assert "not a readable cifar-10-batches-py folder" in said
    assert rise < 50


@pytest.mark.parametrize("name", ["x.png", "x.zip", "x.tar", "x.parquet", "x.txt", "x"])
def test_a_pipe_is_refused_and_never_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    found: list[str] = []

    def run() -> None:
        for inputs in ([str(tmp_path / name)], [str(tmp_path / "x*")]):
            try:
                open_inputs(inputs, io.BytesIO())
            except DataError as error:
                found.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert len(found) == 2
    assert all("not a regular file; standard input is read as `-`" in error for error in found)


def test_a_pipe_in_a_list_is_an_unreadable_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "list.txt").write_text("x.png\n/dev/zero\n")
    source = open_source(tmp_path / "list.txt")
    for sample in source.samples:
        with pytest.raises(OSError, match="not a regular file"):
            source.read(sample)
