"""Step `machine`: what the machine allows, and what it is."""

import subprocess
from typing import Any

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.pictures import pictures, spread
from resnet_infer.bench import ceilings

ASKED = "name,driver_version,pstate,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"


def machine(context: Context) -> None:
    """Measure the ceilings on the pictures' files, and complete the environment."""
    source = spread(pictures(context), 32)
    files = [file for file in map(source.read, source.samples) if isinstance(file, bytes)]
    found = ceilings.measure_ceilings(context.device, files)
    context.results.set_run(ceilings=found, environment={**context.results.run.environment, **details(context)})
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in found.matmul_tflop_per_s.items())
    context.results.log(f"  copy {found.copy_gb_per_s:.0f} GB/s, products in TFLOP/s: {rates}")
    context.results.log(
        f"  upload {found.upload_gb_per_s:.1f} GB/s, decode {found.decode_images_per_s_per_core:.0f} images/s a core, "
        f"{found.decode_images_per_s:.0f} on {found.cores} cores"
    )


def details(context: Context) -> dict[str, Any]:
    """What `environment` does not say of a GPU."""
    if not context.cuda:
        return {}
    gpu = torch.cuda.get_device_properties(context.device)
    return {
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "multiprocessors": gpu.multi_processor_count,
        "l2_mib": gpu.L2_cache_size // 2**20,
        "nvidia_smi": nvidia_smi(),
    }


def nvidia_smi() -> dict[str, str] | str:
    """Driver, clocks and power of the first GPU, or why they are not known."""
    try:
        command = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"not known: {error}"
    return dict(zip(ASKED.split(","), (word.strip() for word in done.stdout.split("\n")[0].split(",")), strict=False))
