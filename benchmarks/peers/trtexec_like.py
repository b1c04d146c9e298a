"""What trtexec measures, through TensorRT's Python API: an engine's GPU time, nothing else.

As `trtexec --loadEngine=E --shapes=input:BxCxHxW --useCudaGraph --noDataTransfers --useSpinWait --warmUp=500
--duration=10`: launches recorded in a CUDA graph, inputs that lie on the device, two inferences in flight, events that
the host spins on, half a second of warm-up. It gives throughput and the median and 99th percentile of the GPU time.

    python -m benchmarks.peers.trtexec_like ENGINE [--batch 256] [--duration 10]

Ends with exit code 2 where there is no CUDA device or no TensorRT.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.materials import BATCH, normalized, tiles
from benchmarks.peers.sides import Claim, Contest, Running, Side
from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.engine_file import read_engine
from resnet_infer.backends.load import open_model
from resnet_infer.backends.tensorrt_api import find_flavour, load_flavour, make_log
from resnet_infer.backends.trt_launch import DTYPES
from resnet_infer.errors import BackendError, ResnetInferError
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.to_tensorrt import build_engine
from resnet_infer.spec.shapes import ShapeRange, range_for

WARM_UP_S = 0.5
DURATION_S = 10.0
IN_FLIGHT = 2
GPU_BATCH = 256


class Recorded:
    """An engine's launches for one input shape, recorded."""

    def __init__(self, path: Path, batch: int, side: int = 224) -> None:
        """Raises BackendError where TensorRT cannot run it."""
        record, plan = read_engine(path)
        trt = load_flavour(record.flavour)
        self.log = make_log(trt)
        self.engine = trt.Runtime(self.log).deserialize_cuda_engine(plan)
        profile = range_for(record.profiles, side, side)
        if self.engine is None or profile is None:
            raise BackendError(f"{path}: {self.log.last(f'no profile for {side}x{side}')}; rebuild it")
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.context = self.engine.create_execution_context()
        self.context.set_optimization_profile_async(profile, self.stream.cuda_stream)
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        (image,) = [name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        (scores,) = [name for name in names if name != image]
        self.x = torch.empty((batch, 3, side, side), dtype=self._dtype(image), device="cuda").normal_()
        self.context.set_input_shape(image, tuple(self.x.shape))
        shape = tuple(self.context.get_tensor_shape(scores))
        self.scores = torch.empty(shape, dtype=self._dtype(scores), device="cuda")
        self.context.set_tensor_address(image, self.x.data_ptr())
        self.context.set_tensor_address(scores, self.scores.data_ptr())
        torch.cuda.synchronize()
        self._enqueue()  # loads kernels, which cannot be recorded
        self.stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._enqueue()

    def _dtype(self, name: str) -> torch.dtype:
        return DTYPES[self.engine.get_tensor_dtype(name).name]

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise BackendError(f"TensorRT failed: {self.log.last('no reason given')}")

    def gpu_milliseconds(self, *, inferences: int | None = None, seconds: float = 0.0) -> list[float]:
        """GPU time of every inference, of a number of them or of as many as there are in so many seconds."""
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(IN_FLIGHT)]  # type: ignore[no-untyped-call]
        times: list[float] = []
        ends, started = time.perf_counter() + seconds, 0
        with torch.cuda.stream(self.stream):
            while started < inferences if inferences is not None else time.perf_counter() < ends:
                before, after = events[started % IN_FLIGHT]
                if started >= IN_FLIGHT:
                    spin(after)
                    times.append(before.elapsed_time(after))
                before.record()
                self.graph.replay()
                after.record()
                started += 1
        for number in range(max(0, started - IN_FLIGHT), started):
            before, after = events[number % IN_FLIGHT]
            spin(after)
            times.append(before.elapsed_time(after))
        return times


def spin(event: Any) -> None:
    """Wait for an event without giving up the core."""
    while not event.query():
        pass


