"""Parquet: bytes in rows as Hugging Face writes them, in any order of reading, and clear errors for other tables."""

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from pyarrow import parquet as pq

from resnet_infer.data.classes import class_indices, labels_of
from resnet_infer.data.open import open_source
from resnet_infer.errors import DataError
from resnet_infer.pipeline.loader import load
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import single_crop

COUNT = 50
IMAGES = [b"picture %d" % number for number in range(COUNT)]
PATHS = [f"{number}.jpg" for number in range(COUNT)]
NUMBERS = [number % 3 for number in range(COUNT)]
NAMES = ("ant", "bee", "cat")


def hugging_face(names: tuple[str, ...]) -> dict[bytes, bytes]:
    """What the datasets library leaves in the schema of a table with a ClassLabel."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def write(path: Path, image: Any, label: Any = None, names: tuple[str, ...] = (), rows: int = 20) -> Path:
    columns = {"id": pa.array(range(len(image))), "image": image} | ({} if label is None else {"label": label})
    table = pa.table(columns).replace_schema_metadata(hugging_face(names) if names else None)
    pq.write_table(table, path, row_group_size=rows)
    return path


def structs(images: list[bytes] = IMAGES, paths: list[Any] = PATHS) -> Any:
    return pa.array([{"bytes": data, "path": path} for data, path in zip(images, paths, strict=True)])


@pytest.mark.parametrize("rows", [1, 7, 20, 1000])
@pytest.mark.parametrize("kind", ["bytes", "structs", "large"])
def test_rows_are_images_in_any_order_of_reading(kind: str, rows: int, tmp_path: Path) -> None:
    image = {"bytes": pa.array(IMAGES), "structs": structs(), "large": pa.array(IMAGES, pa.large_binary())}[kind]
    path = write(tmp_path / "x.parquet", image, pa.array(NUMBERS), rows=rows)
    source = open_source(path)
    assert [s.label for s in source.samples] == list(map(str, NUMBERS))
    names = [f"{path}/{name}" for name in PATHS] if kind == "structs" else [f"{path}#{row}" for row in range(COUNT)]
    assert [s.name for s in source.samples] == names
    for order in (range(COUNT), np.random.default_rng(0).permutation(COUNT).tolist()):
        assert [source.read(source.samples[row]) for row in order] == [IMAGES[row] for row in order]
    travelled = pickle.loads(pickle.dumps(source))
    assert [travelled.read(s) for s in travelled.samples] == IMAGES


@pytest.mark.parametrize("given", ["folder", "pattern"])
def test_files_of_a_folder_or_pattern_are_one_table(given: str, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"val-{number}-of-3.parquet", pa.array(IMAGES[number::3]), pa.array(NUMBERS[number::3]))
    (tmp_path / "README.md").write_text("about")
    source = open_source(tmp_path if given == "folder" else f"{tmp_path}/*.parquet")
    expected = [data for number in range(3) for data in IMAGES[number::3]]
    assert [source.read(s) for s in source.samples] == expected


def test_worker_processes_read_each_its_own(
    tmp_path: Path, picture: Callable[..., NDArray[np.uint8]], encode: Callable[..., bytes]
) -> None:
    images = [picture(16, 16, seed) for seed in range(COUNT)]
    encoded = [encode(image) for image in images]
    encoded[9] = b"broken"
    source = open_source(write(tmp_path / "x.parquet", structs(encoded), pa.array(NUMBERS)))
    source.read(source.samples[3])  # opens it here as well
    for image in load(source, [single_crop(16, 16)], range(COUNT), 2):
        if image.index == 9:
            assert "not an image" in image.error
        else:
            assert torch.equal(image.tiles[0], torch.from_numpy(images[image.index]))


def test_class_numbers_are_matched_by_the_names_that_the_table_gives_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Labels(names=("cat", "ant", "bee"))
    named = open_source(write(tmp_path / "named.parquet", pa.array(IMAGES), pa.array(NUMBERS), NAMES))
    assert list(class_indices(named, model, 3)) == [{0: 1, 1: 2, 2: 0}[number] for number in NUMBERS]
    assert labels_of(named).names == NAMES
    plain = open_source(write(tmp_path / "plain.parquet", pa.array(IMAGES), pa.array(NUMBERS)))
    assert list(class_indices(plain, model, 3)) == NUMBERS
    words = open_source(write(tmp_path / "words.parquet", pa.array(IMAGES), pa.array([NAMES[n] for n in NUMBERS])))
    assert list(class_indices(words, model, 3)) == [{0: 1, 1: 2, 2: 0}[number] for number in NUMBERS]
    assert capsys.readouterr().err == ""
    spelt = ("ant, emmet", "Bee", "crane")
    long = open_source(write(tmp_path / "spelt.parquet", pa.array(IMAGES), pa.array(NUMBERS), spelt))
    assert list(class_indices(long, Labels(names=("ant", "bee", "cat")), 3)) == NUMBERS
    assert "'crane' and 'cat'" in capsys.readouterr().err
    for other in (model, Labels(names=("digit", "number", "sign"))):  # as many classes, but not these
        with pytest.raises(DataError, match="match no class"):
            class_indices(long, other, 3)


def test_rows_without_a_class_have_none(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "x.parquet", pa.array(IMAGES[:3]), pa.array([-1, None, 0])))
    assert [s.label for s in source.samples] == [None, None, "0"]
    source = open_source(write(tmp_path / "x.parquet", structs(paths=[None] * COUNT)))
    assert {s.label for s in source.samples} == {None}
    assert source.samples[7].name == f"{tmp_path}/x.parquet#7"


def test_a_row_without_an_image_is_unreadable(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "x.parquet", pa.array([b"1", None])))
    assert source.read(source.samples[0]) == b"1"
    with pytest.raises(DataError, match="no image"):
        source.read(source.samples[1])


def test_other_tables_are_refused_with_what_they_have(tmp_path: Path) -> None:
    for column, reason in ((pa.array([1, 2]), "no encoded images"), (pa.array([{"bytes": 1, "path": "a"}]), "encoded")):
        with pytest.raises(DataError, match=reason):
            open_source(write(tmp_path / "x.parquet", column))
    pq.write_table(pa.table({"img": pa.array(IMAGES)}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet: has no column 'image', but img"):
        open_source(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="a class is a whole number or a name"):
        open_source(write(tmp_path / "x.parquet", pa.array([b"1"]), pa.array([0.5])))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file"):
        open_source(tmp_path / "x.parquet")


def test_without_pyarrow_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", pa.array(IMAGES))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"pip install 'resnet-infer\[parquet\]'"):
        open_source(path)
