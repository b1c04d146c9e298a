"""Counting scored images: the one place where a score becomes an error or none.

Shapes: P protocols, K classes.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from resnet_infer.data.sources import Sample
from resnet_infer.errors import UsageError
from resnet_infer.metrics import Metrics
from resnet_infer.protocols import Protocol
from resnet_infer.records import TOP_K, Record


@dataclass(slots=True)
class Tally:
    """The images counted so far under one protocol, in this process and, once merged, in others."""

    images: int = 0
    """That could be read."""
    top1_errors: int = 0
    top5_errors: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    """Why images could not be read, by index."""
    metrics: Metrics | None = None
    """What is more than errors, where it is wanted; over the images that could be read."""
    real: Sequence[Collection[int]] | None = None
    """Every image's ReaL labels, of which the metrics then say the error."""

    def add(self, record: Record) -> None:
        """Count one image; UsageError for a record of earlier that lacks the probabilities that metrics need."""
        if record.rank is None:
            self.unreadable[record.index] = record.error
            return
        self.images += 1
        self.top1_errors += record.rank >= 1
        self.top5_errors += record.rank >= TOP_K
        if self.metrics:
            if record.probs_K is None or record.truth is None:
                raise UsageError(
                    "--metrics needs every class's probability, which the records there do not have; "
                    "go on without --metrics, or start anew with --probabilities"
                )
            real = self.real[record.index] if self.real else None
            self.metrics.add(record.truth, torch.from_numpy(record.probs_K), real)

    def merge(self, other: "Tally") -> None:
        """Add the images of another process."""
        self.images += other.images
        self.top1_errors += other.top1_errors
        self.top5_errors += other.top5_errors
        self.unreadable |= other.unreadable
        if self.metrics and other.metrics:
            self.metrics.merge(other.metrics)


def records_of(
    index: int, sample: Sample, truth: int, protocols: Sequence[Protocol], probs_PK: Tensor | None, error: str = ""
) -> list[Record]:
    """What is said of one image, a record a protocol; `probs_PK` of None is an image that could not be read."""
    if probs_PK is None:
        return [
            Record(index=index, protocol=p.name, name=sample.name, label=sample.label, truth=truth, error=error)
            for p in protocols
        ]
    best = probs_PK.topk(min(TOP_K, probs_PK.shape[1]))
    columns = (best.indices.tolist(), best.values.tolist(), ranks_of(truth, probs_PK), probs_PK.numpy())
    return [
        Record(
            index=index,
            protocol=protocol.name,
            name=sample.name,
            label=sample.label,
            truth=truth,
            rank=rank,
            truth_prob=float(probs_K[truth]),
            top_classes=top_classes,
            top_probs=top_probs,
            probs_K=probs_K,
        )
        for protocol, top_classes, top_probs, rank, probs_K in zip(protocols, *columns, strict=True)
    ]


def ranks_of(truth: int, probs_PK: Tensor) -> list[int]:
    """How many classes score above the true one; equal scores count against it, so a constant model earns nothing."""
    ranks: list[int] = ((probs_PK >= probs_PK[:, truth, None]).sum(1) - 1).tolist()
    return ranks


def rank_of(truth: int, probs_K: Tensor) -> int:
    """`ranks_of` one protocol."""
    return ranks_of(truth, probs_K[None])[0]


def wilson_interval(errors: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an error rate, in percent (Wilson 1927); honest near 0 and 100 and for few images."""
    z = 1.959963984540054
    rate = errors / images
    center = (rate + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(rate * (1 - rate) / images + z * z / (4 * images * images))
    return 100 * max(0.0, center - half), 100 * min(1.0, center + half)
