"""ImageNet's own layouts: numbers of two orders never taken for each other, images matched by their names."""

import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from scipy.io import savemat
from torchvision.datasets import imagenet as torchvisions

from resnet_infer.data.classes import class_indices
from resnet_infer.data.imagenet import image_number, read_real_labels, read_synsets, real_sets, with_ground_truth
from resnet_infer.data.open import open_source
from resnet_infer.data.reading import Reading
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.spec.labels import Labels, imagenet1k

IDS = imagenet1k().ids
NAMES = Labels(names=tuple("abcde"), ids=IDS[:5])
FIELDS = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images")


@pytest.fixture
def order() -> list[str]:
    """The thousand synsets in a shuffled order, as the kit's is no sorted one: class n is the n-th."""
    shuffled = list(IDS)
    random.Random(1).shuffle(shuffled)
    return shuffled


@pytest.fixture
def kit(tmp_path: Path, order: list[str]) -> Path:
    """`data/` of a development kit: meta.mat, with inner nodes of WordNet behind the classes, and the ground truth."""
    folder = tmp_path / "kit" / "data"
    folder.mkdir(parents=True)
    rows = [(n, synset, f"words {n}", "gloss", 0, [], 0, 1300) for n, synset in enumerate(order, start=1)]
    rows += [(1001 + n, f"n{n:08}", f"inner {n}", "gloss", 2, [1, 2], 3, 0) for n in range(5)]
    synsets = np.zeros((len(rows), 1), dtype=[(field, object) for field in FIELDS])
    for at, row in enumerate(rows):
        synsets[at, 0] = row
    savemat(folder / "meta.mat", {"synsets": synsets})
    numbers = np.random.default_rng(0).integers(1, 1001, 60).tolist()
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in numbers))
    return folder


def truth_of(kit: Path) -> Path:
    return kit / "ILSVRC2012_validation_ground_truth.txt"


@pytest.fixture
def validation(tmp_path: Path) -> Callable[..., Source]:
    """validation(numbers): a flat folder of these images of the validation set."""

    def made(numbers: list[int], pattern: str = "ILSVRC2012_val_{:08}.JPEG") -> Source:
        folder = tmp_path / pattern.partition("{")[0]
        folder.mkdir(exist_ok=True)
        for number in numbers:
            (folder / pattern.format(number)).write_bytes(b"")
        return open_source(folder)

    return made


