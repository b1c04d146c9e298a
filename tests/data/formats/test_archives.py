"""Archives: read in place, checked to the byte, and never run."""

import gc
import io
import os
import pickle
import struct
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError

MEMBERS = {"a/1.png": b"one" * 50, "a/2.png": b"two" * 80, "b/3.png": bytes(range(256))}


def write_zip(path: Path, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
    return path.read_bytes()


def write_tar(path: Path, mode: str = "w") -> bytes:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path.read_bytes()


def outcome(path: Path) -> str:
    """What becomes of an archive that may be damaged; any error but those agreed on ends the test."""
    try:
        source: Source = open_source(path)
    except DataError:
        return "refused"
    found = {}
    for sample in source.samples:
        try:
            found[sample.name] = source.read(sample)
        except (DataError, OSError):
            return "unreadable"
    return "whole" if found == MEMBERS else "wrong"


# zip


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_read_without_being_unpacked(
    compression: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / "x.zip", compression)
    assert outcome(tmp_path / "x.zip") == "whole"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["temporary", "x.zip"]


def test_a_zip_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.zip")
    for length in range(len(whole)):
        (tmp_path / "cut.zip").write_bytes(whole[:length])
        assert outcome(tmp_path / "cut.zip") == "refused", length


@pytest.mark.parametrize(
    "compression",
    [
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_BZIP2,
        zipfile.ZIP_LZMA,
    ],
)
def test_a_corrupt_member_of_a_zip_is_unreadable(compression: int, tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.zip", compression)
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        first = archive.infolist()[0]
    start = 30 + len(first.filename)  # a local header is 30 bytes and the name
    outcomes = []
    for at in range(start, start + first.compress_size):
        (tmp_path / "bad.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        outcomes.append(outcome(tmp_path / "bad.zip"))
    assert set(outcomes) <= {"unreadable", "whole"}  # some bits of a compressor's header mean nothing
    assert outcomes.count("unreadable") > len(outcomes) / 2


def test_no_damaged_byte_of_a_zip_gives_another_kind_of_exception(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.zip")
    for at in range(len(whole)):
        for value in (0, 1, 255, whole[at] ^ 1):
            (tmp_path / "bad.zip").write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            outcome(tmp_path / "bad.zip")


def test_an_encrypted_zip_is_unreadable(tmp_path: Path) -> None:
    whole = bytearray(write_zip(tmp_path / "x.zip"))
    whole[whole.find(b"PK\3\4") + 6] |= 1  # bit 0 of the flags: encrypted
    whole[whole.find(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(whole)
    source = open_source(tmp_path / "x.zip")
    with pytest.raises(DataError, match="encrypted"):
        source.read(source.samples[0])


def test_a_zip_that_shrank_meanwhile_is_unreadable(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "x.zip")
    source = open_source(tmp_path / "x.zip")
    (tmp_path / "x.zip").write_bytes(whole[:100])
    with pytest.raises((DataError, OSError)):
        source.read(source.samples[0])


# tar


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_with_long_names_is_read(format: int, tmp_path: Path) -> None:
    members = {f"{'folder' * 15}/{'file' * 20}{number}.png": bytes([number]) * 1000 for number in range(3)}
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    source = open_source(tmp_path / "x.tar")
    assert {sample.name: source.read(sample) for sample in source.samples} == members


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz", "x.tar"])
def test_a_compressed_tar_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / name, f"w:{ {'2': 'bz2', 'xz': 'xz'}.get(name.rpartition('.')[2][-2:].lstrip('bz'), 'gz') }")
    with pytest.raises(DataError, match="decompress it"):
        open_source(tmp_path / name)


def test_a_tar_cut_short_anywhere_is_never_silently_smaller(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar")
    last = 512 * sum(1 + -(-len(data) // 512) for data in MEMBERS.values())  # header and blocks; then only zeros
    for length in range(0, last, 64):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        assert outcome(tmp_path / "cut.tar") in ("refused", "unreadable"), length
    assert outcome(tmp_path / "whole.tar") == "whole"


def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    whole = bytearray(write_tar(tmp_path / "whole.tar"))
    whole[2 * 512 + 150] ^= 0xFF  # the second header's checksum
    (tmp_path / "bad.tar").write_bytes(whole)
    assert outcome(tmp_path / "bad.tar") in ("refused", "unreadable")


def test_a_tar_that_shrank_meanwhile_is_unreadable(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar")
    source = open_source(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(whole[:600])
    with pytest.raises(DataError, match="ends 62 bytes before"):
        source.read(source.samples[0])  # 150 bytes from 512 on


def test_a_tar_closes_its_file_when_it_is_dropped(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(tmp_path / "x.tar")
        source.read(source.samples[0])
        del source
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("data", [b"", b"text", b"\0" * 100, b"x" * 2000])
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    for name in ("x.zip", "x.tar"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=r"not a (zip|plain tar) file"):
            open_source(tmp_path / name)


# cifar-10-batches-py


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes bytes as Python 2 wrote its strings, as in the files that CIFAR-10's authors distribute."""

    def save_string(self, value: bytes) -> None:
        self.write(
            b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
        )
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {bytes: save_string}  # type: ignore[attr-defined]


def python2_pickle(path: Path, value: Any) -> None:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core."))


def write_cifar(folder: Path, **changes: Any) -> np.ndarray[Any, Any]:
    """Five images as flat rows, one channel after the other; with changes to the batch's dictionary."""
    rows = np.random.default_rng(0).integers(0, 256, (5, 3072), dtype=np.uint8)
    batch = {"data": rows, "labels": [2, 0, 1, 2, 2], "filenames": [f"{n}_s.png".encode() for n in range(5)]} | changes
    folder.mkdir(exist_ok=True)
    python2_pickle(folder / "batches.meta", {b"label_names": [b"airplane", b"bird", b"cat"], b"num_vis": 3072})
    python2_pickle(folder / "test_batch", {key.encode(): value for key, value in batch.items() if value is not None})
    return rows


def test_cifar10s_own_test_batch_is_read(tmp_path: Path) -> None:
    rows = write_cifar(tmp_path / "cifar-10-batches-py")
    source = open_source(tmp_path / "cifar-10-batches-py")
    assert [sample.label for sample in source.samples] == ["cat", "airplane", "bird", "cat", "cat"]
    assert [sample.name for sample in source.samples] == [f"{n}_s.png" for n in range(5)]
    for travelled in (source, pickle.loads(pickle.dumps(source))):
        for row, sample in zip(rows, travelled.samples, strict=True):
            pixels = travelled.read(sample)
            assert isinstance(pixels, np.ndarray)
            for channel, plane in enumerate(np.split(row, 3)):
                assert (pixels[:, :, channel] == plane.reshape(32, 32)).all()


class Malicious:
    """Makes a folder when a careless reader loads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_malicious_batch_is_refused_and_not_run(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar")
    attack = pickle.dumps({b"data": Malicious(tmp_path / "made")}, protocol=2)
    for file in ("test_batch", "batches.meta"):
        write_cifar(tmp_path / "cifar")
        (tmp_path / "cifar" / file).write_bytes(attack)
        with pytest.raises(DataError, match="refused"):
            open_source(tmp_path / "cifar")
        assert not (tmp_path / "made").exists()
    pickle.loads(attack)  # the attack is a real one
    assert (tmp_path / "made").exists()


CHANGES: list[dict[str, Any]] = [
    {"labels": [2, 0, 1, 2, 3]},
    {"labels": None},
    {"filenames": None},
    {"data": np.zeros((5, 3000), np.uint8)},
    {"data": None},
    {"labels": [1, 2]},
    {"labels": [2, 0, 1, 2, -1]},
    {"data": np.zeros((4, 3072), np.uint8)},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_a_batch_that_does_not_fit_together_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar", **changes)
    with pytest.raises(DataError, match="cifar"):
        open_source(tmp_path / "cifar")


def test_a_batch_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar")
    for file in ("batches.meta", "test_batch"):
        whole = (tmp_path / "cifar" / file).read_bytes()
        for length in range(0, len(whole), max(1, len(whole) // 100)):
            (tmp_path / "cifar" / file).write_bytes(whole[:length])
            with pytest.raises(DataError):
                open_source(tmp_path / "cifar")
        (tmp_path / "cifar" / file).write_bytes(whole)
    assert len(open_source(tmp_path / "cifar").samples) == 5
