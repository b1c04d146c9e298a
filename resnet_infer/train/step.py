"""One iteration of SGD on a batch: forward, backward, update.

bf16 is autocast's: weights, their update and batch-norm statistics stay fp32. Activations have channels innermost. On a
CUDA device the whole step can be captured once and replayed, which spares the small CIFAR networks the hundreds of
launches that would cost more than the work.

Shapes: B images, H and W pixels, C is 3, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_infer.backends.base import Normalize
from resnet_infer.errors import CheckpointError
from resnet_infer.train.augment import colour_basis
from resnet_infer.train.images import Batch
from resnet_infer.train.recipe import Recipe

Step = Callable[[Batch, float], tuple[Tensor, Tensor]]
"""step(batch, learning rate): loss, and the share of the batch that was classified wrongly, before the update."""

WARM_UPS = 3
"""Steps before a capture, in which libraries choose their kernels; their effect is undone."""


def resolved_precision(recipe: Recipe, device: torch.device) -> str:
    """fp32 or bf16: what `auto` is on this device. bf16 where its arithmetic is in hardware."""
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if has.get("amx_bf16") or has.get("avx512_bf16") else "fp32"


def sgd(net: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """The optimizer, with weight decay where the recipe wants it."""
    spared = [p for p in net.parameters() if recipe.decay == "weights" and p.ndim == 1]
    decayed = [p for p in net.parameters() if recipe.decay == "all" or p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=recipe.lr, momentum=recipe.momentum, fused=True
    )


def momentum_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The momentum of every parameter by its name; none before the first step, or if the recipe has none."""
    held = {name: optimizer.state.get(parameter, {}) for name, parameter in net.named_parameters()}
    return {name: state["momentum_buffer"] for name, state in held.items() if state.get("momentum_buffer") is not None}


def restore_momentum(
    net: nn.Module, optimizer: torch.optim.Optimizer, momentum: Mapping[str, Tensor], *, needed: bool
) -> None:
    """The inverse of `momentum_of`; raises CheckpointError if it is not every parameter's, where it is `needed`."""
    expected = {name: parameter.shape for name, parameter in net.named_parameters()} if needed else {}
    if {name: buffer.shape for name, buffer in momentum.items()} != expected:
        raise CheckpointError("the run's state is damaged: its momentum is not that of the weights")
    for name, parameter in net.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer


class EagerStep:
    """The step as PyTorch runs it, operation by operation."""

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, normalize: Normalize, recipe: Recipe) -> None:
        self.net = net
        self.optimizer = optimizer
        self.normalize = normalize
        self.recipe = recipe
        device = next(net.parameters()).device
        self._colour_33 = colour_basis(recipe.colour).to(device)  # here, as a graph takes no copy from the host

    def __call__(self, batch: Batch, lr: float) -> tuple[Tensor, Tensor]:
        """See Step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return self.run(batch)

    def run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The step at the learning rate that is set."""
        x_BCHW, classes_B, normal_B3 = batch
        x_BCHW = self.normalize(x_BCHW)
        if self.recipe.colour:  # RGB in [0, 1], divided by a std of 1
            x_BCHW = x_BCHW + (normal_B3 @ self._colour_33)[:, :, None, None]
        with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits_BK = self.net(x_BCHW)
        logits_BK = logits_BK.float()
        loss = F.cross_entropy(logits_BK, classes_B)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach(), (logits_BK.argmax(1) != classes_B).float().mean()


class CapturedStep:
    """The step as one CUDA graph, for batches of one shape."""

    def __init__(self, step: EagerStep) -> None:
        self.step = step
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch, lr: float) -> tuple[Tensor, Tensor]:
        """See Step; the two results are overwritten by the next call."""
        if self._graph is None:
            self._capture(batch, lr)
            assert self._graph is not None
        for own, given in zip(self._batch, batch, strict=True):
            own.copy_(given, non_blocking=True)
        self._lr.fill_(lr)
        self._graph.replay()
        return self._results

    def _capture(self, batch: Batch, lr: float) -> None:
        x_BCHW, classes_B, normal_B3 = batch
        self._batch = x_BCHW.clone(), classes_B.clone(), normal_B3.clone()
        self._lr = torch.tensor(lr, device=x_BCHW.device)
        optimizer = self.step.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self._lr
        state = [*self.step.net.parameters(), *self.step.net.buffers()]
        momentum = {name: buffer.clone() for name, buffer in momentum_of(self.step.net, optimizer).items()}
        before = [tensor.detach().clone() for tensor in state]
        device = x_BCHW.device  # said everywhere: a stream is else of the current device, a graph's of the first ever
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.step.run(self._batch)
        torch.cuda.current_stream(device).wait_stream(side)
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
            for name, buffer in momentum_of(self.step.net, optimizer).items():
                buffer.copy_(momentum.get(name, torch.zeros_like(buffer)))
        optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            self._results = self.step.run(self._batch)
        self._graph = graph
