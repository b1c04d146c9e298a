"""PyTorch on CPU or CUDA: channels_last, batch norm folded, fp32 that is fp32, compiled where that is asked for.

In half precision on CUDA the network's convolutions have what follows them inside (fused.py), without a compiler.
"""

from collections.abc import Callable, Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from resnet_infer.backends.base import BackendInfo, Compile, Normalize
from resnet_infer.backends.devices import check_tf32, torch_device
from resnet_infer.backends.fused import FusedResNet, fused_resnet
from resnet_infer.backends.recorded import Recorded
from resnet_infer.errors import BackendError, OutOfMemory, UsageError
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.fold import fold_batch_norm
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import build
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.shapes import ANY, ShapeRange

PRECISIONS: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
COMPILE_MODES: Mapping[Compile, str | None] = {
    "default": None,
    "max-autotune": "max-autotune-no-cudagraphs",
}


NO_MEMORY = ("allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
"""What the CPU's allocator, cuDNN and cuBLAS say."""


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
        fused: bool = True,
    ) -> None:
        """`fold` puts batch norm into the convolutions: the same function, rounded otherwise. `fused` joins, on CUDA
        in half precision and without a compiler or autocast, each convolution with what follows it.

        Raises BackendError if the device is not there or has no TF32, UsageError for an unknown precision, an unknown
        way to compile, or autocast of a precision that it does not have.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)} for the torch backend")
        if compile not in (None, *get_args(Compile)):
            raise UsageError(f"--compile '{compile}' is not one of {', '.join(get_args(Compile))}")
        if autocast and precision not in ("bf16", "fp16"):
            raise UsageError(f"--autocast is for --precision bf16 or fp16, not for {precision}")
        self.device = torch_device(device)
        self._recorded = compile == "cuda-graphs"
        if self._recorded and self.device.type != "cuda":
            raise UsageError(f"--compile cuda-graphs is for CUDA devices, not for {self.device}")
        self._tf32 = precision == "tf32"
        if self._tf32:
            check_tf32(self.device)
        dtype = PRECISIONS[precision]
        net = build(checkpoint.manifest.spec, dict(checkpoint.state_dict))
        net = fold_batch_norm(net) if fold else net
        net.to(self.device)
        normalize = Normalize(checkpoint.manifest.preprocessing, self.device)
        self._compiled = compile in COMPILE_MODES
        joined: FusedResNet | None = None
        if fused and fold and not autocast and not self._compiled:
            joined = fused_resnet(net, normalize, dtype, checkpoint.manifest.preprocessing.crop)
        if joined is None:
            net.to(torch.float32 if autocast else dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        heads: tuple[Head, ...] = ("pooled", "dense")
        self._forward: dict[Head, Callable[[Tensor], Tensor]] = {
            head: _Forward(with_head(joined or net, head), None if joined else normalize, dtype, autocast)
            for head in heads
        }
        if self._recorded:
            self._forward["pooled"] = Recorded(self._forward["pooled"])
        elif self._compiled:
            self._forward = {
                head: torch.compile(forward, dynamic=True if head == "dense" else None, mode=COMPILE_MODES[compile])  # type: ignore[index]
                for head, forward in self._forward.items()
            }
        self._largest: dict[tuple[int, int], int] = {}
        self.info = BackendInfo(
            name="torch",
            device=str(self.device),
            precision=precision,
            heads=heads,
            artifact=checkpoint.name,
            versions={"torch": torch.__version__} | ({"autocast": "on"} if autocast else {}),
            fusion="fused" if joined else "compiled" if self._compiled else "eager",
        )
        side = checkpoint.manifest.preprocessing.crop
        self.shapes: tuple[ShapeRange, ...] = (ShapeRange(min=(1, 1, 1), opt=(1, side, side), max=(ANY, ANY, ANY)),)

    @torch.inference_mode()
    def run(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """See Backend.run."""
        if self.device.type == "cuda":  # set for every run: two backends of one process may differ
            torch.backends.cuda.matmul.allow_tf32 = self._tf32
            torch.backends.cudnn.allow_tf32 = self._tf32
        if self._recorded and head == "dense":
            raise UsageError(
                "--compile cuda-graphs records one size, and whole images have many; use it for crops, or leave it out"
            )
        try:
            x_BCHW = x_BCHW.to(self.device, non_blocking=True)
            run = self._run_filled if self._compiled or self._recorded else self._run
            scores = run(x_BCHW, head)
        except torch.OutOfMemoryError as error:
            raise _does_not_fit(x_BCHW) from error
        except RuntimeError as error:
            if any(words in str(error) for words in NO_MEMORY):
                raise _does_not_fit(x_BCHW) from error
            raise
        return scores if scores.ndim == 4 else scores[:, :, None, None]

    def _run(self, x_BCHW: Tensor, head: Head) -> Tensor:
        return self._forward[head](x_BCHW)

    def _run_filled(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """The size of a batch is part of what is compiled or recorded, so a smaller one is filled up: crops to the
        largest batch of their size that has fitted, and whole images to two, since a batch of one is compiled for.

        Raises BackendError where torch.compile would go on eagerly, for too many sizes.
        """
        batch, _, height, width = x_BCHW.shape
        full = max(batch, self._largest.get((height, width), 0) if head == "pooled" else 2)
        if batch < full:
            x_BCHW = torch.cat((x_BCHW, x_BCHW[:1].expand(full - batch, -1, -1, -1)))
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        try:
            with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
                scores = self._forward[head](x_BCHW)
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise BackendError(
                f"{self.info.artifact}: torch.compile has compiled for all the sizes that it may, the last "
                f"{width}x{height}; leave out --compile"
            ) from error
        if head == "pooled":
            self._largest[height, width] = full
        return scores[:batch]

    def close(self) -> None:
        """See Backend.close."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # what is recorded may be running
        self._forward.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class _Forward(nn.Module):
    """uint8 tiles to float32 logits, in one graph where it is compiled."""

    def __init__(self, net: nn.Module, normalize: Normalize | None, dtype: torch.dtype, autocast: bool) -> None:
        """A network without `normalize` takes pixels as they are."""
        super().__init__()
        self.net = net
        self.normalize = normalize
        self.dtype = dtype
        self.autocast = autocast

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.normalize is not None:
            x_BCHW = self.normalize(x_BCHW).to(self.dtype, memory_format=torch.channels_last)
        with torch.autocast(x_BCHW.device.type, self.dtype, enabled=self.autocast):
            scores: Tensor = self.net(x_BCHW)
        return scores.float()


def _does_not_fit(x_BCHW: Tensor) -> OutOfMemory:
    batch, _, height, width = x_BCHW.shape
    return OutOfMemory(f"a batch of {batch} at {width}x{height} does not fit the memory of {x_BCHW.device}")
