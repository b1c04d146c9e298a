"""An ONNX file of another tool at the command line: adopted once, then without flags wherever a model is taken."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resnet_infer.model.checkpoints import save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore")
MEAN, STD = "0.5,0.4,0.3", "0.25,0.2,0.3"
FLAGS = ("--mean", MEAN, "--std", STD)


Run = Callable[..., Any]


@pytest.fixture
def run(command: Run, files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command line in the folder of the files."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / ".cache"))
    return command


@pytest.fixture(scope="module")
def files(
    random_net: Callable[..., ResNet],
    picture: Callable[..., NDArray[np.uint8]],
    encode: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A checkpoint, its ONNX file with a softmax and a fixed batch of three, and 70 pictures of two classes."""
    folder, net = tmp_path_factory.mktemp("adopt"), random_net("resnet20-B", 2)
    preprocessing = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3), resize=32, crop=32)
    save_checkpoint(folder / "net.safetensors", net.state_dict(), Manifest(spec=net.spec, preprocessing=preprocessing))
    torch.onnx.export(
        torch.nn.Sequential(net, torch.nn.Softmax(1)),
        (torch.zeros(3, 3, 32, 32),),
        str(folder / "net.onnx"),
        dynamo=False,
        input_names=["image"],
        output_names=["p"],
    )
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for seed in range(70):
            archive.writestr(f"{('cat', 'dog')[seed % 2]}/{seed}.png", encode(picture(32, 32, seed)))
    return folder


def test_adopted_once_it_needs_no_flags(run: Run, files: Path) -> None:
    done = run("adopt", "net.onnx", "--like", "net.safetensors", "-o", "like.onnx")
    assert done.code == 0, done.err
    assert "net.onnx: ends in softmax (probabilities): not applied again" in done.err
    assert "checked against PyTorch: largest difference" in done.out
    done = run("adopt", "net.onnx", *FLAGS, "-o", "adopted.onnx")
    assert done.code == 0, done.err
    assert "adopted.onnx: resnet20-B, pooled head, fp32, gives probabilities" in done.out
    assert "is resnet20-B by the shapes and strides of its layers" in done.err

    shown = run("info", "adopted.onnx")
    assert (shown.code, shown.err) == (0, "")
    assert "ends in softmax: not applied again" in " ".join(shown.out.split())
    assert max(map(len, shown.out.splitlines())) <= 80

    rows = {}
    for model in ("net.safetensors", "adopted.onnx", "like.onnx"):
        scored = run("eval", "data.zip", "-m", model, "--format", "json")
        assert scored.code == 0, scored.err
        (rows[model],) = json.loads(scored.out)["rows"]
    for model in ("adopted.onnx", "like.onnx"):
        assert rows[model]["top1_errors"] == rows["net.safetensors"]["top1_errors"]

    compared = run("compare", "net.safetensors", "adopted.onnx", "--data", "data.zip", "--format", "json")
    assert compared.code == 0, compared.err
    (row,) = json.loads(compared.out)["rows"]
    assert row["max_diff"] < 1e-3

    timed = run(
        "benchmark", "-m", "adopted.onnx", "-o", "bench", "--protocols", "single-crop", "--batch-sizes", 8,
        "--measurements", "network", "--repeats", 1, "--seconds", 0.01, "--no-ceilings", "--format", "json",
    )  # fmt: skip
    assert timed.code == 0, timed.err
    (timing,) = json.loads(timed.out)["rows"]
    assert (timing["error"], timing["batch_size"]) == ("", 3)  # which is all that it takes

    verified = run("verify", "adopted.onnx", "like.onnx")
    assert verified.code == 0, verified.err


def test_int8_of_it(run: Run) -> None:
    done = run(
        "export", "net.onnx", *FLAGS, "--precision", "int8", "--calibration-data", "data.zip",
        "--calibration-method", "minmax", "--gate-data", "data.zip", "--min-agreement", 0.5, "-o", "int8.onnx",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "reference: net.onnx (fp32, onnxruntime, cpu)" in done.out
    assert "precision      int8" in run("info", "int8.onnx").out


BAD = {
    "no flags": (("adopt", "net.onnx", "-o", "x.onnx"), 1, "give --mean and --std"),
    "no flags in a benchmark": (("benchmark", "-m", "net.onnx", "-o", "b"), 1, "nothing could be measured"),
    "not onnx": (("adopt", "net.safetensors", *FLAGS, "-o", "x.onnx"), 1, "not an ONNX file"),
    "both": (("adopt", "net.onnx", *FLAGS, "--like", "net.safetensors", "-o", "x.onnx"), 2, "contradict each other"),
    "another architecture": (
        ("adopt", "net.onnx", *FLAGS, "--arch", "resnet32", "-o", "x.onnx"), 2, "give --arch resnet20-B",
    ),
    "an output it has not": (("info", "net.onnx", *FLAGS, "--output-name", "q"), 2, "has no output 'q'"),
    "fp16": (("export", "net.onnx", *FLAGS, "--precision", "fp16"), 2, "only --precision int8 makes another"),
    "no data": (("export", "net.onnx", *FLAGS, "--precision", "int8"), 2, "give --calibration-data DATA"),
    "opset": (("export", "net.safetensors", "--opset", 12), 2, "--opset must be 13 to 25"),
    "opset of a file": (("export", "net.onnx", *FLAGS, "--to", "triton", "--opset", 17), 2, "from a checkpoint"),
    "a flag of graphs": (("info", "net.safetensors", "--scores", "logits"), 2, "are for .onnx files"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(run: Run, name: str) -> None:
    arguments, code, says = BAD[name]
    done = run(*arguments)
    assert (done.code, says in done.err) == (code, True), done.err
    errors = [line for line in done.err.splitlines() if line.startswith("resnet-infer: error:")]
    assert len(errors) == 1
    assert not Path("x.onnx").exists()
