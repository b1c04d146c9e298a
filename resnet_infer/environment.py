"""What the numbers were measured on: machine, versions, accelerators."""

import os
import platform
from importlib import metadata
from typing import Any

from resnet_infer import __version__

PACKAGES = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime",
    "tensorrt", "tensorrt-rtx", "numpy", "pillow", "safetensors",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Machine, versions of the packages that are installed, and GPUs, as plain values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {"resnet-infer": __version__} | {name: version for name in PACKAGES if (version := _version(name))},
        "gpus": gpus(),
    }


def cpu_name() -> str:
    """The processor's model name."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def gpus() -> list[dict[str, Any]]:
    """The CUDA devices that PyTorch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "name": gpu.name,
            "memory_mib": gpu.total_memory // 2**20,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "cuda": torch.version.cuda,
        }
        for gpu in found
    ]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
