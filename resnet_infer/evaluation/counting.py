"""What an evaluation does with scores: they are judged on the device, and counted and recorded on the host.

Shapes: N images, P protocols of all members, Q rows with the ensemble's, K classes, C columns.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_infer.data.samples import Sample
from resnet_infer.evaluation.ensemble import Ensemble
from resnet_infer.evaluation.tally import Tally, records_of, records_without
from resnet_infer.evaluation.verdicts import judged, verdicts_of
from resnet_infer.pipeline.arrivals import Finished
from resnet_infer.pipeline.packing import ImageRecord
from resnet_infer.pipeline.transfer import send
from resnet_infer.predictions.listing import Listing
from resnet_infer.predictions.recorder import Recorder


class Counting:
    """Judges images group by group, adds them to the tallies of all rows, and has records of them kept."""

    def __init__(
        self,
        ensemble: Ensemble,
        samples: Sequence[Sample],
        truth: Sequence[int],
        tallies: Sequence[Tally],
        *,
        real: Sequence[Collection[int]] | None = None,
        recorder: Recorder | None = None,
        listing: Listing | None = None,
    ) -> None:
        """`recorder` and `listing` go together: records say what was scored, and how it was listed."""
        self._ensemble = ensemble
        self._samples = samples
        self._truth = truth
        self._truth_N = torch.from_numpy(np.asarray(truth, np.int64))
        self._tallies = tallies
        self._real = real
        self._recorder = recorder
        self._listing = listing
        self._content: dict[int, str] = {}
        """Hashes of the images that are on their way."""

    def see(self, record: ImageRecord) -> None:
        """Take note of what an image is, before it is scored."""
        if self._recorder:
            self._content[record.index] = record.content
        if record.warning:
            for tally in self._tallies:
                tally.warnings[record.index] = record.warning

    def judge(self, indices: Sequence[int], probs_NPK: Tensor) -> tuple[Tensor, ...]:
        """See `arrivals.Reduce`: the columns of `judged` (N, Q, C), and every probability where records keep them."""
        rows_NQK = self._ensemble.rows(probs_NPK)
        truth_N = send(self._truth_N[indices], rows_NQK.device)
        real = None if self._real is None else [self._real[index] for index in indices]
        metrics = self._tallies[0].metrics is not None
        block_NQC = judged(rows_NQK, truth_N, metrics=metrics, real=real)
        return (block_NQC, rows_NQK) if self._recorder and self._recorder.keeps_probabilities else (block_NQC,)

    def count(self, images: Finished) -> None:
        """Take what `judge` gave for a group of images, or that one could not be read."""
        if images.error:
            self._lose(images.indices[0], images.error)
            return
        indices = images.indices
        block_NQC, *probabilities = images.values
        verdicts = [verdicts_of(block_NC) for block_NC in block_NQC.unbind(1)]
        truth_N = self._truth_N[indices]
        for tally, found in zip(self._tallies, verdicts, strict=True):
            tally.add(truth_N, found)
        if self._recorder:
            probs_NQK = probabilities[0] if probabilities else None
            protocols = self._ensemble.protocols
            known = [self._known(index) for index in indices]
            for records in records_of(indices, self._samples, truth_N.tolist(), protocols, verdicts, probs_NQK, known):
                self._recorder.add(records)

    def _known(self, index: int) -> dict[str, Any]:
        """What a record says of the image's bytes."""
        return {
            "content_sha256": self._content.pop(index, ""),
            "source_mark": int(self._listing.marks_N[index]) if self._listing else 0,
            "warning": self._tallies[0].warnings.get(index, ""),
        }

    def _lose(self, index: int, error: str) -> None:
        for tally in self._tallies:
            tally.unreadable[index] = error
        if self._recorder:
            of = self._samples[index], self._truth[index], self._ensemble.protocols
            self._recorder.add(records_without(index, *of, error))
