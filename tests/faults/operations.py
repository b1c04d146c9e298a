"""What faults are injected into: commands, how each is gone on with, and what must be there in the end."""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from resnet_infer.predictions.files import read_predictions
from resnet_infer.train.state import load_state

MODEL = "resnet20.cifar10"
CLASSES = ("airplane", "automobile", "bird")
PER_CLASS = 8
TRAINING = "--arch resnet20 --iterations 4 --batch 8 --eval-every 2 --save-every 2 --log-every 1"


@dataclass(frozen=True)
class Operation:
    """One command; `again` is the command to give after a failure, by what is in the folder."""

    name: str
    command: Callable[[Path], Sequence[str]]
    again: Callable[[Path], Sequence[str]]
    content: Callable[[Path, str], Any]
    """What of the folder and of the last command's output must be as without a fault."""
    durable: tuple[str, ...] = ()
    """Patterns of the files that are promised to outlast a loss of power."""


def draw(path: Path, seed: int = 0) -> Path:
    """A zip of soft random pictures of a few classes."""
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for name in CLASSES:
            for number in range(PER_CLASS):
                picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32))
                encoded = io.BytesIO()
                picture.save(encoded, "PNG", compress_level=1)
                archive.writestr(f"{name}/{number:03}.png", encoded.getvalue())
    return path


def evaluation(data: Path, suffix: str) -> Operation:
    """An evaluation that is recorded in several parts."""
    name = f"predictions{suffix}"
    common = ["eval", str(data), "-m", MODEL, "--device", "cpu", "--workers", "0", "--format", "json"]

    def content(folder: Path, output: str) -> Any:
        row = json.loads(output)["rows"][0]
        counts = {key: row[key] for key in ("images", "top1_errors", "top5_errors", "top1_err")}
        return counts, repr(read_predictions(folder / name).records)

    return Operation(
        name=f"eval {suffix}",
        command=lambda folder: [*common, "--predictions", str(folder / name)],
        again=lambda folder: [*common, "--predictions", str(folder / name), "--resume"],
        content=content,
        durable=(name, f"{name}.parts/*-*-*{suffix}"),
    )


def training(data: Path, test_data: Path) -> Operation:
    """A training with a few checkpoints."""
    common = ["train", str(data), "--test-data", str(test_data), "--workers", "0", "--device", "cpu"]

    def content(folder: Path, output: str) -> Any:
        run = folder / "run"
        state = {name: value for name, value in vars_of(load_state(run)).items() if name != "seconds"}
        weights = {name: (run / name).read_bytes() for name in ("last.safetensors", "best.safetensors", "recipe.toml")}
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            del line["seconds"]
            line.pop("images_per_s", None)
        assert (run / "curves.png").stat().st_size
        assert "</html>" in (run / "curves.html").read_text()
        return comparable(state), weights, lines

    def again(folder: Path) -> Sequence[str]:
        if (folder / "run" / "state.pt").exists():
            return [*common, "--resume", str(folder / "run")]
        return [*common, *TRAINING.split(), "-o", str(folder / "run")]

    return Operation(
        name="train",
        command=lambda folder: [*common, *TRAINING.split(), "-o", str(folder / "run")],
        again=again,
        content=content,
        durable=("run/state.pt", "run/recipe.toml", "run/curves.*", "run/last.safetensors", "run/best.safetensors"),
    )


def vars_of(state: Any) -> dict[str, Any]:
    """The fields of an object with slots."""
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def comparable(value: Any) -> Any:
    """Nested values with tensors as the bytes that they are of."""
    if isinstance(value, torch.Tensor):
        return safetensors.torch.save({"value": value.contiguous()})
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items()}
    return [comparable(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def onnx_export() -> Operation:
    """An export to ONNX."""

    def command(folder: Path) -> Sequence[str]:
        return ["export", MODEL, "--to", "onnx", "-o", str(folder / "made" / "model.onnx")]

    return Operation(
        name="export onnx",
        command=command,
        again=command,
        content=lambda folder, output: (folder / "made" / "model.onnx").read_bytes(),
    )


def triton_export() -> Operation:
    """An export to a repository of Triton."""

    def command(folder: Path) -> Sequence[str]:
        return ["export", MODEL, "--to", "triton", "-o", str(folder / "made"), "--name", "net"]

    def content(folder: Path, output: str) -> Any:
        net = folder / "made" / "net"
        return {str(path.relative_to(net)): path.read_bytes() for path in sorted(net.rglob("*")) if path.is_file()}

    return Operation(name="export triton", command=command, again=command, content=content)
