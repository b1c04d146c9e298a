"""The stopwatch: the network alone, with the way to the device, and the whole path from encoded images.

Each shape is warmed up by itself. Every repeat lasts as long as it is told and runs on random pixels or real images,
never on zeros, which take less power and so run at a higher clock. Nothing is clipped: all repeats are kept.

Shapes: B tiles, C is 3, H and W pixels.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from resnet_infer.backends.base import Backend
from resnet_infer.bench.energy import Meter
from resnet_infer.bench.rows import ShapeTime
from resnet_infer.errors import BackendError, OutOfMemory
from resnet_infer.pipeline.batching import Runs, batch_shares, plan
from resnet_infer.pipeline.render import distinct_tiles
from resnet_infer.pipeline.transfer import Upload, fetch
from resnet_infer.spec.protocols import Protocol, Size
from resnet_infer.spec.shapes import range_for

CPU = torch.device("cpu")
PERCENTILES = (50, 90, 95, 99)
WARM_UP_S = 0.5
"""For every shape, on a GPU: clocks rise, libraries choose kernels."""


@dataclass(frozen=True, slots=True)
class ShapeWork:
    """Tiles of one size and the passes that each needs, and how many an average image has."""

    height: int
    width: int
    runs: Runs
    tiles_per_image: float

    @property
    def passes_per_image(self) -> float:
        """Forward passes at this shape for one image."""
        return self.tiles_per_image * len(self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What was measured of one row."""

    images: float
    """Images in one repeat."""
    seconds: tuple[float, ...]
    """Every repeat."""
    first_run_s: float = 0.0
    batch_size: int = 0
    """As run, in tiles of the native size."""
    latencies_ms: tuple[float, ...] = ()
    """Every batch of every repeat, one pass of it."""
    shapes: tuple[ShapeTime, ...] = ()
    watts: float = 0.0
    """Mean power of the GPU in the repeats; 0 where unknown."""

    @property
    def images_per_s(self) -> float:
        """Median of the repeats."""
        return self.images / statistics.median(self.seconds)

    @property
    def cv_pct(self) -> float:
        """Standard deviation of the repeats over their mean, percent."""
        if len(self.seconds) < 2:
            return 0.0
        return 100 * statistics.stdev(self.seconds) / statistics.mean(self.seconds)

    @property
    def latency_ms(self) -> dict[str, float]:
        """Percentiles of the times of batches, one pass each, by linear interpolation."""
        if not self.latencies_ms:
            return {}
        values = torch.tensor(self.latencies_ms, dtype=torch.float64)
        return {f"p{p}": float(torch.quantile(values, p / 100)) for p in PERCENTILES}


def works(protocol: Protocol, sizes: Sequence[Size]) -> list[ShapeWork]:
    """What images of these (height, width) need of the network, on average, smallest shapes first."""
    counts: Counter[tuple[int, int, Runs]] = Counter()
    for size in sizes:
        for tile, runs in zip(distinct_tiles((protocol,), *size), plan((protocol,), *size), strict=True):
            counts[tile.height, tile.width, runs] += 1
    ordered = sorted(counts, key=lambda key: (key[0] * key[1], key[0], len(key[2])))
    return [ShapeWork(*key, counts[key] / len(sizes)) for key in ordered]


def measure_network(
    backend: Backend,
    protocol: Protocol,
    sizes: Sequence[Size],
    batch_size: int,
    native_size: int,
    *,
    repeats: int,
    seconds: float,
    upload: bool = False,
) -> Timing:
    """Time the network on random uint8 tiles that are on the device, or (`upload`) on the host, through to scores.

    An image's time is the sum over its shapes of batch time / batch x passes, so shapes weigh as the images need them.
    The batch is halved when memory runs out. Raises BackendError for a shape that the backend does not accept.
    """
    needed = works(protocol, sizes)
    while True:
        try:
            return _measure(backend, needed, batch_size, native_size**2, repeats, seconds, upload)
        except (OutOfMemory, torch.OutOfMemoryError) as error:
            if batch_size == 1:
                raise OutOfMemory(f"not even one tile fits the memory ({error})") from error
            batch_size //= 2
            if backend.info.device.startswith("cuda"):
                torch.cuda.empty_cache()


