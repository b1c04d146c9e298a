"""Third-party checkpoints make their published errors, to the image, through the command line and after export."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_infer.predictions.files import read_predictions

SHARED = Path(__file__).parents[2] / "shared"
TEST_SET = SHARED / "data" / "cifar10" / "test.zip"
STATISTICS = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")

pytestmark = pytest.mark.skipif(not TEST_SET.is_file(), reason=f"needs CIFAR-10 and checkpoints in {SHARED.name}/")


def resnet_infer(*arguments: object, processes: int = 1) -> str:
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *torchrun[: 0 if processes == 1 else None], "resnet_infer", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "errors", "processes"), [("resnet20-12fca82f", 827, 3), ("resnet56-4bfd9763", 661, 1)]
)
def test_errors_of_the_checkpoint_and_of_its_export(tmp_path: Path, name: str, errors: int, processes: int) -> None:
    """And of the records that several processes write."""
    checkpoint, file = SHARED / "checkpoints" / f"{name}.th", tmp_path / "predictions.parquet"
    flags = (*STATISTICS, "--format", "json", "--predictions", file)
    (row,) = json.loads(resnet_infer("eval", TEST_SET, "-m", checkpoint, *flags, processes=processes))["rows"]
    assert (row["images"], row["top1_errors"], row["backend"]) == (10_000, errors, "torch")
    (records,) = read_predictions(file).records.values()
    assert [record.index for record in records] == list(range(10_000))
    assert sum(record.top_classes[0] != record.truth for record in records) == errors

    artifact = tmp_path / "net.onnx"
    resnet_infer("export", checkpoint, "--to", "onnx", "-o", artifact, *STATISTICS)
    (row,) = json.loads(resnet_infer("eval", TEST_SET, "-m", artifact, "--format", "json"))["rows"]
    assert (row["images"], row["top1_errors"], row["backend"]) == (10_000, errors, "onnxruntime")