def torchvisions_classes(kit: Path, where: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The synset of every validation image as torchvision reads the kit's archive."""
    with tarfile.open(where / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(kit, "ILSVRC2012_devkit_t12/data")
    monkeypatch.setattr(torchvisions, "_verify_archive", lambda *arguments: None)  # it knows the real one's hash
    torchvisions.parse_devkit_archive(where)
    synsets: list[str] = torchvisions.load_meta_file(where)[1]
    return synsets


def test_images_get_the_classes_that_torchvision_gives_them(
    kit: Path, validation: Callable[..., Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the number in the name: some images are missing, so positions would be wrong."""
    numbers = [3, 4, 17, 18, 19, 40, 60]
    source = with_ground_truth(validation(numbers), truth_of(kit))
    theirs = torchvisions_classes(kit, tmp_path, monkeypatch)
    expected = [theirs[number - 1] for number in numbers]
    assert [image_number(sample.name) for sample in source.samples] == numbers
    assert [sample.label for sample in source.samples] == expected
    assert [IDS[index] for index in class_indices(source, imagenet1k(), 1000)] == expected
    assert [source.samples[at] for at in range(len(numbers))] == list(source.samples) == source.samples[:]
    assert source.samples[-1].label == expected[-1]
    assert source.read(source.samples[0]) == b""


def test_the_flat_folder_alone_leads_to_the_ground_truth(validation: Callable[..., Source]) -> None:
    with pytest.raises(DataError, match="--ground-truth ILSVRC2012"):
        class_indices(validation([1, 2]), imagenet1k(), 1000)


@pytest.mark.parametrize("line", ["{n} {synset} kit_fox", "{synset} {n} kit_fox", "{n},{synset}", "{n}\t{synset}"])
def test_synsets_from_text_are_those_of_the_kit(kit: Path, order: list[str], tmp_path: Path, line: str) -> None:
    path = tmp_path / "map_clsloc.txt"
    path.write_text("\n".join(line.format(n=n, synset=synset) for n, synset in enumerate(order, start=1)) + "\n")
    assert read_synsets(path) == read_synsets(kit / "meta.mat") == dict(enumerate(order, start=1))


def test_the_numbers_of_the_kit_need_their_meaning(kit: Path, validation: Callable[..., Source]) -> None:
    source = validation([1, 2])
    (kit / "meta.mat").rename(kit.parent / "elsewhere.mat")
    with pytest.raises(UsageError, match="--synsets FILE"):
        with_ground_truth(source, truth_of(kit))
    found = with_ground_truth(source, truth_of(kit), kit.parent / "elsewhere.mat")
    assert all(sample.label in IDS for sample in found.samples)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01440764 tench\nn01443537 goldfish\n", "sorted order"),
        ("n01440764\n", "sorted order"),
        ("1 n01440764\n1 n01443537\n", "one to one"),
        ("1 n01440764\n2 n01440764\n", "one to one"),
        ("", "one to one"),
        ("0 n01440764\n", "one to one"),
    ],
)
def test_files_that_pair_no_numbers_with_synsets_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "synset_words.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"synset_words.*{message}"):
        read_synsets(path)


def test_a_damaged_kit_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"MATLAB 5.0 MAT-file" * 20):
        (tmp_path / "meta.mat").write_bytes(content)
        with pytest.raises(UsageError, match=r"meta\.mat"):
            read_synsets(tmp_path / "meta.mat")
    with pytest.raises(UsageError, match="absent"):
        read_synsets(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no class numbers"),
        ("1\n\n2\n", "line 2"),
        ("490\nn01440764\n", "line 2"),
        ("ILSVRC2012_val_00000001.JPEG 65\n", "label"),
        ("0\n1\n", "from 1"),
        ("1001\n", "1001"),
    ],
)
def test_files_that_are_no_ground_truth_are_refused(
    kit: Path, validation: Callable[..., Source], text: str, message: str
) -> None:
    truth_of(kit).write_text(text)
    with pytest.raises(UsageError, match=message):
        with_ground_truth(validation([1]), truth_of(kit))


def test_images_without_a_number_or_beyond_the_file_are_named(kit: Path, validation: Callable[..., Source]) -> None:
    with pytest.raises(DataError, match=r"00000061\.JPEG.*beyond the 60"):
        with_ground_truth(validation([1, 61]), truth_of(kit))
    with pytest.raises(DataError, match=r"photo1\.JPEG"):
        with_ground_truth(validation([1], "photo{}.JPEG"), truth_of(kit))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ILSVRC2012_val_00000001.JPEG", 1),
        ("a/b/ILSVRC2012_val_00050000.jpeg", 50_000),
        ("n01440764/ILSVRC2012_val_00000293_n01440764.JPEG", 293),
        ("ILSVRC2012_val_000000011.JPEG", None),
        ("ILSVRC2012_test_00000001.JPEG", None),
        ("1.JPEG", None),
    ],
)
def test_the_number_is_in_the_name(name: str, number: int | None) -> None:
    assert image_number(name) == number


# ReaL labels


@pytest.fixture
def real(tmp_path: Path) -> Path:
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[65], [], [970, 795], [0]]))
    return path


def test_real_labels_follow_the_number_in_the_name(real: Path, validation: Callable[..., Source]) -> None:
    assert real_sets(validation([2, 3, 4]), real, imagenet1k(), 1000) == [(), (970, 795), (0,)]
    assert real_sets(validation([2, 3, 4]), real, None, 1000) == [(), (970, 795), (0,)]


def test_real_labels_are_the_models_classes_whatever_their_order(real: Path, validation: Callable[..., Source]) -> None:
    usual = imagenet1k()
    backwards = Labels(names=usual.names[::-1], ids=usual.ids[::-1])
    assert real_sets(validation([1, 3]), real, backwards, 1000) == [(934,), (29, 204)]


def test_real_labels_need_imagenets_classes_and_images(real: Path, validation: Callable[..., Source]) -> None:
    for labels, classes in ((NAMES, 5), (None, 10), (Labels(names=("x",) * 1000), 1000)):
        with pytest.raises(UsageError, match="--real-labels"):
            real_sets(validation([1]), real, labels, classes)
    with pytest.raises(DataError, match="beyond the 4"):
        real_sets(validation([5]), real, imagenet1k(), 1000)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", "[[1000]]", '[["a"]]', "[[true]]", "[[-1]]"])
def test_files_that_are_no_real_labels_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "real.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"real\.json"):
        read_real_labels(path)


def test_the_published_real_labels_are_read_as_they_are() -> None:
    """timm carries the 50,000 sets; 46,837 images have a label (Beyer et al. 2020, section 3)."""
    path = Path(timm.__file__).parent / "data" / "_info" / "imagenet_real_labels.json"
    sets = read_real_labels(path)
    assert (len(sets), sum(bool(s) for s in sets)) == (50_000, 46_837)


# ImageNet-V2


def test_the_folders_of_imagenet_v2_are_class_indices(tmp_path: Path) -> None:
    """Sorted as words, folder 100 would be class 2."""
    for index in range(1000):
        (tmp_path / "imagenetv2" / str(index)).mkdir(parents=True)
        (tmp_path / "imagenetv2" / str(index) / "image.jpeg").write_bytes(b"")
    source = open_source(tmp_path)
    numeric = open_source(tmp_path, reading=Reading(class_order="numeric"))
    for labels, given in ((imagenet1k(), source), (None, numeric)):
        indices = class_indices(given, labels, 1000)
        assert [str(index) for index in indices] == [Path(sample.name).parts[-2] for sample in source.samples]
