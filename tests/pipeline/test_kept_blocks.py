"""Tiles that wait for their batch do not keep the blocks they came in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from resnet_infer.backends.load import Model
from resnet_infer.data.source import Memory
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline import score as scoring
from resnet_infer.pipeline.batching import Batcher, Tiles
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.protocols import multi_scale

Picture = np.ndarray[Any, np.dtype[np.uint8]]


def test_a_small_tile_that_waits_keeps_no_large_block(
    picture: Callable[..., Picture], small_net: ResNet, model_of: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of ever another shape, each beside fifteen that are run at once."""
    images = [picture(32, 300) if n % 16 else picture(32, 32 + n // 16) for n in range(160)]
    source = Memory("mixed", [(str(number), image) for number, image in enumerate(images)])
    member = Member(model_of(small_net), (multi_scale((32,)),))
    usual = list(score([member], source, loading=Loading(batch_size=4)))
    held: list[int] = []
    add = Batcher.add

    def watched(self: Batcher, slots: Any, size: Any, tiles: Any) -> None:
        add(self, slots, size, tiles)
        pieces: list[Tiles] = [piece for pieces in self.buckets._waiting.values() for piece in pieces]
        storages = [piece.x_BHWC.untyped_storage() for piece in pieces]
        held.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))

    monkeypatch.setattr(Batcher, "add", watched)
    list(score([member], source, loading=Loading(batch_size=4)))
    without = max(held)
    held.clear()
    block = 3 * 32 * 300 * 16
    monkeypatch.setattr(scoring, "KEPT_BYTES", 2 * block)
    found = list(score([member], source, loading=Loading(batch_size=4)))
    assert max(held) < 4 * block < without
    by_index = sorted(found, key=lambda scored: scored.index)
    for one, other in zip(by_index, sorted(usual, key=lambda scored: scored.index), strict=True):
        assert one.probs_PK is not None
        assert other.probs_PK is not None
        assert torch.equal(one.probs_PK, other.probs_PK)
