"""Runs of a benchmark made by a formula, and a browser to open their pages in."""

import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from resnet_infer.bench.rows import BenchRow, BenchRun, Ceilings, Measurement, ShapeTime

LONG = "checkpoints/2026/resnet50-a1h2-fine-tuned-on-our-own-<photos>-&-more_epoch_0123456789.safetensors"
GPU = "NVIDIA H200"
ERRORS = {"single-crop": 23.85, "ten-crop": 22.08, "multiscale": 20.74}
VIEWS = {"single-crop": 1, "ten-crop": 10, "multiscale": 10}
GMACS = {"single-crop": 4.09, "ten-crop": 40.9, "multiscale": 197.5}
PEAKS = {  # images/s of a single crop at the largest batch
    ("resnet50.tv_in1k", "torch", "bf16", ""): 22_600.0,
    ("resnet50.tv_in1k", "torch", "bf16", "compile=max-autotune"): 33_900.0,
    ("resnet50.fp16.engine", "tensorrt", "fp16", ""): 44_200.0,
    ("resnet50.int8.engine", "tensorrt", "int8", ""): 71_300.0,
    ("resnet50.onnx", "onnxruntime", "fp16", "cuda-graph,prefer-nhwc"): 19_800.0,
}


def made_row(
    subject: Sequence[str],
    protocol: str,
    measurement: Measurement,
    batch: int,
    peak: float,
    *,
    repeats: int = 5,
    **changed: Any,
) -> BenchRow:
    """A row whose rate rises with the batch; its repeats scatter by about one percent, as a formula says."""
    model, backend, precision, options = subject
    rate = peak / (GMACS[protocol] / GMACS["single-crop"]) * batch / (batch + 14)
    rate *= {"network": 1.0, "transfer": 0.93, "memory": 0.41, "files": 0.38}[measurement]
    images = max(1, round(8 * rate))
    grain = sum(map(ord, f"{model}{protocol}{measurement}{batch}"))
    seconds = [images / rate * (1 + 0.012 * math.sin(1.7 * repeat + grain)) for repeat in range(repeats)]
    rates = [images / each for each in seconds]
    ms = 1000 * batch * VIEWS[protocol] / (rate * VIEWS[protocol])
    latency = {"p50": ms, "p90": 1.03 * ms, "p95": 1.06 * ms, "p99": 1.19 * ms}
    error = ERRORS[protocol] + (0.31 if precision == "int8" else 0.0)
    roof = peak * 1.24 / (GMACS[protocol] / GMACS["single-crop"])
    defaults = BenchRow(
        model=model, architecture="resnet50", backend=backend, device="cuda:0", precision=precision, options=options,
        protocol=protocol, views=VIEWS[protocol], measurement=measurement, batch_size=batch, batch_size_asked=batch,
        images=images, seconds=seconds, images_per_s=statistics.median(rates),
        cv_pct=100 * statistics.stdev(seconds) / statistics.mean(seconds) if repeats > 1 else 0.0,
        latency_ms=latency if measurement in ("network", "transfer") else {},
        shapes=[ShapeTime(height=224, width=224, batch=batch, tiles_per_image=1.0, ms=ms)],
        peak_memory_mib=700 + 21.5 * batch, build_s=41.0 if backend == "tensorrt" else 0.0, first_run_s=3.2,
        gmacs=GMACS[protocol], roof_images_per_s=roof, roof_fraction=statistics.median(rates) / roof,
        bound={"network": "memory", "transfer": "transfer"}.get(measurement, "decoding"),
        joules_per_image=690 / rate, network_fraction={"memory": 0.41, "files": 0.38}.get(measurement, 0.0),
        top1_err=error, top1_err_ci95=(error - 1.15, error + 1.2), top1_images=5000,
    )  # fmt: skip
    return replace(defaults, **changed)


