"""Several models over one decode score as each of them alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.data.source import Memory, Source
from resnet_infer.errors import UsageError
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, Scored, score
from resnet_infer.spec.protocols import multi_scale, single_crop, ten_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
FIRST = (single_crop(40, 32), ten_crop(41, 32), multi_scale((32, 41)))
SECOND = (single_crop(40, 32, "bicubic"), multi_scale((32, 44), interpolation="bicubic"))


@pytest.fixture(scope="module")
def source(picture: Callable[..., Picture]) -> Source:
    sizes = ((48, 60), (60, 48), (33, 70), (48, 60))
    return Memory("memory", [(str(seed), picture(*size, seed)) for seed, size in enumerate(sizes)])


@pytest.fixture(scope="module")
def models(random_net: Callable[..., ResNet], model_of: Callable[..., Model]) -> list[Model]:
    return [model_of(random_net("resnet20")), model_of(random_net("resnet32"))]


def stacked(results: list[Scored]) -> Tensor:
    return torch.stack([r.probs_PK for r in sorted(results, key=lambda r: r.index) if r.probs_PK is not None])


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_models_that_are_scored_together_score_as_each_alone(
    batch_size: int | None, models: list[Model], source: Source
) -> None:
    members = [Member(models[0], FIRST), Member(models[1], SECOND)]
    together_NPK = stacked(list(score(members, source, loading=Loading(batch_size=batch_size))))
    first_NPK, second_NPK = together_NPK.split([len(FIRST), len(SECOND)], 1)
    torch.testing.assert_close(
        first_NPK, stacked(list(score([Member(models[0], tuple(FIRST))], source))), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        second_NPK, stacked(list(score([Member(models[1], tuple(SECOND))], source))), rtol=0, atol=1e-5
    )
    assert (first_NPK[:, 0] - second_NPK[:, 0]).abs().max() > 1e-3


def test_models_that_cannot_be_scored_together_are_refused(
    models: list[Model], source: Source, random_net: Callable[..., ResNet], model_of: Callable[..., Model]
) -> None:
    other = model_of(random_net("resnet20", 7))
    with pytest.raises(UsageError, match=r"equally many classes; got 10, 7"):
        next(score([Member(model, FIRST) for model in (models[0], other)], source))
