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
from resnet_infer.data.sources import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluate import TOP_K, rank_of
from resnet_infer.protocols import Protocol
from resnet_infer.score import score

SMALLEST = 1e-37
"""Probabilities below it are taken for it: float32 has few bits left there, and none below 1e-45."""


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


def compare(
    reference: Model,
    candidate: Model,
    protocol: Protocol,
    source: Source,
    *,
    advance: Callable[[float], None] = lambda images: None,
) -> Agreement:
    """Score every image with both models; `advance` is called with 1 after every image and model.

    Raises UsageError if the models have other classes, DataError if an image cannot be read or classes do not match.
    """
    a, b = reference.manifest.spec, candidate.manifest.spec
    if a.classes != b.classes:
        raise UsageError(
            f"{reference.name} has {a.classes} classes and {candidate.name} {b.classes}: not two forms of one model"
        )
    truth = truth_of(reference, source)
    indices = range(len(source.samples))
    return agreement(
        probabilities(reference, protocol, source, indices, advance),
        probabilities(candidate, protocol, source, indices, advance),
        truth,
    )


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
) -> Tensor:
    """The protocol's probabilities of these images in order, p_NK; raises DataError naming one that cannot be read."""
    place = {index: row for row, index in enumerate(indices)}
    p_NK = torch.empty(len(indices), model.manifest.spec.classes)
    for result in score(model, [protocol], source, indices=indices):
        if result.probs_PK is None:
            raise DataError(f"{source.samples[result.index].name}: {result.error}; leave it out of the comparison")
        p_NK[place[result.index]] = result.probs_PK[0]
        advance(1)
    return p_NK


def agreement(reference_NK: Tensor, candidate_NK: Tensor, truth: Sequence[int] | None = None) -> Agreement:
    """Compare two sets of probabilities of the same images in the same order."""
    a_NK, b_NK = _log(reference_NK), _log(candidate_NK)
    x_NK, y_NK = a_NK - a_NK.mean(1, keepdim=True), b_NK - b_NK.mean(1, keepdim=True)
    difference = (x_NK - y_NK).abs().flatten()
    k = min(TOP_K, a_NK.shape[1])
    best_Nk, found_Nk = a_NK.topk(k).indices, b_NK.topk(k).indices
    overlap = (best_Nk[:, :, None] == found_Nk[:, None, :]).any(2).double().mean()
    return Agreement(
        images=len(a_NK),
        top1_agreement=float((a_NK.argmax(1) == b_NK.argmax(1)).double().mean()),
        top5_overlap=float(overlap),
        logit_cosine=float(torch.nn.functional.cosine_similarity(x_NK, y_NK).mean()),
        kl_divergence=float((a_NK.exp() * (a_NK - b_NK)).sum(1).mean().clamp(min=0)),
        max_diff=float(difference.max()),
        mean_diff=float(difference.mean()),
        p99_diff=float(difference.kthvalue(-(-99 * difference.numel() // 100)).values),
        reference_errors=None if truth is None else errors(reference_NK, truth),
        candidate_errors=None if truth is None else errors(candidate_NK, truth),
    )


def errors(p_NK: Tensor, truth: Sequence[int]) -> int:
    """Top-1 errors, counted as `evaluate` counts them."""
    return sum(rank_of(label, p_K) >= 1 for label, p_K in zip(truth, p_NK, strict=True))


def _log(p_NK: Tensor) -> Tensor:
    return p_NK.double().clamp(min=SMALLEST).log()
