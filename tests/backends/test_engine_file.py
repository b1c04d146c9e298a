"""An engine and its manifest on disk: the plan as it is, the two of one build, and each whole or not there."""

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from resnet_infer.backends.engine_file import read_engine, read_record, write_engine
from resnet_infer.errors import ArtifactError, ResnetInferError, UsageError
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.engine_manifest import EngineRecord, Host, check_host, record_path
from resnet_infer.spec.labels import CIFAR10_NAMES, Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.shapes import ShapeRange

PLAN = b"ftrt" + bytes(range(256)) * 40  # TensorRT's own magic, then anything
SMALL = 2**16


def record_of(plan: bytes) -> EngineRecord:
    """A record that belongs to this plan."""
    return EngineRecord(
        manifest=Manifest(
            spec=spec_from_name("resnet20"),
            preprocessing=Preprocessing(resize=32, crop=32),
            labels=Labels(names=CIFAR10_NAMES),
            source="Réseau \ud800.th",  # a file's name may hold what UTF-8 cannot
            head="pooled",
        ),
        flavour="tensorrt_rtx",
        version="1.7.1.116",
        platform="linux-x86_64",
        gpu="",
        capabilities=((8, 9),),
        profiles=(ShapeRange(min=(1, 32, 32), opt=(8, 32, 32), max=(16, 32, 32)),),
        size_bytes=len(plan),
        sha256=hashlib.sha256(plan).hexdigest(),
        onnx_sha256="0" * 64,
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "net.engine"
    write_engine(record_of(PLAN), PLAN, path)
    return path


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow over 64 KiB, as on a disk that fills up while it is written."""
    resource = pytest.importorskip("resource", reason="needs POSIX limits")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, before[1]))  # Python ignores the signal: writing raises
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(written: Path) -> None:
    assert read_engine(written) == (record_of(PLAN), PLAN)
    assert read_record(written) == record_of(PLAN)


def test_the_engine_is_the_plain_plan_with_its_manifest_beside_it(written: Path) -> None:
    """Nothing before it and nothing after, or trtexec, Triton and C++ could not load it."""
    assert written.read_bytes() == PLAN
    assert names(written.parent) == ["net.engine", "net.engine.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_others_may_read_both_files(written: Path) -> None:
    plain = written.parent / "plain"
    plain.write_bytes(b"")
    assert written.stat().st_mode == record_path(written).stat().st_mode == plain.stat().st_mode


def test_folders_are_made_and_an_older_build_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "net.engine"
    for plan in (PLAN, PLAN[::-1]):
        write_engine(record_of(plan), plan, path)
        assert read_engine(path) == (record_of(plan), plan)
    assert names(path.parent) == ["net.engine", "net.engine.json"]


def test_no_engine(tmp_path: Path) -> None:
    for missing in (tmp_path / "net.engine", tmp_path):
        for read in (read_engine, read_record):
            with pytest.raises(UsageError, match="no such file"):
                read(missing)


@pytest.mark.parametrize("content", [None, b"\xff\xfe not text", "folder"])
def test_no_manifest_that_can_be_read(written: Path, content: bytes | str | None) -> None:
    record_path(written).unlink()
    if content == "folder":
        record_path(written).mkdir()
    elif isinstance(content, bytes):
        record_path(written).write_bytes(content)
    for read in (read_engine, read_record):
        with pytest.raises(ArtifactError, match=r"net\.engine: its manifest net\.engine\.json is not beside it"):
            read(written)


def test_a_damaged_manifest_names_its_own_file(written: Path) -> None:
    text = record_path(written).read_bytes()
    for length in range(0, len(text) - 2, 97):
        record_path(written).write_bytes(text[:length])
        with pytest.raises(ArtifactError, match=r"net\.engine\.json: cannot be used as an engine's manifest"):
            read_engine(written)


@pytest.mark.parametrize("length", [0, 1, 4, len(PLAN) // 2, len(PLAN) - 1])
def test_a_truncated_engine_says_how_much_is_there(written: Path, length: int) -> None:
    written.write_bytes(PLAN[:length])
    with pytest.raises(ArtifactError, match=rf"net\.engine: truncated: {length:,} of {len(PLAN):,} bytes"):
        read_engine(written)
    assert read_record(written) == record_of(PLAN)


@pytest.mark.parametrize("other", [
    PLAN[::-1], PLAN + b"\0", b"\0" + PLAN, PLAN[:-1] + b"\0", bytes([PLAN[0] ^ 1]) + PLAN[1:],
], ids=["another", "longer", "prepended", "last byte", "one bit"])  # fmt: skip
def test_the_manifest_of_another_engine(written: Path, other: bytes) -> None:
    written.write_bytes(other)
    with pytest.raises(ArtifactError, match=r"is not the engine that net\.engine\.json describes"):
        read_engine(written)


def test_the_manifests_of_two_builds_exchanged(tmp_path: Path) -> None:
    first, second = tmp_path / "first.engine", tmp_path / "second.engine"
    write_engine(record_of(PLAN), PLAN, first)
    write_engine(record_of(PLAN[::-1]), PLAN[::-1], second)
    record_path(first).replace(tmp_path / "kept")
    record_path(second).replace(record_path(first))
    (tmp_path / "kept").replace(record_path(second))
    for path in (first, second):
        with pytest.raises(ArtifactError, match=rf"{path.name}\.json describes"):
            read_engine(path)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(UsageError, match=r"cannot be written"):
        write_engine(record_of(PLAN), PLAN, tmp_path / "file" / "net.engine")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"kept"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files, even from root")
def test_a_folder_that_takes_no_files() -> None:
    with pytest.raises(UsageError, match=r"net\.engine\.json: cannot be written"):
        write_engine(record_of(PLAN), PLAN, Path("/proc/self/net.engine"))


def test_a_disk_that_fills_up_leaves_no_part_of_an_engine(tmp_path: Path) -> None:
    path, large = tmp_path / "net.engine", bytes(2 * SMALL)
    with full_disk(), pytest.raises((OSError, ResnetInferError)):
        write_engine(record_of(large), large, path)
    assert not path.exists()
    assert set(names(tmp_path)) <= {"net.engine.json"}


def test_a_manifest_that_cannot_be_written_leaves_the_older_engine_as_it_was(written: Path) -> None:
    long = replace(record_of(PLAN[::-1]), options={"note": "x" * 2 * SMALL})
    with full_disk(), pytest.raises((OSError, ResnetInferError)):
        write_engine(long, PLAN[::-1], written)
    assert read_engine(written) == (record_of(PLAN), PLAN)
    assert names(written.parent) == ["net.engine", "net.engine.json"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("net.th", r"aarch64\. Build it .* resnet-infer export net\.th --to"),
        ("resnet-infer demo", r"\(made from: resnet-infer demo\)\. Build it .* resnet-infer export MODEL --to"),
    ],
)
def test_the_command_that_rebuilds_it_can_be_typed(source: str, said: str) -> None:
    record = record_of(PLAN)
    record = replace(record, manifest=replace(record.manifest, source=source))
    host = Host(versions={"tensorrt_rtx": record.version}, gpu="", capability=(8, 9), platform="linux-aarch64")
    with pytest.raises(ArtifactError, match=said):
        check_host(record, host, Path("net.engine"))
