"""resnet50 on the CPU: plain eager PyTorch, our torch backend, and our ONNX file on our ONNX Runtime backend.

Random weights, a batch of 8 photos at 224x224, all cores. Plain PyTorch is contiguous NCHW in inference mode, handed
normalised float32, in a process as PyTorch's users have it; ours are handed uint8, normalise it within the time
measured, and have the allocator setting of resnet-infer's own processes. Logits are compared before anything is timed.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import compare, drain, processes
from resnet_infer.allocator import keep_freed_memory
from resnet_infer.backends.base import Normalize
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.exporters.parity import TOLERANCE
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import build
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

SIDES = ("torch_eager_nchw", "torch_backend", "onnxruntime")
TARGET = 1.5
"""How many times as fast as plain eager PyTorch the ONNX file should be."""
PASSES = 4
"""Batches in one timing."""

_run: Callable[[], Tensor]
"""One batch through this process's side."""


def checkpoint() -> Checkpoint:
    """resnet50 with the same random weights in every process."""
    torch.manual_seed(2015)
    net = build(spec_from_name("resnet50"))
    state = {key: value.detach() for key, value in net.state_dict().items()}
    manifest = Manifest(spec=net.spec, preprocessing=Preprocessing())
    return Checkpoint(name="resnet50 with random weights", manifest=manifest, state_dict=state)


def start(side: str, path: Path, manifest: Manifest, tiles_BHWC: Tensor) -> None:
    """Load one side into this process."""
    global _run
    x_BCHW = tiles_BHWC.permute(0, 3, 1, 2)
    if side == "torch_eager_nchw":
        own = checkpoint()
        net = build(own.manifest.spec, dict(own.state_dict))
        normalised_BCHW = Normalize(own.manifest.preprocessing, "cpu")(x_BCHW).contiguous()
        _run = torch.inference_mode()(lambda: net(normalised_BCHW))
        return
    keep_freed_memory()
    backend = TorchBackend(checkpoint(), "cpu") if side == "torch_backend" else OrtBackend(path, manifest, "cpu")
    _run = lambda: backend.run(x_BCHW, "pooled").flatten(1)  # noqa: E731


def logits() -> list[list[float]]:
    """This side's logits."""
    values: list[list[float]] = _run().tolist()
    return values


def seconds() -> float:
    """Of PASSES batches on this side."""
    started = time.perf_counter()
    drain(_run() for _ in range(PASSES))
    return time.perf_counter() - started


def measure(tiles_BHWC: Tensor, repeats: int) -> dict[str, Any]:
    """Time the sides in turns; raises RuntimeError if their logits disagree."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "resnet50.onnx")
        manifest = export_onnx(checkpoint(), path)
        with processes(SIDES, start, path, manifest, tiles_BHWC) as calls:
            difference = logit_difference({side: torch.tensor(call(logits)) for side, call in calls.items()})
            sides = {side: partial(call, seconds) for side, call in calls.items()}
            images = len(tiles_BHWC) * PASSES
            measured = compare(sides, repeats, images=images, reference=SIDES[0], target=TARGET)
    return measured | {
        "batch": len(tiles_BHWC),
        "threads": torch.get_num_threads(),
        "largest_logit_difference": difference,
    }


def logit_difference(found: Mapping[str, Tensor]) -> float:
    """The largest difference from eager PyTorch over the largest logit; raises RuntimeError if it is too large."""
    reference, *others = found.values()
    difference = max(float((other - reference).abs().max()) for other in others) / float(reference.abs().max())
    if not difference <= TOLERANCE["fp32"]:
        raise RuntimeError(f"logits differ by {difference:.1e} of the largest; allowed are {TOLERANCE['fp32']:.0e}")
    return difference


def print_table(measured: Mapping[str, Any]) -> None:
    """A line for each side; at most 80 columns."""
    threads, batch = measured["threads"], measured["batch"]
    print(f"\nresnet50, batch {batch} at 224x224, {threads} threads: images/s (times eager's)")
    for name, rate in measured["images_per_s"].items():
        target = f"  target {measured['target_ratio']:.1f}x" if name == "onnxruntime" else ""
        print(f"{name:20}{rate:8.1f}{measured['ratio'][name]:8.2f}x{target}")
    print(f"logits agree to {measured['largest_logit_difference']:.0e} of the largest")