def measure(path: Path, batch: int, duration_s: float = DURATION_S) -> dict[str, float]:
    """trtexec's figures of an engine of ours at 224x224."""
    recorded = Recorded(path, batch)
    recorded.gpu_milliseconds(seconds=WARM_UP_S)
    started = time.perf_counter()
    times = recorded.gpu_milliseconds(seconds=duration_s)
    return figures(times, batch, time.perf_counter() - started)


def figures(times_ms: Sequence[float], batch: int, seconds: float) -> dict[str, float]:
    """Throughput, and median and 99th percentile of the GPU time."""
    return {
        "inferences": len(times_ms),
        "images_per_s": batch * len(times_ms) / seconds,
        "median_gpu_ms": float(np.median(times_ms)),
        "p99_gpu_ms": float(np.percentile(times_ms, 99)),
    }


def engine_of(folder: Path, arch: str) -> Path:
    """Our fp16 engine, built if it is not there; both sides run this plan."""
    path = folder / f"{arch}.engine"
    if not path.exists():
        shapes = ShapeRange(min=(1, 224, 224), opt=(GPU_BATCH, 224, 224), max=(GPU_BATCH, 224, 224))
        options = BuildOptions(flavour=find_flavour(), profiles=(shapes,))
        build_engine(folder / f"{arch}-pooled-fp16.onnx", path, options)
    return path


def start(folder: Path, *, arch: str, images: int) -> Running:
    """The measurement on the engine."""
    recorded = Recorded(engine_of(folder, arch), GPU_BATCH)

    def outputs() -> Tensor:
        recorded.x.copy_(normalized(folder, GPU_BATCH))
        recorded.gpu_milliseconds(inferences=1)
        return recorded.scores[:BATCH].flatten(1).float().cpu()

    def work() -> Mapping[str, Any]:
        started = time.perf_counter()
        times = recorded.gpu_milliseconds(inferences=images // GPU_BATCH)
        return figures(times, GPU_BATCH, time.perf_counter() - started)

    return Running(outputs=outputs, work=work)


def start_ours(folder: Path, *, arch: str, images: int) -> Running:
    """Our backend on the engine, its input uint8 on the device; normalising is within the time."""
    model = open_model(str(engine_of(folder, arch)), options=RunOptions(cuda_graph=True))
    tiles_BCHW = tiles(folder).permute(0, 3, 1, 2)
    x_BCHW = tiles_BCHW.repeat(GPU_BATCH // BATCH, 1, 1, 1).to(model.backend.info.device)

    def work() -> Mapping[str, Any]:
        for _ in range(images // GPU_BATCH):
            model.backend.run(x_BCHW, "pooled")
        torch.cuda.synchronize()
        return {}

    return Running(
        outputs=lambda: model.backend.run(x_BCHW, "pooled").flatten(1)[:BATCH].cpu(),
        work=work,
        versions=model.backend.info.versions,
    )


def contests(images: int | None) -> list[Contest]:
    """resnet50 in fp16, one engine, one batch."""
    arch, count = "resnet50", GPU_BATCH * max(1, (images or 200 * GPU_BATCH) // GPU_BATCH)
    settings = {"arch": arch, "images": count}
    return [
        Contest(
            peer="trtexec_like",
            what=f"{arch}, one fp16 engine, batch {GPU_BATCH}",
            theirs=[Side(name="CUDA graph, no transfers, spin-wait", start=start, settings=settings)],
            ours=[Side(name="ours: tensorrt, CUDA graph", start=start_ours, settings=settings, keep_freed_memory=True)],
            claims=[Claim(name="the same engine", target=0.98)],
            images=count,
            tolerance=2e-2,
            files=["tiles.npy", f"{arch}.pth", f"{arch}-pooled-fp16.onnx"],
            gpu=True,
        )
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one engine and print its figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.trtexec_like",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", type=Path, help="an .engine file of ours, its manifest beside it")
    parser.add_argument("--batch", type=int, default=GPU_BATCH)
    parser.add_argument("--duration", type=float, default=DURATION_S, help="seconds (default 10)")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("not run: no CUDA device, and an engine runs on nothing else", file=sys.stderr)
        return 2
    try:
        print(json.dumps(measure(args.engine, args.batch, args.duration), indent=1))
    except ResnetInferError as error:
        print(f"not run: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