def large_run() -> BenchRun:
    """Five ways to run resnet50 and a resnet18 of a long name, three protocols; failures, halved batches, warnings."""
    rows = []
    for subject, peak in PEAKS.items():
        for protocol in ERRORS:
            rows += [made_row(subject, protocol, "network", batch, peak) for batch in (1, 8, 64, 256, 512)]
            rows += [made_row(subject, protocol, name, 256, peak) for name in ("transfer", "memory", "files")]
    first, halved = next(iter(PEAKS)), ["memory ran out at batch 1024; halved to 512"]
    rows.append(made_row(first, "multiscale", "network", 512, 22_000.0, batch_size_asked=1024, warnings=halved))
    small = (LONG, "torch", "fp16", "autocast,compile=cuda-graphs")
    unsteady = ["the repeats differ by 12.4 %: another program used the machine"]
    for batch in (8, 96, 128, 160, 192, 224, 256):  # so near each other that not every one can be named at an axis
        row = made_row(small, "single-crop", "network", batch, 161_000.0, architecture="resnet18")
        rows.append(replace(row, cv_pct=12.4, warnings=unsteady) if batch in (8, 256) else row)
    for batch in (512, 1024):
        failure = f"out of memory: <a batch of {batch}> does not fit & cannot be halved; give --batch-size 256"
        rows.append(failed_row(LONG, "torch", batch, failure))
    rows.append(failed_row("resnet50.fp8.engine", "tensorrt", 256, "fp8 needs compute capability 8.9; this is 8.0"))
    return replace(run_of(rows), ceilings=CEILINGS)


def failed_row(model: str, backend: str, batch: int, error: str) -> BenchRow:
    return BenchRow(
        model=model, backend=backend, precision="fp16", protocol="ten-crop", measurement="network", batch_size=batch,
        error=error,
    )  # fmt: skip


CEILINGS = Ceilings(
    copy_gb_per_s=4312.7,
    matmul_tflop_per_s={"fp32": 51.3, "tf32": 402.0, "bf16": 781.4, "fp16": 768.9, "int8": 1490.0},
    upload_gb_per_s=53.1,
    decode_images_per_s_per_core=742.0,
    decode_images_per_s=9876.0,
    cores=16,
)
ENVIRONMENT = {
    "python": "3.12.4",
    "platform": "Linux-6.8.0-x86_64-with-glibc2.39",
    "cpu": "AMD EPYC 9654 96-Core Processor",
    "cores": 16,
    "packages": {"resnet-infer": "0.1.0", "torch": "2.15.0", "tensorrt": "10.13.2"},
    "gpus": [{"name": GPU, "memory_mib": 143_771, "compute_capability": "9.0", "cuda": "13.0"}],
}


def run_of(rows: Sequence[BenchRow], **changed: Any) -> BenchRun:
    """A run with these rows."""
    run = BenchRun(
        command="resnet-infer benchmark -m resnet50.tv_in1k --batch-size 1,8,64,256,512 --data 'my photos.zip' -o out",
        started="2026-11-25T02:00:00Z",
        environment=ENVIRONMENT,
        data={"name": "my photos.zip", "images": 5000, "mean_height": 400.2, "mean_width": 486.9},
        ceilings=None,
        rows=list(rows),
        seconds=1834.0,
    )
    return replace(run, **changed)


@pytest.fixture(scope="session")
def row() -> Callable[..., BenchRow]:
    """row(subject, protocol, measurement, batch, peak, **changed)."""
    return made_row


@pytest.fixture(scope="session")
def run_with() -> Callable[..., BenchRun]:
    """run_with(rows, **changed)."""
    return run_of


@pytest.fixture(scope="session")
def large() -> BenchRun:
    return large_run()


@pytest.fixture(scope="session")
def single() -> BenchRun:
    """One row on a CPU, on random pixels: no errors, no ceilings."""
    way = ("resnet18.onnx", "onnxruntime", "fp32", "")
    plain = made_row(way, "single-crop", "network", 8, 60.0, architecture="resnet18", device="cpu", top1_err=None)
    row = replace(plain, top1_err_ci95=None, top1_images=0, roof_fraction=0.0, roof_images_per_s=0.0, bound="")
    return run_of([row], data={}, environment=ENVIRONMENT | {"gpus": []})


@pytest.fixture(scope="session")
def all_failed() -> BenchRun:
    return run_of([failed_row("a.engine", "tensorrt", batch, "no TensorRT here") for batch in (1, 8)])


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A window of Chromium, driven by Playwright; skips where either is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path")
    with sync_api.sync_playwright() as playwright:
        patience_ms = 1_800_000  # a busy machine may stop everything for minutes; what is late is not wrong
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=patience_ms)
        context = started.new_context()
        context.set_default_timeout(patience_ms)
        yield context
        started.close()
