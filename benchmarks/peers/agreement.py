"""Do two sides see the same thing? Their outputs for the same photos compared, before anything is timed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAME_BEST = 0.95
"""Share of photos whose best class has to be the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far a side's outputs (N, K) are from the reference's."""

    difference: float
    """The largest, over the largest output of the reference; infinite where shapes differ or a value is no number."""
    same_best_class: float
    """Share of photos, 0..1."""

    def within(self, tolerance: float) -> bool:
        """Whether the two can be compared in speed."""
        return self.difference <= tolerance and self.same_best_class >= SAME_BEST


def agreement(reference_NK: NDArray[np.float32], other_NK: NDArray[np.float32]) -> Agreement:
    """Compare outputs of the same photos in the same order."""
    if reference_NK.shape != other_NK.shape or not np.isfinite(other_NK).all():
        return Agreement(difference=float("inf"), same_best_class=0.0)
    return Agreement(
        difference=float(np.abs(other_NK - reference_NK).max() / np.abs(reference_NK).max()),
        same_best_class=float((other_NK.argmax(1) == reference_NK.argmax(1)).mean()),
    )
