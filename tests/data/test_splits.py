"""Splits that lie side by side are listed and asked for, never scored as one."""

import shutil
import zipfile
from pathlib import Path

import pytest

from resnet_infer.data.open import open_source
from resnet_infer.data.reading import Reading
from resnet_infer.data.splits import split_of_file
from resnet_infer.errors import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train/ and val/ of two classes, in a folder whose own name is a split's."""
    root = tmp_path / "test"
    for split, count in (("train", 3), ("val", 2)):
        for label in ("cat", "val"):  # a class may be called as a split is
            for number in range(count):
                path = root / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"image")
    return root


def containers(tree: Path) -> list[Path]:
    zipped = tree.parent / "data.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for path in sorted(tree.rglob("*.png")):
            archive.write(path, path.relative_to(tree.parent))
    tar = Path(shutil.make_archive(str(tree.parent / "data"), "tar", tree))
    return [tree, zipped, tar]


def test_class_folders_of_several_splits_are_asked_for(tree: Path) -> None:
    for path in containers(tree):
        with pytest.raises(DataError, match=r"several splits: train \(6 images\), val \(4 images\).*--split"):
            open_source(path)
        with pytest.raises(DataError, match="--split test is not one of its splits"):
            open_source(path, reading=Reading(split="test"))
        for split, count in (("train", 6), ("val", 4), ("validation", 4)):
            source = open_source(path, reading=Reading(split=split))
            assert len(source.samples) == count
            assert [sample.label for sample in source.samples] == ["cat"] * (count // 2) + ["val"] * (count // 2)
            assert source.read(source.samples[-1]) == b"image"
        assert len(open_source(path, reading=Reading(merged=True)).samples) == 10


def test_one_split_is_as_it_was_and_a_class_may_be_called_train(tree: Path) -> None:
    inner = open_source(tree / "val")
    assert {sample.label for sample in inner.samples} == {"cat", "val"}
    toys = tree / "toys"
    shutil.copytree(tree / "train" / "cat", toys / "train")
    shutil.copytree(tree / "train" / "cat", toys / "car")
    assert {sample.label for sample in open_source(toys).samples} == {"train", "car"}
    with pytest.raises(DataError, match="it has no splits; leave out --split"):
        open_source(toys, reading=Reading(split="train"))


@pytest.mark.parametrize("folder", ["", "default"])
def test_hugging_face_folder(tmp_path: Path, folder: str) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    where = tmp_path / "train-set" / folder
    where.mkdir(parents=True)
    for name, rows in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test-00000-of-00001", 4)):
        table = pa.table({"image": [name.encode()] * rows, "label": [0] * rows})
        parquet.write_table(table, where / f"{name}.parquet")
    root = tmp_path / "train-set"
    for path in (root, f"{where}/*.parquet"):
        with pytest.raises(DataError, match=r"several splits: test \(1 files\), train \(2 files\)"):
            open_source(path)
        assert len(open_source(path, reading=Reading(split="test")).samples) == 4
        assert len(open_source(path, reading=Reading(split="train")).samples) == 5


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("validation/0000.parquet", "validation"),
        ("imagenet1k-val-03.tar", "validation"),
        ("my_test.tar", "test"),
        ("trainers-000.tar", None),
        ("latest-000.tar", None),
    ],
)
def test_names_of_splits(path: str, split: str | None) -> None:
    assert split_of_file(path) == split
