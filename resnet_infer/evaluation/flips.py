"""Counts over images that two classifiers both judged: flips each way, McNemar's test, classes, disagreements."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from resnet_infer.evaluation.comparison_rows import ClassDifference, Disagreement, Outcome
from resnet_infer.evaluation.evaluate import TOP_K, rank_of


@dataclass(frozen=True, slots=True)
class Judged:
    """What one classifier says of one image."""

    top: tuple[int, ...]
    """The best five classes, best first."""
    prob: float
    """Of the best."""
    rank: int | None
    """Classes that score above the true one, as in `evaluate.rank_of`; None where the class is not known."""


def judge(probs_K: Tensor, truth: int | None) -> Judged:
    """What these probabilities say."""
    values, classes = probs_K.sort(descending=True, stable=True)  # of equal scores the lower index, as by argmax
    return Judged(tuple(classes[:TOP_K].tolist()), float(values[0]), None if truth is None else rank_of(truth, probs_K))


class Pairs:
    """Sums over images that both have judged. `name_of` gives a class its label."""

    def __init__(self, name_of: Callable[[int], str | None]) -> None:
        self.images = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.top5_errors: Counter[str] = Counter()
        self.disagreements: list[Disagreement] = []
        """In the order in which images were added."""
        self._name_of = name_of
        self._same = 0
        self._overlap = 0.0
        self._by_class: Counter[tuple[int, Outcome]] = Counter()

    def add(self, index: int, path: str, truth: int | None, a: Judged, b: Judged) -> None:
        """Count one image."""
        outcome = _outcome(a, b)
        self.images += 1
        self.outcomes[outcome] += 1
        self._same += a.top[0] == b.top[0]
        self._overlap += len(set(a.top) & set(b.top)) / len(a.top)
        if truth is not None:
            self._by_class[truth, outcome] += 1
        for side, judged in (("a", a), ("b", b)):
            self.top5_errors[side] += judged.rank is not None and judged.rank >= TOP_K
        if a.top[0] != b.top[0] or outcome in ("only A right", "only B right"):  # a tie may make one of them wrong
            self.disagreements.append(
                Disagreement(
                    index=index,
                    path=path,
                    outcome=outcome,
                    truth=truth,
                    truth_label=None if truth is None else self._name_of(truth),
                    a_class=a.top[0],
                    a_label=self._name_of(a.top[0]),
                    a_prob=round(a.prob, 6),
                    b_class=b.top[0],
                    b_label=self._name_of(b.top[0]),
                    b_prob=round(b.prob, 6),
                )
            )

    @property
    def top1_agreement(self) -> float:
        """Share of images with the same best class."""
        return self._same / self.images

    @property
    def top5_overlap(self) -> float:
        """Mean share of A's best five that are among B's."""
        return self._overlap / self.images

    def top1_errors(self, side: str) -> int:
        """Of "a" or "b"."""
        other: Outcome = "only B right" if side == "a" else "only A right"
        return self.outcomes[other] + self.outcomes["both wrong"]

    def classes(self) -> list[ClassDifference]:
        """Every class that has images, in order of index."""
        found = []
        for index in sorted({index for index, _ in self._by_class}):
            only_a, only_b = self._by_class[index, "only A right"], self._by_class[index, "only B right"]
            wrong = self._by_class[index, "both wrong"]
            found.append(
                ClassDifference(
                    index=index,
                    label=self._name_of(index),
                    images=self._by_class[index, "both right"] + only_a + only_b + wrong,
                    a_errors=only_b + wrong,
                    b_errors=only_a + wrong,
                    only_a_right=only_a,
                    only_b_right=only_b,
                )
            )
        return found


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test: twice the smaller tail of a fair coin's binomial, at most 1.

    Only the images that one of the two has right say anything of which is better (McNemar 1947); 1 if there are none.
    """
    flips, fewer = only_a + only_b, min(only_a, only_b)
    if 2 * fewer >= flips - 1:  # the two tails meet, and hold every outcome
        return 1.0
    term = math.comb(flips, fewer) / 2**flips  # of whole numbers: no rounding before the division
    total = 0.0
    for successes in range(fewer, -1, -1):
        total += term
        term *= successes / (flips - successes + 1)
        if term < total * 1e-17:
            break
    return min(1.0, 2 * total)


def _outcome(a: Judged, b: Judged) -> Outcome:
    if a.rank is None or b.rank is None:
        return ""
    if a.rank == 0:
        return "both right" if b.rank == 0 else "only A right"
    return "only B right" if b.rank == 0 else "both wrong"
