"""OpenVINO on the CPU, from the same plain ONNX file, and from our int8 file.

On a CPU with bf16 or AMX it computes in bf16 unless told otherwise, so fp32 is asked for where fp32 is compared, and
its default has a contest with our bf16. The latency hint runs one request at a time on all cores, the throughput hint
several at once, each batch in one of them. Shapes are fixed, as its guide to performance asks.
Source: docs.openvino.ai, "High-level performance hints" and "CPU device".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.materials import BATCH, normalized, whole_batches
from benchmarks.peers.ours import network, network_sides, side
from benchmarks.peers.sides import Claim, Contest, Running, Side

IMAGES = 64


def start(folder: Path, *, file: str, images: int, hint: str, precision: str | None = None, **settings: Any) -> Running:
    """A compiled model; `precision` of None is its own choice for this CPU, `settings` are its own properties."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(folder / file)
    model.reshape([BATCH, 3, 224, 224])
    wanted = {"PERFORMANCE_HINT": hint, **settings} | ({"INFERENCE_PRECISION_HINT": precision} if precision else {})
    compiled = core.compile_model(model, "CPU", wanted)
    x_BCHW = normalized(folder).numpy()
    request = compiled.create_infer_request()
    queue = ov.AsyncInferQueue(compiled, 0) if hint == "THROUGHPUT" else None  # 0: as many as it finds best

    def outputs() -> Tensor:
        return torch.from_numpy(np.array(request.infer([x_BCHW], share_inputs=True)[0]))

    def work() -> Mapping[str, Any]:
        for _ in range(images // BATCH):
            if queue:
                queue.start_async([x_BCHW], share_inputs=True)
            else:
                request.infer([x_BCHW], share_inputs=True, share_outputs=True)
        if queue:
            queue.wait_all()
        return {
            "inference_precision": str(compiled.get_property("INFERENCE_PRECISION_HINT")),
            "streams": int(compiled.get_property("NUM_STREAMS")),
            "requests": len(queue) if queue else 1,
        }

    return Running(outputs=outputs, work=work, versions={"openvino": ov.__version__})


def sides(file: str, images: int, precision: str | None) -> Sequence[Side]:
    """Either hint, and what its guide tells to try by hand."""
    tried: list[tuple[str, dict[str, Any]]] = [
        ("latency hint", {"hint": "LATENCY"}),
        ("throughput hint", {"hint": "THROUGHPUT"}),
        ("throughput hint, 1 stream", {"hint": "THROUGHPUT", "NUM_STREAMS": 1}),
    ]
    return [
        Side(name=name, start=start, settings={"file": file, "images": images, "precision": precision, **settings})
        for name, settings in tried
    ]


def contests(images: int | None) -> list[Contest]:
    """resnet50 at a batch of 8, in fp32, in its default precision and in int8."""
    arch, count = "resnet50", whole_batches(images, IMAGES)
    plain, files = f"plain-{arch}.onnx", ["tiles.npy", f"{arch}.pth"]
    what = f"{arch}, network only, batch {BATCH}"
    quantized = f"{arch}-pooled-int8.onnx"
    bf16: dict[str, Any] = {"file": f"{arch}.pth", "batch": BATCH, "images": count, "precision": "bf16"}
    common: dict[str, Any] = {"peer": "openvino_cpu", "images": count, "packages": ["openvino"]}
    fp32 = Contest(
        what=f"{what}, fp32",
        theirs=sides(plain, count, "f32"),
        ours=network_sides(arch, count),
        claims=[Claim(name="best settings, fp32", target=0.97)],
        tolerance=1e-4,
        files=[*files, plain, f"{arch}-pooled-fp32.onnx"],
        **common,
    )
    default = Contest(
        what=f"{what}, its default (bf16 where the CPU has it)",
        theirs=sides(plain, count, None),
        ours=[
            side("torch bf16", network, **bf16),
            side("torch bf16, compile default", network, **bf16, options={"compile": "default"}),
            side("torch bf16, autocast", network, **bf16, options={"autocast": True}),
        ],
        claims=[Claim(name="best settings, default precision")],
        tolerance=0.15,
        files=[*files, plain],
        **common,
    )
    int8 = Contest(
        what=f"{what}, our int8 file",
        theirs=sides(quantized, count, "f32"),
        ours=[side("onnxruntime int8", network, file=quantized, batch=BATCH, images=count)],
        claims=[Claim(name="best settings, int8")],
        tolerance=0.15,
        files=[*files, quantized],
        **common,
    )
    return [fp32, default, int8]
