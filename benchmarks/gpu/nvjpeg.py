"""Part of step `levers`: what torchvision's nvJPEG decoder does to memory that was freed, and how fast it is."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.gpu.context import Context
from benchmarks.gpu.pictures import ready, spread
from resnet_infer.pipeline.decode import jpeg_header

ROUNDS, FILES = 20, 16
COUNTS = (1, 16, 64, 128, 256)
"""Files a call."""
FILL = 7
SIDE, PRODUCTS = 8192, 10
"""Of the matrices whose products keep the stream busy."""


def nvjpeg(context: Context) -> None:
    """Rounds in which queued sums of freed tensors came out wrong, and images a second by files a call."""
    if not context.cuda:
        context.check("nvJPEG", skipped="needs a GPU")
        return
    source = spread(ready(context), max(COUNTS))
    read = [source.read(sample) for sample in source.samples]
    files = [
        torch.frombuffer(bytearray(file), dtype=torch.uint8)
        for file in read
        if isinstance(file, bytes) and jpeg_header(file)
    ]
    try:
        for drained in (False, True):
            words = "drained first" if drained else "busy"
            what = f"nvJPEG, stream {words}: rounds of {ROUNDS} that overwrote memory"
            context.check(what, overwritten(context, files[:FILES], drained), 0 if drained else None, at_most=True)
        for count in COUNTS:
            context.check(f"nvJPEG, {count} files a call: images/s", rate(context, files[:count]))
    except RuntimeError as error:
        context.check("nvJPEG", error=" ".join(str(error).split())[:300])


def overwritten(context: Context, files: Sequence[Tensor], drained: bool) -> int:
    """The decoder itself, without the care that `decode_jpegs` takes."""
    busy = torch.randn(SIDE, SIDE, device=context.device, dtype=torch.bfloat16)
    wrong = 0
    for _ in range(ROUNDS):
        sizes = [jpeg_header(file.numpy().tobytes()) for file in files]
        held = [torch.full((3, *size), FILL, dtype=torch.uint8, device=context.device) for size in sizes if size]
        expected = [FILL * each.numel() for each in held]
        torch.cuda.synchronize(context.device)
        for _ in range(PRODUCTS):
            busy = (busy @ busy).clamp(-1, 1)
        sums = [each.sum(dtype=torch.int64) for each in held]
        del held
        if drained:
            torch.cuda.current_stream(context.device).synchronize()
        decode_jpeg(list(files), mode=ImageReadMode.RGB, device=context.device)
        wrong += any(int(each) != right for each, right in zip(sums, expected, strict=True))
    return wrong


def rate(context: Context, files: Sequence[Tensor], seconds: float = 0.5) -> float:
    """Images a second."""
    decode_jpeg(list(files), mode=ImageReadMode.RGB, device=context.device)
    torch.cuda.synchronize(context.device)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        decode_jpeg(list(files), mode=ImageReadMode.RGB, device=context.device)
        done += len(files)
    torch.cuda.synchronize(context.device)
    return done / (time.perf_counter() - begun)
