"""PyTorch on CPU or CUDA: channels_last, batch norm folded, fp32 that is fp32, compiled where that is asked for."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from resnet_infer.backends.base import BackendInfo, Compile, Normalize
from resnet_infer.errors import BackendError, OutOfMemory, UsageError
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.fold import fold_batch_norm
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


COMPILE_MODES: Mapping[Compile, str | None] = {
    "default": None,
    "max-autotune": "max-autotune-no-cudagraphs",
    "cuda-graphs": "reduce-overhead",
}


class TorchBackend:
    """A checkpoint on one device; serves both heads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: Precision = "fp32",
        *,
        compile: Compile | None = None,
        autocast: bool = False,
        fold: bool = True,
    ) -> None:
        """`fold` puts batch norm into the convolutions: the same function, rounded otherwise.

        Raises BackendError if the device is not there or has no TF32, UsageError for an unknown precision, an unknown
        way to compile, or autocast of a precision that it does not have.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)} for the torch backend")
        if compile not in (None, *COMPILE_MODES):
            raise UsageError(f"--compile '{compile}' is not one of {', '.join(COMPILE_MODES)}")
        if autocast and precision not in ("bf16", "fp16"):
            raise UsageError(f"--autocast is for --precision bf16 or fp16, not for {precision}")
        self.device = torch_device(device)
        if compile == "cuda-graphs" and self.device.type != "cuda":
            raise UsageError(f"--compile cuda-graphs is for CUDA devices, not for {self.device}")
        self._tf32 = precision == "tf32"
        if self._tf32:
            check_tf32(self.device)
        dtype = PRECISIONS[precision]
        net = build(checkpoint.manifest.spec, dict(checkpoint.state_dict))
        net = fold_batch_norm(net) if fold else net
        net.to(self.device, torch.float32 if autocast else dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        normalize = Normalize(checkpoint.manifest.preprocessing, self.device)
        heads: tuple[Head, ...] = ("pooled", "dense")
        self._forward: dict[Head, Callable[[Tensor], Tensor]] = {
            head: _Forward(with_head(net, head), normalize, dtype, autocast) for head in heads
        }
        self._compiled = compile is not None
        self._cuda_graphs = compile == "cuda-graphs"
        if compile:
            self._forward = {
                head: torch.compile(forward, dynamic=True if head == "dense" else None, mode=COMPILE_MODES[compile])
                for head, forward in self._forward.items()
            }
        self._largest: dict[tuple[Head, int, int], int] = {}
        self.info = BackendInfo(
            name="torch",
            device=str(self.device),
            precision=precision,
            heads=heads,
            artifact=checkpoint.name,
            versions={"torch": torch.__version__} | ({"autocast": "on"} if autocast else {}),
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
            x_BCHW = x_BCHW.to(self.device, non_blocking=True)
            run = self._run_compiled if self._compiled else self._run_eagerly
            scores = run(x_BCHW, head)
        except torch.OutOfMemoryError as error:
            raise _does_not_fit(x_BCHW) from error
        except RuntimeError as error:
            if "allocate memory" in str(error):  # what the CPU allocator says
                raise _does_not_fit(x_BCHW) from error
            raise
        return scores if scores.ndim == 4 else scores[:, :, None, None]

    def _run_eagerly(self, x_BCHW: Tensor, head: Head) -> Tensor:
        return self._forward[head](x_BCHW)

    def _run_compiled(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """Fills up the last batch of crops, which would be compiled for; too many sizes are an error, not eager."""
        batch, _, height, width = x_BCHW.shape
        if head == "pooled":
            full = self._largest[head, height, width] = max(batch, self._largest.get((head, height, width), 0))
            if batch < full:
                x_BCHW = torch.cat((x_BCHW, x_BCHW[:1].expand(full - batch, -1, -1, -1)))
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        if self._cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
            scores = self._forward[head](x_BCHW)
        scores = scores[:batch]
        return scores.clone() if self._cuda_graphs else scores  # the next run writes where this one did

    def close(self) -> None:
        """See Backend.close."""
        self._forward.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class _Forward(nn.Module):
    """uint8 tiles to float32 logits, in one graph where it is compiled."""

    def __init__(self, net: nn.Module, normalize: Normalize, dtype: torch.dtype, autocast: bool) -> None:
        super().__init__()
        self.net = net
        self.normalize = normalize
        self.dtype = dtype
        self.autocast = autocast

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.normalize(x_BCHW).to(self.dtype, memory_format=torch.channels_last)
        with torch.autocast(x_BCHW.device.type, self.dtype, enabled=self.autocast):
            scores: Tensor = self.net(x_BCHW)
        return scores.float()


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
