"""Counting scored images: the one place where a verdict becomes an error or none, and where records of it are made.

Shapes: N images, Q protocols and ensembles, K classes, k of the best five.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_infer.data.samples import Sample
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.calibration_metrics import ClassificationMetrics
from resnet_infer.evaluation.verdicts import Verdicts, judged, verdicts_of
from resnet_infer.predictions.records import TOP_K, Record
from resnet_infer.spec.protocols import Protocol


@dataclass(slots=True)
class Tally:
    """The images counted so far under one protocol, in this process and, once merged, in others."""

    images: int = 0
    """That could be read."""
    top1_errors: int = 0
    top5_errors: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    """Why images could not be read, by index."""
    warnings: dict[int, str] = field(default_factory=dict)
    """What the decoder found wrong with images that were scored all the same, by index."""
    metrics: ClassificationMetrics | None = None
    """What is more than errors, where it is wanted; over the images that could be read."""
    real: Sequence[Collection[int]] | None = None
    """Every image's ReaL labels, of which the metrics then say the error."""

    def add(self, truth_N: Tensor, found: Verdicts) -> None:
        """Count images by their true classes and what was judged of them."""
        rank_N = found.rank_N
        self.images += len(rank_N)
        self.top1_errors += int((rank_N >= 1).sum())
        self.top5_errors += int((rank_N >= TOP_K).sum())
        if self.metrics:
            self.metrics.add(truth_N, found)

    def add_records(self, records: Sequence[Record]) -> None:
        """Count records of earlier; UsageError if they lack the probabilities that metrics need."""
        self.unreadable |= {record.index: record.error for record in records if record.rank is None}
        self.warnings |= {record.index: record.warning for record in records if record.warning}
        there = [record for record in records if record.rank is not None]
        if not self.metrics:
            self.images += len(there)
            self.top1_errors += sum(record.rank >= 1 for record in there if record.rank is not None)
            self.top5_errors += sum(record.rank >= TOP_K for record in there if record.rank is not None)
            return
        full = [record.probs_K for record in there if record.probs_K is not None]
        truth = [record.truth for record in there if record.truth is not None]
        if not len(full) == len(truth) == len(there):
            raise UsageError(
                "--metrics needs every class's probability, which the records there do not have; "
                "continue without --metrics, or start over with --probabilities"
            )
        if there:
            real = [self.real[record.index] for record in there] if self.real else None
            probs_N1K = torch.from_numpy(np.stack(full))[:, None]
            truth_N = torch.tensor(truth)
            self.add(truth_N, verdicts_of(judged(probs_N1K, truth_N, metrics=True, real=real)[:, 0]))

    def merge(self, other: "Tally") -> None:
        """Add the images of another process."""
        self.images += other.images
        self.top1_errors += other.top1_errors
        self.top5_errors += other.top5_errors
        self.unreadable |= other.unreadable
        self.warnings |= other.warnings
        if self.metrics and other.metrics:
            self.metrics.merge(other.metrics)


def records_of(
    indices: Sequence[int],
    samples: Sequence[Sample],
    truth_N: Sequence[int],
    protocols: Sequence[Protocol],
    verdicts: Sequence[Verdicts],
    probs_NQK: Tensor | None,
    known: Sequence[Mapping[str, Any]],
) -> Iterator[list[Record]]:
    """What is said of each of these images, a record a protocol; `known` are fields that all of an image's have."""
    columns = [
        (v.rank_N.tolist(), v.truth_prob_N.tolist(), v.top_classes_Nk.tolist(), v.top_probs_Nk.tolist())
        for v in verdicts
    ]
    for place, index in enumerate(indices):
        sample = samples[index]
        yield [
            Record(
                index=index,
                protocol=protocol.name,
                name=sample.name,
                label=sample.label,
                truth=truth_N[place],
                rank=rank_N[place],
                truth_prob=truth_prob_N[place],
                top_classes=top_classes_Nk[place],
                top_probs=top_probs_Nk[place],
                probs_K=None if probs_NQK is None else probs_NQK[place, row].numpy(),
                **known[place],
            )
            for row, (protocol, (rank_N, truth_prob_N, top_classes_Nk, top_probs_Nk)) in enumerate(
                zip(protocols, columns, strict=True)
            )
        ]


def records_without(index: int, sample: Sample, truth: int, protocols: Sequence[Protocol], error: str) -> list[Record]:
    """What is said of an image that could not be read."""
    return [
        Record(index=index, protocol=p.name, name=sample.name, label=sample.label, truth=truth, error=error)
        for p in protocols
    ]
