"""Devices by name, as PyTorch has them."""

import torch

from resnet_infer.errors import BackendError, UsageError


def torch_device(device: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:N; auto is CUDA where there is one.

    Raises BackendError if it is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device '{device}' is not one of auto, cpu, cuda, cuda:N") from error
    if found.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{device}' is not one of auto, cpu, cuda, cuda:N")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            raise BackendError(
                f"device '{device}' asked for, but PyTorch sees {count or 'no'} CUDA device{'s' * (count > 1)} here; "
                "use --device cpu, or see `resnet-infer env`"
            )
        found = torch.device("cuda", found.index or 0)
    return found


def check_tf32(device: torch.device) -> None:
    """Raise BackendError unless the device has TF32: NVIDIA GPUs from compute capability 8.0 on."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        raise BackendError(f"precision tf32 needs an NVIDIA GPU of compute capability 8.0 or later, not {device}")
