"""The check of every backend on a GPU finds what recorded runs get wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


class Means:
    """Scores are the means of an image's channels."""

    def run(self, x_BCHW: Tensor, head: str) -> Tensor:
        return x_BCHW.float().mean((2, 3))


class StaleInput(Means):
    """Replays its first batch."""

    def run(self, x_BCHW: Tensor, head: str) -> Tensor:
        self.x_BCHW = getattr(self, "x_BCHW", x_BCHW)
        return super().run(self.x_BCHW, head)


class StaleOutput(Means):
    """Writes every batch's scores where the last one's are."""

    def run(self, x_BCHW: Tensor, head: str) -> Tensor:
        scores = super().run(x_BCHW, head)
        self.scores = getattr(self, "scores", scores)
        return self.scores.copy_(scores)


@pytest.mark.parametrize("stale", [StaleInput, StaleOutput])
def test_a_stale_buffer_is_found(in_turns: Callable[..., None], stale: type[Any]) -> None:
    x_BCHW = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    in_turns(Means(), Means(), x_BCHW, "pooled", rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError, match="not close"):
        in_turns(stale(), Means(), x_BCHW, "pooled", rtol=1e-4, atol=1e-4)


def test_a_batch_that_its_mirror_image_cannot_be_told_from_shows_nothing(in_turns: Callable[..., None]) -> None:
    with pytest.raises(AssertionError):
        in_turns(Means(), Means(), torch.ones(4, 3, 8, 8, dtype=torch.uint8), "pooled", rtol=1e-4, atol=1e-4)
