"""Numbered classes: what is taken for what, and what is asked."""

from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from resnet_infer.data.classes import class_indices, labels_of
from resnet_infer.data.open import open_source
from resnet_infer.data.reading import Reading
from resnet_infer.data.source import Joined, Source, Subset
from resnet_infer.errors import DataError
from resnet_infer.spec.labels import Labels


def folders(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(b"image")
    return root


def by_label(source: Source, labels: Labels | None, classes: int) -> dict[str, int]:
    found = class_indices(source, labels, classes)
    return {str(sample.label): index for sample, index in zip(source.samples, found, strict=True)}


TWELVE = [str(number) for number in range(12)]
NAMED = Labels(names=tuple(f"class {number}" for number in range(10)))


def test_twelve_folders_of_an_unnamed_model_have_two_readings(tmp_path: Path) -> None:
    root = folders(tmp_path, TWELVE)
    with pytest.raises(
        DataError, match=r"folder '10' is class 10 in the order of the numbers, or class 2 in sorted order"
    ):
        class_indices(open_source(root), None, 12)
    numeric = open_source(root, reading=Reading(class_order="numeric"))
    assert by_label(numeric, None, 12) == {name: int(name) for name in TWELVE}
    in_text = open_source(root, reading=Reading(class_order="sorted"))
    assert by_label(in_text, None, 12) == ImageFolder(str(root)).class_to_idx
    order = tmp_path / "order.txt"
    order.write_text("\n".join(reversed(TWELVE)) + "\n")
    listed = open_source(root, reading=Reading(class_order=str(order)))
    assert by_label(listed, None, 12) == {name: 11 - int(name) for name in TWELVE}
    assert labels_of(listed).names == tuple(reversed(TWELVE))


@pytest.mark.parametrize("names", [[f"{number:02}" for number in range(12)], [str(number) for number in range(10)]])
def test_numbers_with_one_reading_are_taken(tmp_path: Path, names: list[str]) -> None:
    root = folders(tmp_path, names)
    assert by_label(open_source(root), None, len(names)) == ImageFolder(str(root)).class_to_idx


@pytest.mark.parametrize("labels", [NAMED, None])
def test_folders_from_one_without_the_last_are_not_shifted(tmp_path: Path, labels: Labels | None) -> None:
    root = folders(tmp_path, [str(number) for number in range(1, 10)])
    if labels:
        with pytest.raises(DataError, match=r"'1' is class 1 if .* or class 0 if .*--class-order"):
            class_indices(open_source(root), labels, 10)
    else:
        with pytest.raises(DataError, match="--class-order"):
            class_indices(open_source(root), None, 10)
        assert set(by_label(open_source(root), None, 9).values()) == set(range(9))
    numeric = open_source(root, reading=Reading(class_order="numeric"))
    assert by_label(numeric, labels, 10) == {str(number): number for number in range(1, 10)}
    with pytest.raises(DataError, match="needs a folder for every class"):
        class_indices(open_source(root, reading=Reading(class_order="sorted")), labels, 10)


def test_indices_of_a_list_count_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = tmp_path / "list.tsv"
    listing.write_text("".join(f"{number}.png\t{number}\n" for number in range(12)))
    assert by_label(open_source(listing), None, 12) == {name: int(name) for name in TWELVE}
    assert "12 labels are taken for its indices" in capsys.readouterr().err
    listing.write_text("".join(f"{number}.png\t{number}\n" for number in range(1, 11)))
    for labels in (None, NAMED):
        with pytest.raises(DataError, match=r"10|match no class"):
            class_indices(open_source(listing), labels, 10)
    listing.write_text("".join(f"{number}.png\t{number}\n" for number in range(1, 10)))
    for labels in (None, NAMED):
        with pytest.raises(DataError, match="numbers from 1 to 9"):
            class_indices(open_source(listing), labels, 10)


def test_names_of_a_table_are_said_for_an_unnamed_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    kind = '{"info": {"features": {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}}}'
    table = pa.table({"image": [b"a", b"b"], "label": [0, 1]}).replace_schema_metadata({"huggingface": kind})
    parquet.write_table(table, tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    for wrapped in (source, Joined([source, source]), Subset("some", source, [0, 1])):
        assert by_label(wrapped, None, 2) == {"0": 0, "1": 1}
        assert "0 = 'dog', 1 = 'cat'" in capsys.readouterr().err
        assert by_label(wrapped, Labels(names=("cat", "dog")), 2) == {"0": 1, "1": 0}


def test_one_class_is_its_recall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folders(tmp_path, ["cat"])
    (root / "cat" / "2.png").write_bytes(b"image")
    listing = tmp_path / "cats.tsv"
    listing.write_text("cat/1.png\tcat\ncat/2.png\tcat\n")
    source = open_source(listing)
    assert list(class_indices(source, Labels(names=("dog", "cat")), 2)) == [1, 1]
    assert "all 2 images are of one class, 'cat'" in capsys.readouterr().err
    with pytest.raises(DataError, match="which measures no classifier"):
        class_indices(source, None, 2)
    with pytest.raises(DataError, match="training needs several"):
        labels_of(source)
