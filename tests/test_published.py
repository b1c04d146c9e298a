"""Third-party checkpoints make their published errors, to the image, through the command line and after export."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"
TEST_SET = SHARED / "data" / "cifar10" / "test.zip"
STATISTICS = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")

pytestmark = pytest.mark.skipif(not TEST_SET.is_file(), reason=f"needs CIFAR-10 and checkpoints in {SHARED.name}/")


def resnet_infer(*arguments: object) -> str:
    command = [sys.executable, "-m", "resnet_infer", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "errors"), [("resnet20-12fca82f", 827), ("resnet56-4bfd9763", 661)])
def test_errors_of_the_checkpoint_and_of_its_export(tmp_path: Path, name: str, errors: int) -> None:
    checkpoint = SHARED / "checkpoints" / f"{name}.th"
    (row,) = json.loads(resnet_infer("eval", TEST_SET, "-m", checkpoint, *STATISTICS, "--format", "json"))["rows"]
    assert (row["images"], row["top1_errors"], row["backend"]) == (10_000, errors, "torch")

    artifact = tmp_path / "net.onnx"
    resnet_infer("export", checkpoint, "--to", "onnx", "-o", artifact, *STATISTICS)
    (row,) = json.loads(resnet_infer("eval", TEST_SET, "-m", artifact, "--format", "json"))["rows"]
    assert (row["images"], row["top1_errors"], row["backend"]) == (10_000, errors, "onnxruntime")
