"""Several processes on one batch: batch norm over all of it.

Each process takes an equal share of every batch, gradients are averaged, and batch-norm statistics are those of the
whole batch unless the recipe says otherwise. The paper trained on two (CIFAR-10) or eight GPUs with statistics of their
own: `--no-sync-bn` with as many processes.

Shapes: B images of this process, C channels, H and W pixels.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronised(net: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch-norm statistics over all processes; weights and their names stay."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        return converted
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                synced = SyncedBatchNorm(child.num_features, child.eps, child.momentum)
                synced.load_state_dict(child.state_dict())
                setattr(parent, name, synced)
    return net


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, which are of one size; PyTorch's own needs CUDA."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> the same."""
        if not self.training:
            return super().forward(x_BCHW)
        own_var_C, own_mean_C = torch.var_mean(x_BCHW.float(), (0, 2, 3), correction=0)
        total_2C: Tensor = _Sum.apply(torch.stack((own_mean_C, own_var_C + own_mean_C**2)))
        mean_C, square_C = total_2C / dist.get_world_size()
        var_C = square_C - mean_C**2
        self._remember(mean_C.detach(), var_C.detach(), x_BCHW.numel() // x_BCHW.shape[1] * dist.get_world_size())
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        y_BCHW = torch.addcmul((self.bias - mean_C * scale_C)[:, None, None], x_BCHW.float(), scale_C[:, None, None])
        return y_BCHW.to(x_BCHW.dtype)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, var_C: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(var_C * count / (count - 1), self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
