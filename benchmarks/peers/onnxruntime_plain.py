"""ONNX Runtime as its own documentation uses it, on what torch.onnx.export makes, without this package.

Two contests: the session alone on a batch that is there already, and a loop over files with torchvision's transforms in
a DataLoader. Threads that spin are its default and stay on but where a setting says so.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from benchmarks.peers.eager import labelled, top1_errors
from benchmarks.peers.materials import BATCH, normalized, photos, whole_batches
from benchmarks.peers.ours import evaluation_sides, network_sides
from benchmarks.peers.sides import Claim, Contest, Running, Side
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD

IMAGES = 64
FILES = 63

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Normalised batch to logits."""


def session(
    path: Path,
    *,
    batch: int | None = None,
    threads: bool = False,
    arena: bool = True,
    spinning: bool = True,
    optimisation: str = "ORT_ENABLE_ALL",
) -> ort.InferenceSession:
    """A session on the CPU with these settings; all but `batch` have its own defaults here.

    `batch` fixes the input's first side, `threads` asks for one a core instead of leaving the number to it.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimisation)
    settings.enable_cpu_mem_arena = arena
    if threads:
        settings.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if not spinning:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if batch:
        settings.add_free_dimension_override_by_name("batch", batch)
    return ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def runner(opened: ort.InferenceSession, binding: bool) -> Run:
    """`session.run`, or the same with its input bound where it lies."""

    def run(x_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        scores_BK: NDArray[np.float32]
        if not binding:
            (scores_BK,) = opened.run(None, {"input": x_BCHW})
            return scores_BK
        bound = opened.io_binding()
        bound.bind_cpu_input("input", x_BCHW)
        bound.bind_output("logits")
        opened.run_with_iobinding(bound)
        (scores_BK,) = bound.copy_outputs_to_cpu()
        return scores_BK

    return run


def start(folder: Path, *, arch: str, images: int, binding: bool = False, **settings: Any) -> Running:
    """The session alone."""
    run = runner(session(folder / f"plain-{arch}.onnx", **settings), binding)
    x_BCHW = normalized(folder).numpy()

    def work() -> Mapping[str, Any]:
        for _ in range(images // BATCH):
            run(x_BCHW)
        return {}

    return Running(outputs=lambda: torch.from_numpy(run(x_BCHW)), work=work, versions={"onnxruntime": ort.__version__})


def start_loop(folder: Path, *, arch: str, images: int, batch: int, workers: int, **settings: Any) -> Running:
    """The session behind a DataLoader."""
    run = runner(session(folder / f"plain-{arch}.onnx", **settings), binding=False)
    transform = Compose([Resize(256), CenterCrop(224), ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    loader = DataLoader(
        ImageFolder(photos(folder, images), transform), batch, num_workers=workers, persistent_workers=workers > 0
    )
    classes = [index for _, index in labelled(folder, images)]

    def loop() -> list[Tensor]:
        return [torch.from_numpy(run(x_BCHW.numpy())) for x_BCHW, _ in loader]

    return Running(
        outputs=lambda: torch.cat(loop()).softmax(1),
        work=lambda: {"top1_errors": top1_errors(iter(loop()), classes)},
        versions={"onnxruntime": ort.__version__},
    )


def contests(images: int | None) -> list[Contest]:
    """resnet50 at a batch of 8: the session alone, and from files."""
    arch, count, files = "resnet50", whole_batches(images, IMAGES), images or FILES
    tried: list[tuple[str, dict[str, Any]]] = [
        ("as it is", {}),
        ("batch fixed, input bound", {"batch": BATCH, "binding": True}),
        ("our allocator setting", {}),
        ("threads = cores", {"threads": True}),
        ("without arena", {"arena": False}),
        ("without spinning", {"spinning": False}),
        ("extended optimisations only", {"optimisation": "ORT_ENABLE_EXTENDED"}),
    ]
    network = Contest(
        peer="onnxruntime_plain",
        what=f"{arch}, network only, batch {BATCH}, fp32",
        theirs=[
            Side(
                name=name,
                start=start,
                settings={"arch": arch, "images": count, **settings},
                keep_freed_memory=name == "our allocator setting",
            )
            for name, settings in tried
        ],
        ours=network_sides(arch, count),
        claims=[Claim(name="best settings", target=0.97)],
        images=count,
        tolerance=1e-4,
        files=["tiles.npy", f"{arch}.pth", f"plain-{arch}.onnx", f"{arch}-pooled-fp32.onnx"],
        weight=2,
    )
    loop = Contest(
        peer="onnxruntime_plain",
        what=f"{arch}, single-crop, fp32, {files} files",
        theirs=[
            Side(
                name=f"loop, workers {workers}{extra}",
                start=start_loop,
                settings={"arch": arch, "images": files, "batch": BATCH, "workers": workers, **settings},
            )
            for workers, extra, settings in (
                (1, "", {}),
                (0, "", {}),
                (1, ", without spinning", {"spinning": False}),
                (2, "", {}),
            )
        ],
        ours=evaluation_sides(arch, "single-crop", files),
        claims=[Claim(name="best settings", target=1.0)],
        images=files,
        tolerance=0.05,
        files=[f"photos-{files}", f"{arch}.pth", f"plain-{arch}.onnx", f"{arch}-pooled-fp32.onnx"],
        weight=2,
    )
    return [network, loop]
