"""Between the pipeline and a graph: tiles as the graph takes them, and its scores as logits.

Shapes: B tiles, C is 3, H and W pixels, K classes, h and w positions of the score map.
"""

import torch
from torch import Tensor

from resnet_infer.backends.base import Normalize
from resnet_infer.errors import BackendError
from resnet_infer.spec.manifest import Manifest

TINY = float(torch.finfo(torch.float32).tiny)


class GraphInput:
    """Tiles to a graph's input."""

    def __init__(self, manifest: Manifest, device: torch.device | str, dtype: torch.dtype) -> None:
        self._format, self._dtype = manifest.input, dtype
        self._normalize = Normalize(manifest.preprocessing, device)
        self._swap = manifest.adopted and manifest.preprocessing.channel_order == "bgr"  # ours take RGB bytes

    @property
    def channels_last(self) -> bool:
        """Whether it is (batch, height, width, 3)."""
        return self._format.endswith("-nhwc")

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """uint8 RGB (B, 3, H, W), on the device, to a contiguous batch of the graph's layout and type."""
        if self._format.startswith("uint8"):
            x = x_BCHW.flip(1) if self._swap else x_BCHW
        else:
            x = self._normalize(x_BCHW).to(self._dtype)
        return (x.permute(0, 2, 3, 1) if self.channels_last else x).contiguous()


class GraphScores:
    """A graph's scores to logits."""

    def __init__(self, manifest: Manifest, artifact: str) -> None:
        self._kind, self._artifact = manifest.output, artifact
        self._seen = manifest.output == "logits"

    def __call__(self, scores_BKhw: Tensor) -> Tensor:
        """float32 (B, K, h, w) whose softmax is the graph's own probabilities, where it gives those.

        Raises BackendError if the first batch of what is called probabilities is none.
        """
        if self._kind == "logits":
            return scores_BKhw
        if not self._seen:
            self._check(scores_BKhw)
            self._seen = True
        if self._kind == "log-probabilities":
            return scores_BKhw
        return scores_BKhw.clamp(min=TINY).log()

    def _check(self, scores_BKhw: Tensor) -> None:
        p_BKhw = scores_BKhw.exp() if self._kind == "log-probabilities" else scores_BKhw
        sums, low, high = p_BKhw.sum(1), float(p_BKhw.min()), float(p_BKhw.max())
        if low < -1e-3 or high > 1.01 or (sums - 1).abs().max() > 0.5:  # NaN is another fault, and found elsewhere
            raise BackendError(
                f"{self._artifact}: its scores are called {self._kind} and are none: they are between {low:.3g} and "
                f"{high:.3g} and add up to {float(sums.flatten()[0]):.3g}; give --scores logits if they are logits"
            )