def _measure(
    backend: Backend, needed: Sequence[ShapeWork], batch: int, native: int, repeats: int, seconds: float, upload: bool
) -> Timing:
    steps = [_Step(backend, work, max(1, batch * native // (work.height * work.width)), upload) for work in needed]
    first = sum(step.first() for step in steps)
    shares = [step.work.tiles_per_image / step.batch * step.warm_up() for step in steps]
    total = sum(shares)
    counts = [
        max(1, round(seconds * share / total / step.expected_s)) for share, step in zip(shares, steps, strict=True)
    ]
    per_repeat: list[float] = []
    meter = Meter(steps[0].device)
    for _ in range(repeats):
        with meter.running():
            times = [step.repeat(count) for step, count in zip(steps, counts, strict=True)]
        per_repeat.append(sum(t / step.batch * step.work.tiles_per_image for t, step in zip(times, steps, strict=True)))
    if all(step.limited for step in steps):  # as by a graph of a fixed batch: what was run is what is said
        batch = max(1, max(step.batch * step.work.height * step.work.width // native for step in steps))
    images = max(1.0, batch / sum(work.passes_per_image for work in needed))
    return Timing(
        images=images,
        seconds=tuple(images * each for each in per_repeat),
        first_run_s=first,
        batch_size=batch,
        latencies_ms=tuple(ms for step in steps for ms in step.latencies_ms),
        shapes=tuple(_by_shape(steps)),
        watts=meter.watts,
    )


class _Step:
    """One shape: a batch of random tiles, and the passes that they need."""

    def __init__(self, backend: Backend, work: ShapeWork, batch: int, upload: bool) -> None:
        profile = range_for(backend.shapes, work.height, work.width)
        if profile is None:
            accepted = ", ".join(shape.describe() for shape in backend.shapes)
            raise BackendError(f"{backend.info.artifact} takes {accepted} pixels, not {work.width}x{work.height}")
        self.backend, self.work = backend, work
        self.batch = min(batch, backend.shapes[profile].max[0])
        self.limited = self.batch < batch
        self.device = torch.device(backend.info.device)
        generator = torch.Generator().manual_seed(work.height * 10_007 + work.width)
        shape = (self.batch, work.height, work.width, 3)
        self.tiles_BHWC = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        self.send = Upload(self.device) if upload else None
        if not upload:
            self.tiles_BHWC = self.tiles_BHWC.to(self.device)
        self.expected_s = 0.0
        self.latencies_ms: list[float] = []

    def run(self) -> Callable[[], Tensor]:
        """Enqueue one batch, every pass of it, as the path does; the call returned waits for its probabilities."""
        tiles_BHWC = self.tiles_BHWC
        if self.send:
            tiles_BHWC = self.send(tiles_BHWC.flatten()).view(tiles_BHWC.shape)
        _, probs_1BK = batch_shares(self.backend, self.work.runs, [tiles_BHWC])
        return fetch(probs_1BK)

    def first(self) -> float:
        """Seconds of the first run: what it compiles and tunes counts here and nowhere else."""
        begun = time.perf_counter()
        self.run()()
        return time.perf_counter() - begun

    def warm_up(self) -> float:
        """Run for half a second, or once on a CPU, which has no kernels to choose; keeps the seconds of the last."""
        least_s = WARM_UP_S if self.device.type == "cuda" else 0.0
        begun, last = time.perf_counter(), 0.0
        while not last or time.perf_counter() - begun < least_s:
            start = time.perf_counter()
            self.run()()
            last = time.perf_counter() - start
        self.expected_s = last
        return last

    def repeat(self, count: int) -> float:
        """Seconds of one batch, the mean of `count` in a row; keeps each one's own."""
        if self.device.type == "cuda":
            return self._repeat_cuda(count)
        begun = before = time.perf_counter()
        for _ in range(count):
            self.run()()
            now = time.perf_counter()
            self.latencies_ms.append(1000 * (now - before) / len(self.work.runs))
            before = now
        return (before - begun) / count

    def _repeat_cuda(self, count: int) -> float:
        """By events on the device, so that launches overlap with work as they do in use."""
        torch.cuda.synchronize(self.device)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self.device)
        marks[0].record(stream)
        waiting: list[Callable[[], Tensor]] = []
        for mark in marks[1:]:
            waiting.append(self.run())
            mark.record(stream)
            if len(waiting) > 2:
                waiting.pop(0)()
        torch.cuda.synchronize(self.device)
        passes = len(self.work.runs)
        self.latencies_ms += [a.elapsed_time(b) / passes for a, b in pairwise(marks)]
        total_ms: float = marks[0].elapsed_time(marks[-1])
        return total_ms / 1000 / count


def _by_shape(steps: Sequence[_Step]) -> Iterator[ShapeTime]:
    """One record a shape, whichever views it serves."""
    of_shape: dict[tuple[int, int, int], list[_Step]] = {}
    for step in steps:
        of_shape.setdefault((step.work.height, step.work.width, step.batch), []).append(step)
    for (height, width, batch), alike in of_shape.items():
        yield ShapeTime(
            height=height,
            width=width,
            batch=batch,
            tiles_per_image=sum(step.work.passes_per_image for step in alike),
            ms=statistics.median(ms for step in alike for ms in step.latencies_ms),
        )


def measure_path(
    run: Callable[[], int],
    *,
    repeats: int,
    device: torch.device = CPU,
    before: Callable[[], None] = lambda: None,
    warm_up: bool = True,
) -> Timing:
    """Time the whole path: `run` scores all images once and gives their number; `before` goes ahead, not timed.

    The power is that of `device`.
    """
    begun = time.perf_counter()
    if warm_up:
        run()
    first = time.perf_counter() - begun
    seconds, images, meter = [], 0, Meter(device)
    for _ in range(repeats):
        before()
        with meter.running():
            start = time.perf_counter()
            images = run()
            seconds.append(time.perf_counter() - start)
    return Timing(images=images, seconds=tuple(seconds), first_run_s=first, watts=meter.watts)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yield a call that gives the peak since now in MiB: of CUDA tensors, or of this process's resident memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) / 2**20
        return
    try:
        with open("/proc/self/clear_refs", "w") as file:  # Linux: forget the peak so far
            file.write("5")
    except OSError:
        pass
    yield _resident_peak


def _resident_peak() -> float:
    """0 where the system does not tell."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
