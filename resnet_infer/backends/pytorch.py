"""PyTorch on CPU or CUDA: channels_last, fp32 that is fp32, TF32 where it is asked for, bf16 or fp16 throughout."""

from collections.abc import Mapping

import torch
from torch import Tensor

from resnet_infer.backends.base import BackendInfo, Normalize
from resnet_infer.errors import BackendError, OutOfMemory, UsageError
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import build
from resnet_infer.precisions import Precision
from resnet_infer.shapes import ANY, ShapeRange
from resnet_infer.specs import Head

PRECISIONS: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class TorchBackend:
    """A checkpoint on one device; serves both heads."""

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", precision: Precision = "fp32") -> None:
        """Raises BackendError if the device is not there or has no TF32, UsageError for an unknown precision."""
        if precision not in PRECISIONS:
            raise UsageError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)} for the torch backend")
        self.device = torch_device(device)
        self.dtype = PRECISIONS[precision]
        self._tf32 = precision == "tf32"
        if self._tf32:
            check_tf32(self.device)
        net = build(checkpoint.manifest.spec, dict(checkpoint.state_dict))
        self._net = net.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        heads: tuple[Head, ...] = ("pooled", "dense")
        self._heads = {head: with_head(self._net, head) for head in heads}
        self._normalize = Normalize(checkpoint.manifest.preprocessing, self.device)
        self.info = BackendInfo(
            name="torch",
            device=str(self.device),
            precision=precision,
            heads=heads,
            artifact=checkpoint.name,
            versions={"torch": torch.__version__},
        )
        side = checkpoint.manifest.preprocessing.crop
        self.shapes: tuple[ShapeRange, ...] = (ShapeRange(min=(1, 1, 1), opt=(1, side, side), max=(ANY, ANY, ANY)),)

    @torch.inference_mode()
    def run(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """See Backend.run."""
        if self.device.type == "cuda":  # set for every run: two backends of one process may differ
            torch.backends.cuda.matmul.allow_tf32 = self._tf32
            torch.backends.cudnn.allow_tf32 = self._tf32
        try:
            x_BCHW = self._normalize(x_BCHW.to(self.device, non_blocking=True))
            x_BCHW = x_BCHW.to(self.dtype, memory_format=torch.channels_last)
            scores: Tensor = self._heads[head](x_BCHW).float()
        except torch.OutOfMemoryError as error:
            raise _does_not_fit(x_BCHW) from error
        except RuntimeError as error:
            if "allocate memory" in str(error):  # what the CPU allocator says
                raise _does_not_fit(x_BCHW) from error
            raise
        return scores if scores.ndim == 4 else scores[:, :, None, None]

    def close(self) -> None:
        """See Backend.close."""
        self._heads.clear()
        del self._net
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


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


def _does_not_fit(x_BCHW: Tensor) -> OutOfMemory:
    batch, _, height, width = x_BCHW.shape
    return OutOfMemory(f"a batch of {batch} at {width}x{height} does not fit the memory of {x_BCHW.device}")
