"""Class names, and matching of folder names to them: by id, by name or by number, never by position."""

import random
from pathlib import Path

import pytest
from torchvision.models import ResNet50_Weights

from resnet_infer.errors import DataError, UsageError
from resnet_infer.spec.label_files import labels_from_file
from resnet_infer.spec.labels import CIFAR10_NAMES, Labels, default_labels, imagenet1k, index_by_order

CIFAR10 = Labels(names=CIFAR10_NAMES)
CRANES = Labels(names=("crane", "crane", "tank suit"), ids=("n02012849", "n03126707", "n03710721"))
"""A bird and a machine that share a name."""


def test_imagenet_is_torchvisions_thousand_classes_in_order_of_their_ids() -> None:
    labels = imagenet1k()
    assert list(labels.names) == ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    assert len(labels.names) == len(set(labels.ids)) == 1000
    assert list(labels.ids) == sorted(labels.ids)
    assert all(i[0] == "n" and len(i) == 9 and i[1:].isdecimal() for i in labels.ids)


def test_imagenettes_folders_match_by_their_ids() -> None:
    """Ten classes of ImageNet; the indices are those of its usual list."""
    usual = {"n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497}
    usual |= {"n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701}
    assert imagenet1k().index_of(list(usual), "here") == usual


def test_names_match_whatever_their_case_and_their_separators() -> None:
    folders = ["Great White-Shark", "great_white_shark", "GREAT WHITE SHARK", "great-white_shark"]
    for folder in folders:
        assert imagenet1k().index_of([folder], "here") == {folder: 2}


def test_folders_match_by_name_and_never_by_position() -> None:
    folders = list(CIFAR10_NAMES)
    random.Random(0).shuffle(folders)
    assert CIFAR10.index_of(folders, "here") == {name: CIFAR10_NAMES.index(name) for name in folders}
    assert CIFAR10.index_of(["truck", "cat"], "here") == {"truck": 9, "cat": 3}


def test_numbers_match_by_value() -> None:
    assert CIFAR10.index_of(["7", "0", "03"], "here") == {"7": 7, "0": 0, "03": 3}


def test_numbers_among_names_are_not_indices() -> None:
    with pytest.raises(DataError, match="'3'"):
        CIFAR10.index_of(["cat", "3"], "here")


def test_numbers_that_are_names_are_names() -> None:
    countdown = Labels(names=("2", "1", "0"))
    assert countdown.index_of(["0", "1", "2"], "here") == {"0": 2, "1": 1, "2": 0}


def test_a_number_beyond_the_classes_matches_nothing() -> None:
    with pytest.raises(DataError, match="'10'"):
        CIFAR10.index_of(["1", "10"], "here")


def test_an_id_is_preferred_to_a_name() -> None:
    swapped = Labels(names=("Y", "X"), ids=("x", "y"))
    assert swapped.index_of(["x"], "here") == {"x": 0}
    assert Labels(names=("y", "x"), ids=("X", "Y")).index_of(["X"], "here") == {"X": 0}


def test_a_name_that_two_classes_share_matches_by_id_only() -> None:
    assert CRANES.index_of(["n03126707", "tank suit"], "here") == {"n03126707": 1, "tank suit": 2}
    with pytest.raises(DataError, match="'crane'"):
        CRANES.index_of(["crane"], "here")


def test_the_two_cardigans_of_imagenet_are_told_apart_by_id_only() -> None:
    """A dog and a jacket, which differ in their case alone; the other 998 names match as they are."""
    labels = imagenet1k()
    others = {name: index for index, name in enumerate(labels.names) if name.casefold() != "cardigan"}
    assert len(others) == 998
    assert labels.index_of(list(others), "here") == others
    with pytest.raises(DataError, match="cardigan"):
        labels.index_of(["cardigan"], "here")


def test_a_mismatch_lists_the_folders_and_the_classes() -> None:
    with pytest.raises(DataError) as caught:
        CIFAR10.index_of(["cat", "boat", "lorry"], "photos.zip")
    message = str(caught.value)
    for word in ("photos.zip", "2 of 3", "'boat'", "'lorry'", "'airplane'", "--labels"):
        assert word in message
    assert "'cat'" not in message.split("The model's classes")[0]


def test_two_folders_of_one_class_are_refused() -> None:
    with pytest.raises(DataError, match="one class: 'cat', 'CAT'"):
        CIFAR10.index_of(["cat", "dog", "CAT"], "here")
    with pytest.raises(DataError, match="'n01440764', 'tench'"):
        imagenet1k().index_of(["n01440764", "tench"], "here")


def test_order_serves_only_a_model_without_names_and_as_many_folders() -> None:
    assert index_by_order(["b", "c", "a"], 3, "here") == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(DataError, match=r"2 class folders.*3 classes.*--labels"):
        index_by_order(["a", "b"], 3, "here")


def test_order_of_numbered_folders_is_that_of_the_numbers() -> None:
    folders = [str(n) for n in range(12)]
    assert index_by_order(sorted(folders), 12, "here") == {folder: int(folder) for folder in folders}
    assert index_by_order(["2", "1"], 2, "here") == {"1": 0, "2": 1}
    with pytest.raises(DataError, match="one number"):
        index_by_order(["1", "01"], 2, "here")


def test_labels_from_a_file_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text(" great white shark \n\nnaïve café\r\ntench\n", "utf-8")
    assert labels_from_file(path) == Labels(names=("great white shark", "naïve café", "tench"))


def test_labels_from_a_file_of_ids_and_names(tmp_path: Path) -> None:
    path = tmp_path / "names.tsv"
    path.write_text("n01\ttench\nn02\tgreat white shark\n", "utf-8")
    assert labels_from_file(path) == Labels(names=("tench", "great white shark"), ids=("n01", "n02"))


@pytest.mark.parametrize(
    "content",
    [b"", b"\n \n", b"n01\ttench\ngoldfish\n", b"a\tb\tc\n", b"\xff\xfe\x00\x80", "tench\n".encode("utf-16")],
)
def test_files_that_hold_no_list_of_names_are_usage_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"names\.txt"):
        labels_from_file(path)


def test_unreadable_files_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent"):
        labels_from_file(tmp_path / "absent.txt")
    with pytest.raises(UsageError):
        labels_from_file(tmp_path)


def test_a_record_gives_the_same_labels_back() -> None:
    for labels in (CIFAR10, CRANES, imagenet1k()):
        assert Labels.from_dict(labels.to_dict()) == labels


@pytest.mark.parametrize(
    "record", [{}, {"names": []}, {"names": "abc"}, {"names": None}, {"names": ["a"], "ids": "n01"}], ids=str
)
def test_malformed_records_are_usage_errors(record: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Labels.from_dict(record)


def test_every_class_needs_an_id_or_none_has_one() -> None:
    with pytest.raises(UsageError, match="2 class names but 1 ids"):
        Labels(names=("a", "b"), ids=("n01",))


def test_only_a_thousand_classes_on_an_imagenet_stem_have_names_by_default() -> None:
    assert default_labels(1000, "imagenet") == imagenet1k()
    assert default_labels(10, "cifar") is None
    assert default_labels(1000, "cifar") is None
    assert default_labels(10, "imagenet") is None
