"""A forward pass recorded in a CUDA graph for each input shape, and replayed: for batches that are bound by launches.

Shapes: B tiles, C is 3, H and W pixels, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_GRAPHS = 16
"""Shapes that are recorded; others are launched one by one."""


@dataclass(slots=True)
class Recorded:
    """Calls `forward`, which must do the same for the same shape, without waiting for the device."""

    forward: Callable[[Tensor], Tensor]
    _graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = field(default_factory=dict)
    """By shape: the graph, its input, and its result."""

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to what `forward` gives, which is the caller's to keep."""
        shape = tuple(x_BCHW.shape)
        if shape not in self._graphs:
            if len(self._graphs) >= MAX_GRAPHS:
                return self.forward(x_BCHW)
            self._graphs[shape] = self._record(x_BCHW)
        graph, x, scores = self._graphs[shape]
        x.copy_(x_BCHW)
        graph.replay()
        return scores.clone()

    def _record(self, x_BCHW: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """The first runs choose kernels and load them, which cannot be recorded."""
        x = x_BCHW.clone(memory_format=torch.channels_last)
        beside = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(beside):
            for _ in range(2):
                self.forward(x)
            beside.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=beside):
                scores = self.forward(x)
        torch.cuda.current_stream(x.device).wait_stream(beside)
        return graph, x, scores
