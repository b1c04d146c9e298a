"""Clocks, power and load of the GPU during the run, sampled by nvidia-smi into gpu.csv; nothing is set or reset."""

import csv
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

FILE = "gpu.csv"
FIELDS = ("timestamp", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "utilization.gpu")
EVERY_MS = 500


@contextmanager
def sampled(folder: Path) -> Iterator[None]:
    """Sample while the body runs, where there is an nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    command = [
        "nvidia-smi",
        f"--query-gpu={','.join(FIELDS)}",
        "--format=csv,noheader,nounits",
        f"--loop-ms={EVERY_MS}",
    ]
    with (folder / FILE).open("w", encoding="utf-8") as file:
        file.write(",".join(FIELDS) + "\n")
        file.flush()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def between(folder: Path, spans: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Median clock in MHz and power in W, largest temperature in degrees C and median load in percent, for each named
    span of Unix time."""
    samples = list(_samples(folder / FILE))
    found = {}
    for name, (start, end) in spans.items():
        within: Sequence[tuple[float, ...]] = [values for at, *values in samples if start <= at <= end]  # type: ignore[misc]
        if within:
            sm, _, power, temperature, load = zip(*within, strict=True)
            found[name] = {
                "sm_mhz": statistics.median(sm),
                "power_w": statistics.median(power),
                "temperature_c": max(temperature),
                "load_pct": statistics.median(load),
            }
    return found


def _samples(path: Path) -> Iterator[tuple[float, ...]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for row in csv.reader(file):
            try:
                at = datetime.strptime(row[0].strip(), "%Y/%m/%d %H:%M:%S.%f").timestamp()
                yield (at, *(float(value) for value in row[1:6]))
            except (ValueError, IndexError):
                continue  # the heading, a line that is not whole, a value that this card does not tell
