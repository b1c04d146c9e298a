"""Sources: the same samples and labels from every container, and clear errors for what is no source."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.data.formats.folders import classified
from resnet_infer.data.open import open_inputs, open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.pipeline.loader import load
from resnet_infer.spec.image_formats import IMAGE_SUFFIXES

IMAGES = {
    "test/airplane/1.png": "airplane",
    "test/airplane/deep/2.JPG": "airplane",
    "test/bird/3 with space.webp": "bird",
    "test/bird/é.jpeg": "bird",
}
OTHERS = ("test/README", "test/bird/notes.doc")
HIDDEN = ("test/bird/.hidden.png", "test/.cache/4.png", "__MACOSX/test/bird/5.png", "test/bird/._3.webp")
TREE = (*HIDDEN, *OTHERS, *reversed(IMAGES))


def content(name: str) -> bytes:
    return b"bytes of " + name.encode()


def as_folder(where: Path, names: Sequence[str] = TREE) -> Path:
    for name in names:
        (where / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (where / "tree" / name).write_bytes(content(name))
    return where / "tree"


def as_zip(where: Path, names: Sequence[str] = TREE) -> Path:
    with zipfile.ZipFile(where / "tree.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("test")
        for name in names:
            archive.writestr(name, content(name))
    return where / "tree.zip"


def as_tar(where: Path, names: Sequence[str] = TREE, prefix: str = "") -> Path:
    with tarfile.open(where / "tree.tar", "w") as archive:
        for name in names:
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content(name))
            archive.addfile(member, io.BytesIO(content(name)))
    return where / "tree.tar"


def as_tar_of_dot(where: Path) -> Path:
    """As `tar -C tree -cf tree.tar .` names its members."""
    return as_tar(where, prefix="./")


def as_list(where: Path) -> Path:
    as_folder(where)
    lines = [f"tree/{name}\t{label}\n" for name, label in IMAGES.items()]
    (where / "tree.txt").write_text("\n" + "".join(lines), "utf-8")
    return where / "tree.txt"


CONTAINERS = [as_folder, as_zip, as_tar, as_tar_of_dot, as_list]


def labels(source: Source, root: Path) -> dict[str, str | None]:
    """By the name below the tree."""
    return {s.name.removeprefix(f"{root / 'tree'}/").removeprefix("tree/"): s.label for s in source.samples}


def contents(source: Source, root: Path) -> dict[str, tuple[str | None, bytes]]:
    """By the name below the tree: label and bytes."""
    found = labels(source, root).items()
    return {n: (label, bytes(source.read(s))) for (n, label), s in zip(found, source.samples, strict=True)}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_samples_and_labels(container: Callable[[Path], Path], tmp_path: Path) -> None:
    source = open_source(container(tmp_path))
    assert contents(source, tmp_path) == {name: (label, content(name)) for name, label in IMAGES.items()}
    assert len(source.samples) == len(IMAGES)
    assert source.name == str(tmp_path / source.name.rpartition("/")[2])


@pytest.mark.parametrize("container", [as_folder, as_zip, as_tar])
def test_files_that_are_no_images_are_listed_and_hidden_ones_are_not(
    container: Callable[[Path], Path], tmp_path: Path
) -> None:
    assert sorted(open_source(container(tmp_path)).left_out) == sorted(OTHERS)


def test_samples_come_in_the_same_order_from_folder_zip_and_tar(tmp_path: Path) -> None:
    awkward = ("test/air/1.png", "test/air-2/2.png", "test/air/z/3.png", "test/air/y.png", "test/air.png")
    folder, zipped, tarred = (open_source(make(tmp_path, awkward)) for make in (as_folder, as_zip, as_tar))
    orders = [list(labels(source, tmp_path)) for source in (folder, zipped, tarred)]
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("container", CONTAINERS)
def test_sources_travel_to_other_processes_after_having_been_read(
    container: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = open_source(container(tmp_path))
    before = contents(source, tmp_path)
    assert contents(pickle.loads(pickle.dumps(source)), tmp_path) == before
    assert contents(source, tmp_path) == before


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_what_a_worker_process_reads_does_not_disturb_reading_here(suffix: str, tmp_path: Path) -> None:
    """A worker inherits the file that is open here; the two must not share its position."""
    members = {f"{number}.png": bytes([number]) * 1300 for number in range(10, 90)}  # a buffer ends within one
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped, tarfile.open(tmp_path / "x.tar", "w") as tarred:
        for name, data in members.items():
            zipped.writestr(name, data)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tarred.addfile(member, io.BytesIO(data))
    source = open_source(tmp_path / f"x.{suffix}")
    source.read(source.samples[0])
    assert "not an image" in next(load(source, (), [79], workers=1)).error
    assert {sample.name: source.read(sample) for sample in source.samples} == members


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=0, max_size=4), min_size=1, max_size=5))
def test_the_class_is_the_first_folder_below_the_shared_ones(folders: list[list[str]]) -> None:
    names = ["/".join([*folder, f"{number}.png"]) for number, folder in enumerate(folders)]
    shared = os.path.commonpath([os.path.dirname("/" + name) for name in names])
    below = [os.path.relpath("/" + name, shared).split("/") for name in names]
    samples, _ = classified([(name, name) for name in names])
    expected = {name: parts[0] if len(parts) > 1 else None for name, parts in zip(names, below, strict=True)}
    assert {sample.key: sample.label for sample in samples} == expected
    assert len(samples) == len(names)


def test_opening_the_folder_of_the_classes_or_one_above_gives_the_same_labels(tmp_path: Path) -> None:
    root = as_folder(tmp_path)
    above, inside = open_source(root), open_source(root / "test")
    assert [sample.label for sample in above.samples] == [sample.label for sample in inside.samples]


def test_a_link_to_a_folder_above_ends_and_a_link_to_a_class_elsewhere_is_followed(tmp_path: Path) -> None:
    root = as_folder(tmp_path, tuple(IMAGES))
    (root / "test/airplane/again").symlink_to(root, target_is_directory=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "6.png").write_bytes(b"6")
    (root / "test/cat").symlink_to(elsewhere, target_is_directory=True)
    assert labels(open_source(root), tmp_path) == IMAGES | {"test/cat/6.png": "cat"}


def test_a_link_in_a_tar_is_read_or_at_least_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a/1.png"))
        for name, kind in (("b/hard.png", tarfile.LNKTYPE), ("b/soft.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a/1.png"
            archive.addfile(member)
    source = open_source(tmp_path / "x.tar")
    assert sorted([*source.left_out, *(sample.name for sample in source.samples)]) == [
        "a/1.png",
        "b/hard.png",
        "b/soft.png",
    ]


def test_inputs_are_joined_in_their_order(tmp_path: Path) -> None:
    given = [str(as_zip(tmp_path)), str(as_folder(tmp_path) / "test/bird/3 with space.webp"), str(as_tar(tmp_path))]
    joined = pickle.loads(pickle.dumps(open_inputs(given, io.BytesIO())))
    alone = [open_source(path) for path in given]
    assert [(s.name, s.label) for s in joined.samples] == [(s.name, s.label) for a in alone for s in a.samples]
    assert [joined.read(s) for s in joined.samples] == [a.read(s) for a in alone for s in a.samples]
    assert list(joined.left_out) == [name for a in alone for name in a.left_out]


def test_a_single_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    for name in ("photo.png", "no_suffix", "brackets[1].png"):
        (tmp_path / name).write_bytes(b"picture")
        source = open_inputs([str(tmp_path / name)], io.BytesIO())
        assert [(s.name, s.label, source.read(s)) for s in source.samples] == [(str(tmp_path / name), None, b"picture")]


def test_a_pattern_matches_in_sorted_order_and_below_folders(tmp_path: Path) -> None:
    root = as_folder(tmp_path, ("b/2.png", "a/1.png", "a/c/3.png", "a/4.gif"))
    source = open_inputs([f"{root}/**/*.png"], io.BytesIO())
    assert [s.name for s in source.samples] == [f"{root}/a/1.png", f"{root}/a/c/3.png", f"{root}/b/2.png"]
    with pytest.raises(DataError, match="no file matches"):
        open_inputs([f"{root}/*.webp"], io.BytesIO())


def test_standard_input_is_an_image_or_paths(tmp_path: Path) -> None:
    image = b"\x89PNG\r\n\x1a\n\0\0"
    source = open_inputs(["-"], io.BytesIO(image))
    assert [source.read(sample) for sample in source.samples] == [image]

    root = as_folder(tmp_path)
    paths = [str(root / name) for name in IMAGES]
    source = open_inputs(["-"], io.BytesIO("\r\n".join([*paths, "", ""]).encode()))
    assert [sample.name for sample in source.samples] == paths
    assert [source.read(sample) for sample in source.samples] == [content(name) for name in IMAGES]

    for empty in (b"", b" \n\n"):
        with pytest.raises(UsageError, match="empty"):
            open_inputs(["-"], io.BytesIO(empty))


def test_a_list_names_files_from_its_own_folder_and_labels_are_optional(tmp_path: Path) -> None:
    for label, expected in (("\tn01 b ", "n01 b"), ("", None), ("\t", None)):
        (tmp_path / "files.tsv").write_text(f"photo one.png{label}\r\n/elsewhere/two.png{label}\n", "utf-8")
        source = open_source(tmp_path / "files.tsv")
        assert [s.name for s in source.samples] == ["photo one.png", "/elsewhere/two.png"]
        assert [s.label for s in source.samples] == [expected] * 2
    (tmp_path / "photo one.png").write_bytes(b"1")
    assert source.read(source.samples[0]) == b"1"
    with pytest.raises(OSError, match="No such file"):
        source.read(source.samples[1])


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "windows.txt").write_text("one.png\ta\r\ntwo.png\tb\r\n", "utf-8-sig")
    assert [sample.name for sample in open_source(tmp_path / "windows.txt").samples] == ["one.png", "two.png"]


def test_an_empty_path_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(as_folder(tmp_path))
    with pytest.raises((DataError, UsageError)):
        open_inputs([""], io.BytesIO())


def test_what_is_no_source_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents/a.doc").write_bytes(b"text")
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\0\x80")
    for name, reason in {
        "missing": "no such file or folder",
        "missing.zip": "no such file or folder",
        "empty": "no images",
        "documents": "no images in it; it has 1 other files, as a.doc",
        "blank.txt": "no images",
        "binary.txt": "not a text file",
    }.items():
        with pytest.raises(DataError, match=reason) as raised:
            open_source(tmp_path / name)
        assert name in str(raised.value)


def test_every_format_that_pillow_reads_under_a_known_suffix_is_an_image() -> None:
    common = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
    samples, left_out = classified([(f"a/1{suffix.upper()}", 0) for suffix in sorted(IMAGE_SUFFIXES | common)])
    assert len(samples) == len(IMAGE_SUFFIXES | common)
    assert not left_out
