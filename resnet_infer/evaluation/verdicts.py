"""What a score comes to: the best classes, the rank and probability of the true one, and what metrics need.

Computed for many images at once, where their probabilities are; only this travels to the host.

Shapes: N images, Q rows of an image (protocols, ensembles), K classes, k of the best five, C columns.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_infer.pipeline.transfer import send
from resnet_infer.predictions.records import TOP_K


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Of N images under one protocol, on the CPU; whole numbers int64, probabilities float32 values in float64."""

    rank_N: Tensor
    """How many classes score above the true one; equal scores count against it."""
    truth_prob_N: Tensor
    """Probability of the true class."""
    top_probs_Nk: Tensor
    """Of the best five (all, if there are fewer), best first."""
    top_classes_Nk: Tensor
    predicted_N: Tensor
    """The best class; of a tie with the true one, another. -1 without metrics."""
    squares_N: Tensor
    """Sum over classes of the squared probabilities. -1 without metrics."""
    real_N: Tensor
    """Whether the best class is a ReaL label: 1 or 0, or -1 for an image that has none."""


def verdicts_of(block_NC: Tensor) -> Verdicts:
    """Columns of `judged`, which float64 holds exactly, for what they are."""
    top_probs_Nk, top_classes_Nk = block_NC[:, 5:].chunk(2, 1)
    return Verdicts(
        rank_N=block_NC[:, 0].long(),
        truth_prob_N=block_NC[:, 1],
        top_probs_Nk=top_probs_Nk,
        top_classes_Nk=top_classes_Nk.long(),
        predicted_N=block_NC[:, 2].long(),
        squares_N=block_NC[:, 3],
        real_N=block_NC[:, 4].long(),
    )


def judged(
    probs_NQK: Tensor, truth_N: Tensor, *, metrics: bool, real: Sequence[Collection[int]] | None = None
) -> Tensor:
    """What `verdicts_of` reads, for every row, (N, Q, C) float64, on the device of the probabilities.

    `truth_N` is there too. Without `metrics` what only they need is not computed, but -1; `real` are these images' ReaL
    labels.
    """
    values, classes = probs_NQK.topk(min(TOP_K, probs_NQK.shape[2]), -1)
    truth_NQ1 = truth_N[:, None, None].expand(-1, probs_NQK.shape[1], 1)
    truth_prob_NQ1 = probs_NQK.gather(2, truth_NQ1)
    rank_NQ = ranks_of(probs_NQK, truth_prob_NQ1)
    none_NQ = torch.full_like(rank_NQ, -1)
    columns = [rank_NQ, truth_prob_NQ1[..., 0], none_NQ, none_NQ, none_NQ]
    if metrics:
        others_NQ = probs_NQK.scatter(2, truth_NQ1, -1).argmax(2)
        columns[2] = torch.where(rank_NQ == 0, truth_NQ1[..., 0], others_NQ)
        columns[3] = probs_NQK.double().square().sum(2)
    if real is not None:
        has_N = send(torch.tensor([bool(labels) for labels in real]), rank_NQ.device)
        columns[4] = torch.where(has_N[:, None], right_by_sets(probs_NQK, real).long(), none_NQ)
    block_NQC = torch.stack([column.double() for column in columns], 2)
    return torch.cat((block_NQC, values.double(), classes.double()), 2)


def best(top_k: int, indices: Sequence[int], probs_NPK: Tensor) -> tuple[Tensor, ...]:
    """For `arrivals.Reduce`: the best classes of every row, (N, P, 2, k) float64, first their probabilities."""
    values_NPk, classes_NPk = probs_NPK.topk(min(top_k, probs_NPK.shape[2]))
    return (torch.stack((values_NPk.double(), classes_NPk.double()), 2),)


def ranks_of(probs_NQK: Tensor, truth_prob_NQ1: Tensor) -> Tensor:
    """How many classes score above the true one; equal scores count against it, so a constant model earns nothing."""
    return (probs_NQK >= truth_prob_NQ1).sum(2) - 1


def rank_of(truth: int, probs_K: Tensor) -> int:
    """`ranks_of` one row of one image."""
    return int(ranks_of(probs_K[None, None], probs_K[None, None, truth, None]))


def right_by_sets(probs_NQK: Tensor, right: Sequence[Collection[int]]) -> Tensor:
    """Whether the best class is one of the image's; a tie with a class outside of them counts against it. (N, Q)"""
    among_NK = torch.zeros(probs_NQK.shape[0], probs_NQK.shape[2], dtype=torch.bool)
    images = [image for image, labels in enumerate(right) for _ in labels]
    among_NK[images, [label for labels in right for label in labels]] = True
    among_N1K = send(among_NK, probs_NQK.device)[:, None]
    inside_NQ = probs_NQK.masked_fill(~among_N1K, -torch.inf).amax(2)
    return inside_NQ > probs_NQK.masked_fill(among_N1K, -torch.inf).amax(2)
