"""`resnet-infer eval` with metrics, its page, and ImageNet's own layouts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_infer.data.open import open_source
from resnet_infer.model.checkpoints import save_checkpoint
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels, imagenet1k
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

Command = Callable[..., Any]
NAMES = ("ant & bee", "<b>", "cat")
IMAGES = 12


@pytest.fixture(scope="module")
def files(
    random_net: Callable[..., ResNet], picture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A resnet20 of three classes and one of ImageNet's thousand, a class folder each, and validation images."""
    folder = tmp_path_factory.mktemp("metrics")
    for name, labels in (("net", Labels(names=NAMES)), ("imagenet", imagenet1k())):
        classes = len(labels.names)
        net = random_net("resnet20", classes) if classes == 3 else build(spec_from_name("resnet20", classes))
        manifest = Manifest(spec=net.spec, preprocessing=Preprocessing(resize=32, crop=32), labels=labels)
        save_checkpoint(folder / f"{name}.safetensors", net.state_dict(), manifest)
    (folder / "val").mkdir()
    for number in range(IMAGES):
        pixels = Image.fromarray(picture(32, 36, number))
        (folder / "data" / NAMES[number % 3]).mkdir(parents=True, exist_ok=True)
        pixels.save(folder / "data" / NAMES[number % 3] / f"{number}.png")
        pixels.save(folder / "val" / f"ILSVRC2012_val_{number + 1:08}.JPEG")
    return folder


def test_metrics_are_in_the_json_only_when_asked_for(command: Command, files: Path) -> None:
    arguments = ("eval", files / "data", "-m", files / "net.safetensors", "--format", "json")
    (plain,) = json.loads(command(*arguments).out)["rows"]
    assert "metrics" not in plain
    answer = command(*arguments, "--metrics", "--ten-crop", "--single-crop")
    rows = json.loads(answer.out)["rows"]
    assert len(rows) == 2
    for row in rows:
        found = row["metrics"]
        matrix = np.zeros((3, 3), dtype=int)
        for true, guess, images in found["confusion"]:
            matrix[true, guess] = images
        assert matrix.sum(1).tolist() == [IMAGES // 3] * 3
        assert IMAGES - np.trace(matrix) == row["top1_errors"] == sum(c["top1_errors"] for c in found["classes"])
        assert {c["label"] for c in found["classes"]} == set(NAMES)
        assert sum(part["images"] for part in found["calibration"]) == IMAGES
    table = command(*arguments[:-1], "table", "--metrics").out
    assert "ECE %" in table
    assert max(map(len, table.splitlines()[3:])) <= 80


def test_the_page_is_written_and_escaped(command: Command, files: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    answer = command("eval", files / "data", "-m", files / "net.safetensors", "--page", page)
    assert answer.code == 0, answer.err
    text = page.read_text("utf-8")
    assert "ant &amp; bee" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    for bad, words in (("page.txt", ".html"), ("absent/page.html", "does not exist")):
        line = command("eval", files / "data", "-m", files / "net.safetensors", "--page", tmp_path / bad)
        assert words in line.line_of_error(2)


def test_a_flat_folder_is_scored_by_the_ground_truth_as_the_same_list_is(
    command: Command, files: Path, tmp_path: Path
) -> None:
    """Against a `path<TAB>label` list made from the same classes by hand."""
    ids = imagenet1k().ids
    numbers = np.random.default_rng(0).integers(1, 1001, IMAGES).tolist()
    kit = torch.randperm(1000, generator=torch.Generator().manual_seed(2)).tolist()  # class n is synset kit[n - 1]
    (tmp_path / "truth.txt").write_text("".join(f"{n}\n" for n in numbers))
    (tmp_path / "map.txt").write_text("".join(f"{ids[at]} {n} name\n" for n, at in enumerate(kit, start=1)))
    listed = [f"{sample.key}\t{ids[kit[n - 1]]}" for sample, n in zip(
        open_source(files / "val").samples, numbers, strict=True)]  # fmt: skip
    (tmp_path / "list.txt").write_text("\n".join(listed))
    real = [[kit[n - 1]] if at % 2 else [] for at, n in enumerate(numbers)]
    (tmp_path / "real.json").write_text(json.dumps(real))
    model = ("-m", files / "imagenet.safetensors", "--metrics", "--format", "json")
    by_list = json.loads(command("eval", tmp_path / "list.txt", *model).out)["rows"][0]
    truth = ("--ground-truth", tmp_path / "truth.txt", "--synsets", tmp_path / "map.txt")
    answer = command("eval", files / "val", *model, *truth, "--real-labels", tmp_path / "real.json")
    assert answer.code == 0, answer.err
    by_truth = json.loads(answer.out)["rows"][0]
    found = by_truth["metrics"].pop("real")
    assert by_truth["metrics"] == by_list["metrics"]
    assert (found["images"], found["left_out"]) == (IMAGES // 2, IMAGES // 2)


def test_what_does_not_fit_is_one_line(command: Command, files: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("1\n" * IMAGES)
    (tmp_path / "real.json").write_text("[[1]]")
    val, net = files / "val", files / "net.safetensors"
    for arguments, code, words in (
        (("eval", val, "-m", net), 1, "--ground-truth"),
        (("eval", val, "-m", net, "--ground-truth", tmp_path / "truth.txt"), 2, "--synsets"),
        (("eval", val, "-m", net, "--synsets", tmp_path / "truth.txt"), 2, "--ground-truth"),
        (("eval", val, "-m", net, "--ground-truth", tmp_path / "absent.txt"), 2, "absent.txt"),
        (("eval", files / "data", "-m", net, "--real-labels", tmp_path / "real.json"), 2, "1000 classes"),
        (("eval", files / "data", "-m", files / "imagenet.safetensors", "--real-labels", tmp_path / "real.json"),
         1, "ILSVRC2012_val_00000001.JPEG"),
    ):  # fmt: skip
        assert words in command(*arguments).line_of_error(code)
