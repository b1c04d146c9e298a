"""How far two models are from each other on the same images, through the one scoring path.

Two files of one network never give the same bits, and a difference of tensors says little of what a user loses. So
what is measured is what classifiers are used for: the best class, the best five, and the scores in between.

Shapes: N images, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.data.classes import class_indices
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.evaluate import TOP_K
from resnet_infer.evaluation.verdicts import ranks_of
from resnet_infer.pipeline.loader import Crew
from resnet_infer.pipeline.score import Member, score_groups
from resnet_infer.spec.protocols import Protocol

SMALLEST = 1e-37
"""Probabilities below it are taken for it: float32 has few bits left there, and none below 1e-45."""
HELD = 256
"""Images that wait for one vectorised count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A candidate beside its reference. Shares are 0..1; differences are in units of a logit.

    Logits are taken from the averaged probabilities, log p less its mean over classes: for a single view that is the
    network's own logits less their mean, which softmax does not see.
    """

    images: int
    top1_agreement: float
    """Share of images with the same best class."""
    top5_overlap: float
    """Mean share of the reference's best five that are among the candidate's."""
    logit_cosine: float
    """Mean over images of the cosine between the two score vectors."""
    kl_divergence: float
    """Mean over images of KL(reference || candidate), in nats."""
    max_diff: float
    mean_diff: float
    p99_diff: float
    """Largest, mean and 99th percentile of the absolute difference of a logit."""
    reference_errors: int | None = None
    candidate_errors: int | None = None
    """Top-1 errors; None where the images have no classes."""

    @property
    def top1_drop(self) -> float | None:
        """Points of top-1 error that the candidate makes more than the reference; negative if it makes fewer."""
        if self.reference_errors is None or self.candidate_errors is None:
            return None
        return 100 * (self.candidate_errors - self.reference_errors) / self.images

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the drop."""
        return asdict(self) | {"top1_drop": self.top1_drop}


class Agreeing:
    """Sums over images of up to `images`, of which a hundredth of the differences is kept for the percentile."""

    def __init__(self, images: int, classes: int) -> None:
        self.images = 0
        self._classes = classes
        self._room = images * classes // 100 + 1
        """So many of the largest differences hold the 99th percentile of all."""
        self._largest = torch.empty(0, dtype=torch.float64)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._same = 0
        self._sums = torch.zeros(4, dtype=torch.float64)
        """Of top-5 overlap, cosine, divergence and absolute difference."""

    def add(self, reference_K: Tensor, candidate_K: Tensor) -> None:
        """Count one image's two vectors of probabilities."""
        self._waiting.append((reference_K, candidate_K))
        self.images += 1
        if len(self._waiting) >= HELD:
            self._count()

    def result(self, reference_errors: int | None = None, candidate_errors: int | None = None) -> Agreement:
        """The agreement on the images so far, of which there must be one."""
        self._count()
        overlap, cosine, divergence, absolute = (self._sums / self.images).tolist()
        differences = self.images * self._classes
        return Agreement(
            images=self.images,
            top1_agreement=self._same / self.images,
            top5_overlap=overlap,
            logit_cosine=cosine,
            kl_divergence=max(0.0, divergence),
            max_diff=float(self._largest.max()),
            mean_diff=absolute / self._classes,
            p99_diff=float(self._largest.topk(differences // 100 + 1).values[-1]),
            reference_errors=reference_errors,
            candidate_errors=candidate_errors,
        )

    def _count(self) -> None:
        if not self._waiting:
            return
        a_NK, b_NK = (_log(torch.stack(side)) for side in zip(*self._waiting, strict=True))
        self._waiting = []
        x_NK, y_NK = a_NK - a_NK.mean(1, keepdim=True), b_NK - b_NK.mean(1, keepdim=True)
        difference = (x_NK - y_NK).abs().flatten()
        k = min(TOP_K, self._classes)
        best_Nk, found_Nk = a_NK.topk(k).indices, b_NK.topk(k).indices
        self._same += int((a_NK.argmax(1) == b_NK.argmax(1)).sum())
        self._sums += torch.stack(
            [
                (best_Nk[:, :, None] == found_Nk[:, None, :]).any(2).double().mean(1).sum(),
                torch.nn.functional.cosine_similarity(x_NK, y_NK).sum(),
                (a_NK.exp() * (a_NK - b_NK)).sum(),
                difference.sum(),
            ]
        )
        if len(self._largest) == self._room:
            difference = difference[difference > self._largest.min()]
        joined = torch.cat((self._largest, difference))
        self._largest = joined.topk(min(self._room, len(joined))).values


def measure_agreement(
    reference: Model,
    candidate: Model,
    protocol: Protocol,
    source: Source,
    *,
    advance: Callable[[float], None] = lambda images: None,
) -> Agreement:
    """Two forms of one model: score every image with both; `advance` is called with every number of images done.

    They may run on different devices, so each has its own pass, by the same worker processes. Raises UsageError if the
    models have other classes, DataError if an image cannot be read or classes do not match.
    """
    a, b = reference.manifest.spec, candidate.manifest.spec
    if a.classes != b.classes:
        raise UsageError(
            f"{reference.name} has {a.classes} classes and {candidate.name} {b.classes}: not two forms of one model"
        )
    truth = truth_of(reference, source)
    indices = range(len(source.samples))
    with Crew(source) as crew:
        reference_NK, candidate_NK = (
            probabilities(model, protocol, source, indices, advance, crew) for model in (reference, candidate)
        )
    return agreement(reference_NK, candidate_NK, truth)


def truth_of(model: Model, source: Source) -> Sequence[int] | None:
    """The class of every image, or None if the source states none for any."""
    if all(sample.label is None for sample in source.samples):
        return None
    return class_indices(source, model.manifest.labels, model.manifest.spec.classes)


def probabilities(
    model: Model,
    protocol: Protocol,
    source: Source,
    indices: Sequence[int],
    advance: Callable[[float], None] = lambda images: None,
    crew: Crew | None = None,
) -> Tensor:
    """The protocol's probabilities of these images in order, p_NK; raises DataError naming one that cannot be read."""
    place = {index: row for row, index in enumerate(indices)}
    p_NK = torch.empty(len(indices), model.manifest.spec.classes)
    for images in score_groups([Member(model, (protocol,))], source, indices=indices, crew=crew):
        if images.error:
            raise DataError(f"{source.samples[images.indices[0]].name}: {images.error}; leave it out of the comparison")
        p_NK[[place[index] for index in images.indices]] = images.values[0][:, 0]
        advance(len(images.indices))
    return p_NK


def agreement(reference_NK: Tensor, candidate_NK: Tensor, truth: Sequence[int] | None = None) -> Agreement:
    """Compare two sets of probabilities of the same images in the same order."""
    agreeing = Agreeing(*reference_NK.shape)
    for reference_K, candidate_K in zip(reference_NK, candidate_NK, strict=True):
        agreeing.add(reference_K, candidate_K)
    if truth is None:
        return agreeing.result()
    return agreeing.result(errors(reference_NK, truth), errors(candidate_NK, truth))


def errors(p_NK: Tensor, truth: Sequence[int]) -> int:
    """Top-1 errors, counted as `evaluate` counts them."""
    p_N1K = p_NK[:, None]
    truth_N11 = torch.tensor(truth).view(-1, 1, 1)
    return int((ranks_of(p_N1K, p_N1K.gather(2, truth_N11)) >= 1).sum())


def _log(p_NK: Tensor) -> Tensor:
    return p_NK.double().clamp(min=SMALLEST).log()
