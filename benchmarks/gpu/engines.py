"""Step `engines`: ONNX Runtime and TensorRT where they can be imported: parity, throughput, latency of one image."""

import importlib.util
from typing import Any

import torch

from benchmarks.gpu.contests import contest_here
from benchmarks.gpu.context import Context, Skipped
from benchmarks.gpu.correctness import compare, kept_reference
from benchmarks.gpu.pictures import ready, spread
from benchmarks.gpu.results import best
from benchmarks.peers import trtexec_like
from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.load import open_model
from resnet_infer.backends.tensorrt_api import find_flavour
from resnet_infer.bench.measure import measure_network
from resnet_infer.bench.opener import Opener
from resnet_infer.bench.sweep import Cell, Subject
from resnet_infer.errors import ResnetInferError
from resnet_infer.spec.protocols import single_crop
from resnet_infer.spec.shapes import BatchRange

ROW_S, BUILD_S = 20.0, 60.0
CALIBRATION = 128
FRACTIONS = {"fp16": 0.65, "int8": 0.50}
"""Of the fused roof, for TensorRT."""
LATENCY_MS = 0.6
"""90th percentile of one image."""
OVER_COMPILED, OVER_FP16 = 1.2, 1.4


def importable(device: torch.device) -> list[str]:
    """Backends of exported files that run here on this device."""
    found = []
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        found += ["onnxruntime"] if wanted in onnxruntime.get_available_providers() else []
    if device.type == "cuda":
        try:
            find_flavour()
            found.append("tensorrt")
        except ResnetInferError:
            pass
    return found


def engines(context: Context) -> None:
    """TensorRT first."""
    backends = importable(context.device)
    if not backends:
        raise Skipped("neither TensorRT nor an onnxruntime with CUDA can be imported")
    source = ready(context)
    opener = context.opener(calibration=spread(source, CALIBRATION))
    for backend in reversed(backends):
        precisions = ("fp16", "int8", "fp32", "bf16") if context.cuda else ("fp32", "int8")
        for precision in precisions:
            if context.has(BUILD_S if backend == "tensorrt" else ROW_S, f"{backend} {precision}"):
                engine(context, opener, backend, precision)
    if "tensorrt" in backends and context.has(BUILD_S, "trtexec's measurement"):
        (contest,) = trtexec_like.contests(None)
        contest_here(context, contest, context.left(), source)
    summary(context)


def engine(context: Context, opener: Opener, backend: str, precision: str) -> None:
    """Parity, throughput at the plan's batch, latency of one image with recorded launches."""
    subject = Subject(model=context.plan.network, backend=backend, precision=precision)
    name = f"{backend} {precision}"
    try:
        with opener.open(subject) as (model, _):
            compare(context, name, precision, model, kept_reference(context).first(model.backend.shapes[0].max[0]))
    except FileNotFoundError:
        context.check(f"logits, {name}", skipped="step correctness has not run")
    except (ResnetInferError, RuntimeError) as error:
        context.check(f"logits, {name}", error=" ".join(str(error).split())[:300])
        return
    runner = context.runner(opener)
    largest = BatchRange().max if backend == "tensorrt" else context.plan.batch  # of the engine's profile
    batches = dict.fromkeys((min(largest, context.plan.batch), 1))
    for batch in batches:
        if context.has(ROW_S / 2, f"{name}, batch {batch}"):
            cell = Cell(subject=subject, protocol="single-crop", batch_size=batch, measurement="network")
            context.measure(runner, cell)
    latency(context, opener, subject, name)


def latency(context: Context, opener: Opener, subject: Subject, name: str) -> None:
    """Of one image, launches recorded in a CUDA graph."""
    what = f"{name}, batch 1, CUDA graph: 90th percentile, ms"
    if not context.cuda:
        context.check(what, skipped="CUDA graphs need a GPU")
        return
    suffix = ".engine" if subject.backend == "tensorrt" else ".onnx"
    pattern = f"{subject.model}*.pooled.{subject.precision}.{subject.backend}{suffix}"
    try:
        path = next(opener.folder.glob(pattern))
        model = open_model(str(path), device=opener.device, options=RunOptions(cuda_graph=True))
        try:
            side = model.manifest.spec.native_size
            how: dict[str, Any] = {"repeats": context.plan.latency_repeats, "seconds": context.plan.seconds}
            timing = measure_network(model.backend, single_crop(side, side), [(side, side)], 1, side, **how)
        finally:
            model.backend.close()
    except (ResnetInferError, RuntimeError, StopIteration) as error:
        context.check(what, error=" ".join(str(error).split())[:300] or f"no {pattern}")
        return
    target = LATENCY_MS if (subject.backend, subject.precision) == ("tensorrt", "fp16") else None
    context.check(what, timing.latency_ms["p90"], target, at_most=True)


def summary(context: Context) -> None:
    """TensorRT's rows against their roofs and against each other."""
    wanted = {"model": context.plan.network, "measurement": "network", "protocol": "single-crop"}
    tops = {p: best(context.rows, backend="tensorrt", precision=p, **wanted) for p in FRACTIONS}
    for precision, top in tops.items():
        if top is not None:
            context.check_roof(f"tensorrt {precision}", top, FRACTIONS[precision])
    compiled = best(context.rows, options="compile=default", precision=context.plan.precision, **wanted)
    half, int8 = tops["fp16"], tops["int8"]
    if half and compiled:
        context.check("tensorrt fp16 over compiled", half.images_per_s / compiled.images_per_s, OVER_COMPILED)
    if half and int8:
        context.check("tensorrt int8 over its fp16", int8.images_per_s / half.images_per_s, OVER_FP16)
