"""`resnet-infer compare` as its user meets it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import load_checkpoint, save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

Command = Callable[..., Any]
NAMES = ("ant", "bee", "cat")
IMAGES = 12


@pytest.fixture(scope="module")
def files(
    random_net: Callable[..., ResNet], picture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """net, its ONNX file, another net whose classes are in another order, and images in class folders."""
    folder = tmp_path_factory.mktemp("compare")
    for name, architecture, names in (("net", "resnet20", NAMES), ("other", "resnet32", NAMES[::-1])):
        net = random_net(architecture, 3)
        manifest = Manifest(spec=net.spec, preprocessing=Preprocessing(resize=32, crop=32), labels=Labels(names=names))
        save_checkpoint(folder / f"{name}.safetensors", net.state_dict(), manifest)
    export_onnx(load_checkpoint(str(folder / "net.safetensors")), folder / "net.onnx")
    for number in range(IMAGES):
        path = folder / "data" / NAMES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(32, 36, number)).save(path)
    return folder


def test_every_format_says_the_same(command: Command, files: Path, tmp_path: Path) -> None:
    arguments = ("compare", files / "net.safetensors", files / "other.safetensors", "--data", files / "data")
    answer = command(*arguments, "--format", "json", "--page", tmp_path / "page.html")
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert report["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]
    (row,) = report["rows"]
    split = [row["both_right"], row["only_a_right"], row["only_b_right"], row["both_wrong"]]
    assert sum(split) == row["images"] == IMAGES
    assert row["a"]["top1_errors"] == row["only_b_right"] + row["both_wrong"]
    assert 0 < row["mcnemar_p"] <= 1
    assert row["kl_divergence"] > 0
    assert len(row["disagreements"]) == IMAGES - round(row["top1_agreement"] * IMAGES) > 0
    (line,) = command(*arguments, "--format", "jsonl").out.splitlines()
    again = json.loads(line)
    assert again | {"seconds": 0} == row | {"seconds": 0}
    (flat,) = csv.DictReader(io.StringIO(command(*arguments, "--format", "csv").out))
    assert (int(flat["only_a_right"]), int(flat["b_top1_errors"])) == (row["only_a_right"], row["b"]["top1_errors"])
    table = command(*arguments).out
    assert max(map(len, table.replace(f"{files}/", "").splitlines()[2:])) <= 80
    assert "McNemar" in table
    assert (tmp_path / "page.html").read_text("utf-8").count("data:image/jpeg;base64,") == len(row["disagreements"])


def test_an_export_agrees_with_its_checkpoint(command: Command, files: Path) -> None:
    answer = command(
        "compare", files / "net.safetensors", files / "net.onnx", "--data", files / "data", "--format", "json"
    )
    (row,) = json.loads(answer.out)["rows"]
    assert (row["b"]["backend"], row["top1_agreement"], row["disagreements"]) == ("onnxruntime", 1, [])
    assert (row["only_a_right"], row["only_b_right"], row["mcnemar_p"]) == (0, 0, 1)


def test_what_cannot_be_compared_is_one_line(command: Command, files: Path, tmp_path: Path) -> None:
    net, other = files / "net.safetensors", files / "other.safetensors"
    (tmp_path / "a.jsonl").write_text("{}\n")
    for arguments, code, words in (
        ((net, other), 2, "--data"),
        ((net, tmp_path / "a.jsonl"), 2, "one is a predictions file"),
        ((tmp_path / "a.jsonl", tmp_path / "a.jsonl"), 1, "a.jsonl"),
        ((tmp_path / "b.jsonl", tmp_path / "a.jsonl"), 2, "b.jsonl"),
        ((net, other, "--data", files / "data", "--on-error", "count-wrong"), 2, "fail, skip"),
        ((net, other, "--data", files / "data", "--page", "x.pdf"), 2, ".html"),
        ((net, other, "--data", files / "data", "--scales", "32,40"), 2, "single-crop"),
        ((net, "resnet20.cifar10", "--data", files / "data"), 2, "classes"),
        ((net, other, "--data", tmp_path / "absent"), 1, "absent"),
    ):
        assert words in command("compare", *arguments).line_of_error(code)
