"""Class indices: by name, id or number; and a clear word where the data and the model do not match."""

import io
from pathlib import Path

import pytest

from resnet_infer.data.classes import class_indices
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Memory, Source
from resnet_infer.errors import DataError
from resnet_infer.spec.labels import Labels

ANIMALS = Labels(names=("tench", "Great_white shark", "hen"), ids=("n01440764", "n01484850", "n01514859"))


def folder_of(where: Path, *names: str) -> Source:
    """A folder with an image of each of these names."""
    for name in names:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(b"")
    return open_source(where)


def by_name(source: Source, indices: list[int]) -> dict[str, int]:
    return {sample.name.rpartition("/")[2]: index for sample, index in zip(source.samples, indices, strict=True)}


@pytest.mark.parametrize(
    "folders",
    [
        ("hen", "tench", "great-white-shark"),
        ("HEN", "Tench", "great white_shark"),
        ("n01514859", "n01440764", "n01484850"),
        ("2", "0", "1"),
        ("hen", "n01440764", "great white shark"),
    ],
)
def test_folders_and_list_labels_match_by_name_id_or_number(folders: tuple[str, ...], tmp_path: Path) -> None:
    expected = {"h1.png": 2, "h2.png": 2, "t.png": 0, "s.png": 1}
    hen, tench, shark = folders
    names = [f"{hen}/h1.png", f"{hen}/h2.png", f"{tench}/t.png", f"{shark}/s.png"]
    folder = folder_of(tmp_path / "data", *names)
    assert by_name(folder, class_indices(folder, ANIMALS, 3)) == expected

    lines = [f"{name.rpartition('/')[2]}\t{name.partition('/')[0]}" for name in reversed(names)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    listed = open_source(tmp_path / "list.txt")
    assert by_name(listed, class_indices(listed, ANIMALS, 3)) == expected


def test_a_subset_of_the_models_classes_keeps_their_own_indices(tmp_path: Path) -> None:
    source = folder_of(tmp_path, "hen/1.png", "great white shark/2.png")
    assert by_name(source, class_indices(source, ANIMALS, 3)) == {"1.png": 2, "2.png": 1}


def test_folders_that_match_no_class_are_all_named_with_the_models_classes(tmp_path: Path) -> None:
    source = folder_of(tmp_path, "hen/1.png", "eagle/2.png", "owl/3.png")
    with pytest.raises(DataError) as raised:
        class_indices(source, ANIMALS, 3)
    for word in ("eagle", "owl", "2 of 3", "n01440764", "--labels", str(tmp_path)):
        assert word in str(raised.value)
    assert "'hen'" not in str(raised.value)


def test_numbers_beyond_the_classes_and_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "numbers", "0/1.png", "3/2.png")
    with pytest.raises(DataError, match="'3'"):
        class_indices(source, ANIMALS, 3)
    source = folder_of(tmp_path / "twice", "hen/1.png", "n01514859/2.png", "tench/3.png")
    with pytest.raises(DataError, match="'hen', 'n01514859'"):
        class_indices(source, ANIMALS, 3)


def test_one_class_folder_measures_no_classifier_that_does_not_know_it(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "data", "hen/1.png", "hen/2.png")
    with pytest.raises(DataError, match=r"one folder .*hen.* holds all 2 images"):
        class_indices(source, None, 3)
    assert list(class_indices(source, ANIMALS, 3)) == [ANIMALS.names.index("hen")] * 2
    (tmp_path / "list.txt").write_text("1.png\then\n2.png\then\n")
    with pytest.raises(DataError, match="all 2 images are of one class"):
        class_indices(open_source(tmp_path / "list.txt"), None, 3)


def test_images_without_a_class_are_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "flat", "1.png", "2.png")
    with pytest.raises(DataError, match=r"flat.* holds all 2 images.* a folder per class"):
        class_indices(source, ANIMALS, 3)
    with pytest.raises(DataError, match="no labels"):
        class_indices(Memory("standard input", [("-", io.BytesIO().getvalue())]), ANIMALS, 3)
    source = folder_of(tmp_path / "mixed", "hen/1.png", "tench/2.png", "stray.png")
    with pytest.raises(DataError, match=r"1 of 3 images have no class, as .*stray\.png"):
        class_indices(source, ANIMALS, 3)


def test_without_class_names_the_folders_count_in_sorted_order_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder_of(tmp_path, "zebra/1.png", "ant/2.png", "Bee/3.png")
    assert by_name(source, class_indices(source, None, 3)) == {"1.png": 2, "2.png": 1, "3.png": 0}  # capitals first
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sorted order: 'Bee' = 0, 'ant' = 1, 'zebra' = 2" in captured.err
    assert "--labels" in captured.err
    for classes in (2, 4):
        with pytest.raises(DataError, match=f"3 class folders .* the model has {classes} classes"):
            class_indices(source, None, classes)
