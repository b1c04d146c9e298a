"""resnet50 on ONNX Runtime on the CPU in fp32 and int8: images/s of our own files through our own backend.

Random weights, a batch of 8 photos at 224x224, all cores; ranges are min-max over those photos. Speed alone: what int8
costs in accuracy is measured with trained weights by `resnet-infer export --gate-data`.

    python -m benchmarks.precisions --photos PHOTOS.zip --repeats 11 -o result.json
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization.calibrate import create_calibrator
from torch import Tensor

from benchmarks.network import PASSES, checkpoint
from benchmarks.timing import compare, drain, processes
from resnet_infer.allocator import keep_freed_memory
from resnet_infer.backends.base import Normalize
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.data.open import open_source
from resnet_infer.environment import environment
from resnet_infer.exporters.calibrate import Once
from resnet_infer.exporters.graphs import float_graph
from resnet_infer.exporters.quantize import CALIBRATED_OPERATORS, quantized_graph, saturates_int8
from resnet_infer.pipeline.loader import load
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.protocols import single_crop

SIDES: tuple[Precision, ...] = ("fp32", "int8")
BATCH = 8
TARGET = 1.6
"""How many times as fast as fp32 int8 should be."""

_run: Callable[[], Tensor]


def start(side: Precision, folder: Path, manifest: Manifest, x_BCHW: Tensor) -> None:
    """Load one file into this process."""
    global _run
    keep_freed_memory()
    backend = OrtBackend(folder / f"{side}.onnx", replace(manifest, precision=side), "cpu")
    _run = lambda: backend.run(x_BCHW, "pooled")  # noqa: E731


def seconds() -> float:
    """Of PASSES batches on this side."""
    started = time.perf_counter()
    drain(_run() for _ in range(PASSES))
    return time.perf_counter() - started


def measure(photos: Path, repeats: int) -> dict[str, Any]:
    """Make both files, and time them in turns."""
    own = checkpoint()
    manifest = replace(own.manifest, head="pooled")
    images = load(open_source(photos), [single_crop()], range(BATCH), workers=0)
    x_BCHW = torch.stack([image.tiles[0] for image in images]).permute(0, 3, 1, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graph = float_graph(own, "pooled", "fp32")
        onnx.save(graph, folder / "fp32.onnx")
        calibrator = create_calibrator(folder / "fp32.onnx", CALIBRATED_OPERATORS, str(folder / "augmented.onnx"))
        calibrator.collect_data(Once(Normalize(manifest.preprocessing, "cpu")(x_BCHW).contiguous().numpy()))
        quantized = quantized_graph(graph, calibrator.compute_data(), reduce_range=saturates_int8())
        onnx.save(quantized, folder / "int8.onnx")
        with processes(SIDES, start, folder, manifest, x_BCHW) as calls:
            sides = {side: partial(call, seconds) for side, call in calls.items()}
            return compare(sides, repeats, images=BATCH * PASSES, reference="fp32", target=TARGET)


def main() -> None:
    """Measure, print, and write the raw seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    measured = measure(arguments.photos, arguments.repeats)
    print(f"resnet50 on onnxruntime, batch {BATCH} at 224x224, {torch.get_num_threads()} threads")
    for side, rate in measured["images_per_s"].items():
        print(f"{side:6}{rate:8.1f} images/s{measured['ratio'][side]:8.2f}x")
    if arguments.output:
        command = f"python -m benchmarks.precisions --photos {arguments.photos.name} --repeats {arguments.repeats}"
        result = {"command": command, "environment": environment(), "int8_on_cpu": measured}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
