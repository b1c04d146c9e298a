"""What a classifier's probabilities say beyond its errors: each class, confusions, calibration, likelihood.

Calibration is that of Guo et al. 2017 (arXiv 1706.04599): expected calibration error over 15 bins of equal width.
ReaL labels are those of Beyer et al. 2020 (arXiv 2006.07159): an image may have several right classes, or none.

Shapes: N images, K classes.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resnet_infer.evaluation.verdicts import Verdicts
from resnet_infer.predictions.records import TOP_K

BINS = 15
"""Of the expected calibration error: those of Guo et al.; bin m holds confidences in ((m - 1) / 15, m / 15]."""
SMALLEST = 1e-37
"""A probability below it is taken for it in the likelihood: float32 has few bits left there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The images whose confidence, the probability of the best class, is in (low, high]; all in percent."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean over the bin's images; 0 where it has none."""
    accuracy: float


class ClassificationMetrics:
    """Counts and sums over images of one model under one protocol; the order of images does not matter.

    A tie with the true class is an error, as in `verdicts.rank_of`, and its prediction then another class.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.images = 0
        self.real_images = 0
        """Images with at least one ReaL label."""
        self.real_errors = 0
        self._confusion: Counter[tuple[int, int]] = Counter()
        self._class_images = torch.zeros(classes, dtype=torch.int64)
        self._class_top5_errors = torch.zeros(classes, dtype=torch.int64)
        self._bin_images = torch.zeros(BINS, dtype=torch.int64)
        self._bin_right = torch.zeros(BINS, dtype=torch.int64)
        self._bin_confidence = torch.zeros(BINS, dtype=torch.float64)
        self._nll = 0.0
        self._brier = 0.0

    def add(self, truth_N: Tensor, found: Verdicts) -> None:
        """Count images, by their true classes and what was `judged` of them with metrics."""
        rank_N, p_N, predicted_N = found.rank_N, found.truth_prob_N, found.predicted_N
        confidence_N = found.top_probs_Nk[:, 0]
        self.images += len(truth_N)
        self.real_images += int((found.real_N >= 0).sum())
        self.real_errors += int((found.real_N == 0).sum())
        self._confusion.update(zip(truth_N.tolist(), predicted_N.tolist(), strict=True))
        self._class_images += truth_N.bincount(minlength=self.classes)
        self._class_top5_errors += truth_N[rank_N >= TOP_K].bincount(minlength=self.classes)
        bin_N = ((confidence_N * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        self._bin_images += bin_N.bincount(minlength=BINS)
        self._bin_right += bin_N[rank_N == 0].bincount(minlength=BINS)
        self._bin_confidence += bin_N.bincount(confidence_N, minlength=BINS)
        self._nll -= float(p_N.clamp(min=SMALLEST).log().sum())
        self._brier += float((found.squares_N - 2 * p_N + 1).sum())

    def merge(self, other: "ClassificationMetrics") -> None:
        """Add the images of another, as of another process. Raises ValueError if it has other classes."""
        if other.classes != self.classes:
            raise ValueError(f"metrics of {other.classes} classes cannot join those of {self.classes}")
        self._confusion.update(other._confusion)
        for name in ("images", "real_images", "real_errors", "_nll", "_brier"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("_class_images", "_class_top5_errors", "_bin_images", "_bin_right", "_bin_confidence"):
            getattr(self, name).add_(getattr(other, name))

    def bins(self) -> list[Bin]:
        """The reliability diagram, from the least confident images to the most."""
        return [
            Bin(
                low=100 * number / BINS,
                high=100 * (number + 1) / BINS,
                images=images,
                confidence=100 * confidence / max(images, 1),
                accuracy=100 * right / max(images, 1),
            )
            for number, (images, right, confidence) in enumerate(
                zip(self._bin_images.tolist(), self._bin_right.tolist(), self._bin_confidence.tolist(), strict=True)
            )
        ]

    def to_dict(self, name_of: Callable[[int], str | None] = lambda index: None) -> dict[str, Any]:
        """Plain values. Errors, `ece`, confidences and accuracies are in percent, `nll` in nats, `brier` in 0..2.

        `classes` and `confusion` list only what occurs: classes that are true or predicted, those without images with
        no `top1_err`, and [true, predicted, images] of every pair, the right ones too. `name_of` gives labels.
        """
        bins = self.bins()
        total = max(self.images, 1)
        values: dict[str, Any] = {
            "images": self.images,
            "nll": self._nll / total,
            "brier": self._brier / total,
            "ece": sum(b.images * abs(b.accuracy - b.confidence) for b in bins) / total,
            "mean_class_err": 0.0,
            "calibration": [
                {"low": b.low, "high": b.high, "images": b.images, "confidence": b.confidence, "accuracy": b.accuracy}
                for b in bins
            ],
            "classes": self._by_class(name_of),
            "confusion": [[true, predicted, n] for (true, predicted), n in sorted(self._confusion.items())],
        }
        rates = [record["top1_err"] for record in values["classes"] if record["images"]]
        values["mean_class_err"] = sum(rates) / max(len(rates), 1)
        if self.real_images:
            values["real"] = {
                "images": self.real_images,
                "left_out": self.images - self.real_images,
                "top1_errors": self.real_errors,
                "top1_err": 100 * self.real_errors / self.real_images,
            }
        return values

    def _by_class(self, name_of: Callable[[int], str | None]) -> list[dict[str, Any]]:
        images_K, top5_K = self._class_images.tolist(), self._class_top5_errors.tolist()
        records = []
        for index in sorted({index for pair in self._confusion for index in pair}):
            images = images_K[index]
            errors = images - self._confusion[index, index]
            records.append(
                {
                    "index": index,
                    "label": name_of(index),
                    "images": images,
                    "top1_errors": errors,
                    "top5_errors": top5_K[index],
                    "top1_err": 100 * errors / images if images else None,
                }
            )
        return records
