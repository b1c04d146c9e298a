"""Lists of images in the forms that people hold them."""

from pathlib import Path

import pandas as pd
import pytest

from resnet_infer.data.open import open_source
from resnet_infer.errors import DataError

PAIRS = [("a b.jpg", "65"), ("sub/2.JPEG", "970"), ("3, x.png", "0")]


def pairs(path: Path) -> list[tuple[str, str | None]]:
    return [(sample.name, sample.label) for sample in open_source(path).samples]


@pytest.mark.parametrize("header", [("image", "label"), ("file_name", "class"), ("Path", "Category")])
def test_csv_as_pandas_writes_it(tmp_path: Path, header: tuple[str, str]) -> None:
    frame = pd.DataFrame(PAIRS, columns=list(header)).assign(width=1)
    frame.to_csv(tmp_path / "list.csv", index=False)
    assert pairs(tmp_path / "list.csv") == PAIRS
    (tmp_path / "plain.csv").write_text("1.jpg,cat\n2.jpg,dog\n")
    assert pairs(tmp_path / "plain.csv") == [("1.jpg", "cat"), ("2.jpg", "dog")]


def test_imagenets_solution_file(tmp_path: Path) -> None:
    name = "ILSVRC2012_val_00048981"
    (tmp_path / f"{name}.JPEG").write_bytes(b"image")
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{name},n03995372 85 1 499 272 \n")
    source = open_source(tmp_path / "LOC_val_solution.csv")
    assert [(sample.name, sample.label) for sample in source.samples] == [(f"{name}.JPEG", "n03995372")]
    assert source.read(source.samples[0]) == b"image"


def test_numbers_behind_a_blank_are_classes_only_if_every_line_has_one(tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_text("".join(f"{name} {label}\n" for name, label in PAIRS))
    assert pairs(path) == PAIRS
    path.write_text("holiday 65.jpg\nholiday 66.jpg\n")
    assert pairs(path) == [("holiday 65.jpg", None), ("holiday 66.jpg", None)]
    path.write_text("a.jpg 1\nb.jpg\n")
    assert pairs(path) == [("a.jpg 1", None), ("b.jpg", None)]


@pytest.mark.parametrize("form", ["metadata.csv", "metadata.jsonl"])
def test_metadata_of_a_folder(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame([("1.png", "cat"), ("2.png", "dog")], columns=["file_name", "label"])
    for name in frame["file_name"]:
        (tmp_path / name).write_bytes(b"image")
    if form.endswith("csv"):
        frame.to_csv(tmp_path / form, index=False)
    else:
        frame.to_json(tmp_path / form, orient="records", lines=True)
    assert pairs(tmp_path) == [("1.png", "cat"), ("2.png", "dog")]
    assert f"its classes are those of {form}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "a,b\n1,2\n", "no column is known to have the images: a, b"),
        ("a.csv", "image,label,target\nx.png,1,2\n", "several columns may have the classes"),
        ("a.csv", "image,label\nx.png\n", "line 2 has 1 columns"),
        ("a.jsonl", '{"file_name": "x.png"}\nno\n', "line 2 is not JSON"),
        ("a.jsonl", '{"file": "x.png"}\n', "no 'file_name'"),
    ],
)
def test_what_is_no_list_is_told(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path / name)
