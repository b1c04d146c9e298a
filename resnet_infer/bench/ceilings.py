"""The machine's own ceilings, measured by the plainest operation that reaches each: a copy, a product, a decode."""

import io
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from resnet_infer.bench.rows import Ceilings
from resnet_infer.console import note
from resnet_infer.data.source import Memory
from resnet_infer.errors import ImageError, ResnetInferError
from resnet_infer.pipeline.decode import decode
from resnet_infer.pipeline.loader import Crew, cores, load_chunks
from resnet_infer.pipeline.worker import METHOD

COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices."""
SMALL, PATIENCE_S = 256, 0.5
"""A CPU's products begin with this side, which doubles while the next product should take less than the patience: a
type that a CPU has no instructions for is hundreds of times as slow as fp32, and a full product takes minutes."""
LEAST_S, PASSES = 0.3, 3
"""Every ceiling is the best of the runs in this time: it is what the machine can do, not what it does on average."""
SYNTHETIC = (375, 500)
"""(height, width) in pixels of the JPEG that is decoded where no images are given; ImageNet's commonest size."""


def measure_ceilings(device: torch.device, images: Sequence[bytes] = ()) -> Ceilings:
    """Measure this device and this machine's decoder, on encoded `images` or on a synthetic JPEG."""
    products = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    rates = {name: _matmul(device, dtype) for name, dtype in products.items()}
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        torch.backends.cuda.matmul.allow_tf32 = True
        rates["tf32"] = _matmul(device, torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = False
    if (int8 := _int8_matmul(device)) is not None:
        rates["int8"] = int8
    images = list(filter(_decodes, images)) or [synthetic_jpeg()]
    one_core = _decode(images)
    return Ceilings(
        copy_gb_per_s=_copy(device),
        matmul_tflop_per_s=rates,
        upload_gb_per_s=_upload(device) if device.type == "cuda" else 0.0,
        decode_images_per_s_per_core=one_core,
        decode_images_per_s=_decode_together(images, one_core),
        cores=cores(),
    )


def synthetic_jpeg(seed: int = 0, size: tuple[int, int] = SYNTHETIC, motif: int | None = None) -> bytes:
    """A picture with structure at every scale, as a JPEG file of about the size of a photograph's.

    `size` is (height, width) in pixels. Pictures of one `motif` share their coarse structure.
    """
    height, width = size
    own, shared = np.random.default_rng(seed), np.random.default_rng(motif)
    pixels = np.zeros((height, width, 3))
    for cells in (3, 9, 27, 81, 243):
        random = shared if cells <= 9 and motif is not None else own
        noise = random.standard_normal((cells, cells, 3)).astype(np.float32) * 64 / cells**0.3
        channels = [Image.fromarray(noise[:, :, c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        pixels += np.stack([np.asarray(channel) for channel in channels], axis=2)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def _best_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """The shortest of repeated runs."""
    work()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < LEAST_S:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _copy(device: torch.device) -> float:
    source = torch.randint(0, 256, (COPY_BYTES[device.type],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / _best_seconds(device, lambda: target.copy_(source)) / 1e9


def _matmul(device: torch.device, dtype: torch.dtype) -> float:
    def product(side: int) -> Callable[[], object]:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty(side, side, device=device, dtype=dtype)
        return lambda: torch.mm(a, b, out=out)

    return _rate(device, product)


def _int8_matmul(device: torch.device) -> float | None:
    """None where PyTorch has no such product: its operator for it is private."""

    def product(side: int) -> Callable[[], object]:
        a, b = (torch.randint(-127, 128, (side, side), dtype=torch.int8, device=device) for _ in range(2))
        b = b.t().contiguous().t()
        return lambda: torch._int_mm(a, b)

    try:
        return _rate(device, product)
    except RuntimeError:
        return None


def _rate(device: torch.device, product: Callable[[int], Callable[[], object]]) -> float:
    """Of the largest product that there is patience for, in 1e12 operations a second."""
    side = SIDE[device.type]
    if device.type == "cpu":
        side = SMALL
        while side < SIDE["cpu"] and 8 * _seconds(product(side)) < PATIENCE_S:
            side *= 2
    return 2 * side**3 / _best_seconds(device, product(side)) / 1e12


def _seconds(work: Callable[[], object]) -> float:
    """Of the second run, on a CPU: the first one also prepares."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _upload(device: torch.device) -> float:
    host = torch.empty(2**28, dtype=torch.uint8, pin_memory=True).random_()
    target = torch.empty(len(host), dtype=torch.uint8, device=device)
    return len(host) / _best_seconds(device, lambda: target.copy_(host, non_blocking=True)) / 1e9


def _decodes(image: bytes) -> bool:
    try:
        decode(image)
    except ImageError:  # the rows of the run name it
        return False
    return True


def _decode(images: Sequence[bytes]) -> float:
    """Images a second on one thread."""
    decode(images[0])
    begun = time.perf_counter()
    decoded = 0
    while (elapsed := time.perf_counter() - begun) < LEAST_S or decoded < len(images):
        decode(images[decoded % len(images)])
        decoded += 1
    return decoded / elapsed


def _decode_together(images: Sequence[bytes], one_core: float) -> float:
    """Images a second on all cores, in the worker processes of an evaluation; `one_core` is the rate on one.

    0 where processes cannot be had, or would run the caller's program again as they start.
    """
    if METHOD != "fork":
        return 0.0
    count = max(2 * cores(), int(LEAST_S * one_core * cores()))
    source = Memory("ceiling", [(str(number), images[number % len(images)]) for number in range(count)])
    rates = []
    try:
        with Crew(source) as crew:
            for _ in range(1 + PASSES):
                begun = time.perf_counter()
                chunks = load_chunks(crew, (), range(count), cores())
                decoded = sum(len(chunk.records) - len(chunk.errors) for chunk in chunks)
                rates.append(decoded / (time.perf_counter() - begun))
    except (ResnetInferError, OSError) as error:
        note(f"decoding on all cores was not measured: {error}")
        return 0.0
    return max(rates[1:])  # the first also starts the processes
