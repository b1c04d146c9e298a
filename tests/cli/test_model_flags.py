"""predict, eval, compare and benchmark share a model's flags; what is said behind a name is of that model alone."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from resnet_infer.cli.app import app
from resnet_infer.cli.model_options import RunModel
from resnet_infer.model.checkpoints import save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

Command = Callable[..., Any]
NAMES = ("ant", "bee", "cat")
TRUE = Preprocessing(resize=32, crop=32, mean=(0.3, 0.4, 0.6), std=(0.2, 0.25, 0.3), interpolation="lanczos")


@pytest.fixture(scope="module")
def files(
    random_net: Callable[..., ResNet], picture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """net.safetensors, which says its preprocessing; bgr.pth and caffe.pth, which say nothing and are the same function
    of images in another order and range; and images."""
    folder = tmp_path_factory.mktemp("flags")
    net = random_net("resnet20", 3)
    state = net.state_dict()
    save_checkpoint(
        folder / "net.safetensors", state, Manifest(spec=net.spec, preprocessing=TRUE, labels=Labels(names=NAMES))
    )
    swapped = dict(state) | {"conv1.weight": state["conv1.weight"].flip(1)}
    torch.save(swapped, folder / "bgr.pth")
    scale = torch.tensor(TRUE.std[::-1]).view(1, 3, 1, 1) * 255  # what Caffe's net has in its first weights
    torch.save(dict(swapped) | {"conv1.weight": swapped["conv1.weight"] / scale}, folder / "caffe.pth")
    (folder / "names.txt").write_text("\n".join(NAMES))
    for number in range(9):
        path = folder / "data" / NAMES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(33, 41, number)).save(path)
    return folder


def described(files: Path, name: str) -> str:
    """The model with its preprocessing said behind its name."""
    mean, std = np.array(TRUE.mean[::-1]), TRUE.std[::-1]
    values = {"bgr.pth": (mean, std, "0-1"), "caffe.pth": (255 * mean, (1, 1, 1), "0-255")}[name]
    mean_, std_ = (",".join(map(str, numbers)) for numbers in values[:2])
    more = f"interpolation=lanczos&labels={files / 'names.txt'}"
    return f"{files / name}?mean={mean_}&std={std_}&input-range={values[2]}&channel-order=bgr&{more}"


def rows(command: Command, *arguments: object) -> list[dict[str, Any]]:
    answer = command(*arguments, "--format", "json", "--device", "cpu", "--workers", 0)
    assert answer.code == 0, answer.err
    found: list[dict[str, Any]] = json.loads(answer.out)["rows"]
    return found


def test_every_flag_of_a_model_is_in_every_command_that_runs_one() -> None:
    group: Any = typer.main.get_command(app)
    of = {name: {parameter.name for parameter in found.params} for name, found in group.commands.items()}
    shared = {field.name for field in fields(RunModel)}
    for name in ("predict", "eval", "compare"):
        assert shared <= of[name], name
    for name in ("benchmark", "export", "info"):
        assert {"mean", "std", "interpolation", "channel_order", "input_range", "labels", "arch"} <= of[name], name


@pytest.mark.parametrize("name", ["bgr.pth", "caffe.pth"])
def test_models_that_differ_are_compared(command: Command, files: Path, name: str) -> None:
    """The same function in another order and range agrees, where it is described; plain flags could not say that."""
    (row,) = rows(command, "compare", files / "net.safetensors", described(files, name), "--data", files / "data")
    assert row["top1_agreement"] == 1
    assert row["kl_divergence"] < 1e-6
    assert row["b"]["model"].startswith(f"{name}?mean=")
    wrong = described(files, name).replace("channel-order=bgr", "channel-order=rgb")
    (row,) = rows(command, "compare", files / "net.safetensors", wrong, "--data", files / "data")
    assert row["kl_divergence"] > 1e-3


def test_an_ensemble_of_models_that_differ(command: Command, files: Path) -> None:
    data, models = files / "data", ["net.safetensors", "bgr.pth", "caffe.pth"]
    named = [files / "net.safetensors", *(described(files, name) for name in models[1:])]
    results = rows(command, "eval", data, *(part for name in named for part in ("-m", name)), "--metrics")
    assert len(results) == 4
    assert len({row["top1_errors"] for row in results}) == 1
    likelihoods = [row["metrics"]["nll"] for row in results]
    assert likelihoods == pytest.approx([likelihoods[0]] * 4, rel=1e-4)


def test_compare_takes_the_flags_of_running(command: Command, files: Path) -> None:
    net, data = files / "net.safetensors", files / "data"
    (row,) = rows(
        command,
        "compare",
        net,
        f"{net}?precision=fp32&autocast=no",
        "--data",
        data,
        "--precision",
        "bf16",
        "--autocast",
    )
    assert (row["a"]["precision"], row["b"]["precision"]) == ("bf16", "fp32")
    (row,) = rows(
        command, "compare", net, f"{net}?arch=plain20", "--data", data, "--backend", "torch", "--arch", "resnet20"
    )
    assert (row["a"]["architecture"], row["b"]["architecture"]) == ("resnet20", "plain20")
    refused = command("compare", net, net, "--data", data, "--provider", "cuda").line_of_error(2)
    assert "--provider" in refused


def test_caffes_input_by_flags(command: Command, files: Path) -> None:
    """eval, predict and info, and the graph that export writes with all of it inside."""
    said = {"--mean": ",".join(str(255 * v) for v in TRUE.mean[::-1]), "--std": "1,1,1"}
    said |= {"--input-range": "0-255", "--channel-order": "bgr", "--interpolation": "lanczos"}
    flags = [part for pair in said.items() for part in pair] + ["--labels", files / "names.txt"]
    (expected,) = rows(command, "eval", files / "data", "-m", files / "net.safetensors", "--metrics")
    (found,) = rows(command, "eval", files / "data", "-m", files / "caffe.pth", "--metrics", *flags)
    assert found["top1_errors"] == expected["top1_errors"]
    assert found["metrics"]["nll"] == pytest.approx(expected["metrics"]["nll"], rel=1e-4)
    told = command("info", files / "caffe.pth", *flags)
    assert "lanczos" in told.out
    assert "BGR in 0..255" in told.out
    onnx = files / "caffe.onnx"
    made = command("export", files / "caffe.pth", "-o", onnx, "--preprocess-in-graph", *flags)
    assert made.code == 0, made.err
    (found,) = rows(command, "eval", files / "data", "-m", onnx, "--metrics")
    assert found["metrics"]["nll"] == pytest.approx(expected["metrics"]["nll"], rel=1e-4)
    assert "export it again" in command("info", onnx, "--channel-order", "rgb").line_of_error(2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mean", "123.675,116.28,103.53"), "--mean 0.485,0.456,0.406 --std 0.2,0.25,0.3"),
        (
            ("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"),
            "takes 0..255, --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 --input-range 0-255",
        ),
        (("--input-range", "0-255"), "give --mean and --std with it"),
        (("--channel-order", "bgr"), "give --mean and --std with it"),
        (("--channel-order", "gbr"), "'gbr' is not one of rgb, bgr"),
        (("--interpolation", "nearest"), "is not one of bilinear, bicubic, lanczos"),
        (("--interpolation", "lanczos", "--render", "device"), "leave out --render device"),
        (("--mean", "0.5", "--std", "0.5"), "takes 3 channels, and --mean has 1 number"),
    ],
)
def test_what_cannot_be_is_one_line(command: Command, files: Path, flags: tuple[str, ...], words: str) -> None:
    for arguments in (
        ("eval", files / "data", "-m", files / "net.safetensors"),
        ("predict", files / "data/ant/0.png", "-m", files / "net.safetensors"),
        ("compare", files / "net.safetensors", files / "net.safetensors", "--data", files / "data"),
    ):
        assert words in command(*arguments, *flags, "--device", "cpu").line_of_error(2)


def test_a_benchmark_of_a_bare_file_is_told_its_input(command: Command, files: Path, tmp_path: Path) -> None:
    """By flags, which stand in its rows as the description; what the sweep says is refused behind a name."""
    small = ("--protocols", "single-crop", "--batch-sizes", 1, "--repeats", 1, "--seconds", 0.01, "--no-ceilings")
    flags = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--backends", "torch,onnxruntime")
    bare = files / "bgr.pth"
    answer = command(
        "benchmark", "-m", f"{bare}?std=1,1,1", "-o", tmp_path / "a",
        *small, *flags, "--device", "cpu", "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["rows"]
    assert [row["model"] for row in found] == [f"{bare}?mean=0.5,0.5,0.5&std=1,1,1"] * 2
    assert all(row["images_per_s"] > 0 for row in found)
    refused = command("benchmark", "-m", f"{bare}?precision=bf16", "-o", tmp_path / "b", *small, *flags)
    assert "precision is the sweep's to say" in refused.line_of_error(2)
    assert not (tmp_path / "b").exists()


def test_the_fastest_way_of_one_mean_is_not_kept_for_another(
    command: Command, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export that --backend auto keeps has its preprocessing in it."""
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path))
    monkeypatch.setattr("resnet_infer.bench.fastest._measure", lambda *given: {"onnxruntime": 2.0, "torch": 1.0})
    net = files / "net.safetensors"
    for mean in ("0.1,0.1,0.1", "0.6,0.6,0.6"):
        (auto,) = rows(command, "eval", files / "data", "-m", f"{net}?mean={mean}", "--metrics", "--backend", "auto")
        (plain,) = rows(command, "eval", files / "data", "-m", f"{net}?mean={mean}", "--metrics")
        assert (auto["backend"], plain["backend"]) == ("onnxruntime", "torch")
        assert auto["metrics"]["nll"] == pytest.approx(plain["metrics"]["nll"], rel=1e-4)
        assert auto["model"] == plain["model"]
