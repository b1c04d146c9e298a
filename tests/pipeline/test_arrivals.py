"""Scores that add up on the device: the sums of one image at a time, and no more of them on the host than asked for."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled import COUNT, MIXED, SIZES, Labelled, Picture
from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.data.source import Source
from resnet_infer.errors import BackendError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.predict import predict
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline import arrivals
from resnet_infer.pipeline.arrivals import SLOTS, Arrivals
from resnet_infer.pipeline.batching import reduce_map
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.render import render
from resnet_infer.pipeline.score import Member, score, score_groups
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import Protocol, multi_scale, single_crop


@pytest.fixture(scope="module")
def images(picture: Callable[..., Picture]) -> list[Picture]:
    return [picture(*SIZES[seed % len(SIZES)], seed) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def source(images: list[Picture]) -> Source:
    return Labelled(images, 10)


@pytest.fixture(scope="module")
def model(small_net: ResNet, model_of: Callable[..., Model]) -> Model:
    return model_of(small_net, Labels(names=tuple(f"class {k}" for k in range(10))))


def one_at_a_time(model: Model, protocols: Sequence[Protocol], images: Sequence[Picture]) -> Tensor:
    """(N, P, K): every view of every image rendered, run and added by itself."""
    sums_NPK = torch.zeros(len(images), len(protocols), model.manifest.spec.classes, dtype=torch.float64)
    for sums_PK, image in zip(sums_NPK, images, strict=True):
        x_CHW = torch.from_numpy(image).permute(2, 0, 1)
        for sums_K, protocol in zip(sums_PK, protocols, strict=True):
            for view in protocol.views(*image.shape[:2]):
                (tile_HWC,) = render(x_CHW, [view.tile])
                tile_HWC = tile_HWC.flip(1) if view.mirrored else tile_HWC
                scores_1Khw = model.backend.run(tile_HWC.permute(2, 0, 1)[None].contiguous(), protocol.head)
                sums_K += reduce_map(scores_1Khw, protocol.average)[0].double() * view.weight
    return sums_NPK.float()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
@pytest.mark.parametrize("protocols", [MIXED[:1], MIXED[1:2], MIXED[2:3], MIXED])
def test_scores_are_those_of_one_view_at_a_time(
    protocols: tuple[Protocol, ...], batch_size: int, model: Model, source: Source, images: list[Picture]
) -> None:
    expected_NPK = one_at_a_time(model, protocols, images)
    for order in (list(range(COUNT)), np.random.default_rng(batch_size).permutation(COUNT).tolist()):
        found = list(
            score(
                [Member(model, tuple(protocols))],
                source,
                indices=order,
                loading=Loading(batch_size=batch_size, workers=0),
            )
        )
        assert sorted(result.index for result in found) == list(range(COUNT))
        for result in found:
            assert result.probs_PK is not None
            torch.testing.assert_close(result.probs_PK, expected_NPK[result.index], rtol=0, atol=1e-5)


def test_more_images_may_be_on_their_way_than_there_are_slots_at_first(
    model: Model, picture: Callable[..., Picture]
) -> None:
    images = [picture(20, 20 + seed % 90, seed) for seed in range(3 * SLOTS)]
    many = Labelled(images, 10)
    protocols = [multi_scale((16,), average="gap", mirror=False), single_crop(18, 16)]
    results = score(
        [Member(model, tuple(protocols))], many, loading=Loading(batch_size=16, workers=0)
    )  # crops are run while whole images still wait
    found = sorted(results, key=lambda result: result.index)
    expected_NPK = one_at_a_time(model, protocols, images)
    torch.testing.assert_close(torch.stack([r.probs_PK for r in found if r.probs_PK is not None]), expected_NPK)


# what travels


class Wide:
    """A backend of many classes."""

    def __init__(self, model: Model, classes: int) -> None:
        self.info, self.shapes = model.backend.info, model.backend.shapes
        self._rows_NK = torch.randn(512, classes, generator=torch.Generator().manual_seed(0))

    def run(self, x_BCHW: Tensor, head: Any) -> Tensor:
        return self._rows_NK[x_BCHW[:, 0, 0, 0].long()][:, :, None, None]

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def travelled(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every tensor that is fetched from the device."""
    found: list[Tensor] = []
    original = arrivals.fetch

    def watched(x: Tensor) -> Callable[[], Tensor]:
        found.append(x)
        return original(x)

    monkeypatch.setattr(arrivals, "fetch", watched)
    return found


def test_only_what_is_asked_for_travels_to_the_host(
    model: Model, images: list[Picture], travelled: list[Tensor], tmp_path: Path
) -> None:
    classes, bytes_of_a_row = 1000, 4000
    spec = replace(model.manifest.spec, classes=classes)
    labels = Labels(names=tuple(f"class {k}" for k in range(classes)))
    wide = replace(model, backend=Wide(model, classes), manifest=replace(model.manifest, spec=spec, labels=labels))
    source = Labelled(images, classes)

    def per_row(rows: int) -> float:
        total = sum(x.numel() * x.element_size() for x in travelled)
        batches = sum(x.ndim == 0 for x in travelled)  # each says whether its scores are numbers
        travelled.clear()
        return (total - batches) / (rows * COUNT)

    tests = MIXED[:2]
    how: dict[str, Any] = {"loading": Loading(batch_size=16, workers=0)}
    evaluate([Member(wide, tuple(tests))], source, **how)
    assert per_row(2) == 8 * (5 + 2 * 5)
    evaluate([Member(wide, tuple(tests))], source, metrics=True, real=[{n, n + 1} for n in range(COUNT)], **how)
    assert per_row(2) == 8 * (5 + 2 * 5)
    evaluate([Member(wide, tests), Member(wide, tests)], source, weights=(1, 3), **how)
    assert per_row(6) == 8 * (5 + 2 * 5)
    list(predict(wide, tests[1], source, top_k=3, **how))
    assert per_row(1) == 8 * 2 * 3
    list(score([Member(wide, tuple(tests))], source, **how))
    assert per_row(2) == bytes_of_a_row


def test_the_host_is_two_batches_behind_a_gpu_and_an_error_names_its_own_batch() -> None:
    waited: list[int] = []
    host = Arrivals(torch.device("cpu"), 1, 4, lambda indices, probs_NPK: (probs_NPK.clone(),))
    host._behind = arrivals.BEHIND  # as on a GPU
    info: Any = type("Info", (), {"artifact": "net", "precision": "fp16"})()
    for number in range(4):
        slots = host.expect([number], 1)
        host.add(slots, [0], torch.full((1, 1, 4), 0.25, dtype=torch.float64), info, (32, 30 + number))
        waited.append(sum(len(done.indices) for done in host.complete()))
    assert waited == [0, 0, 1, 1]
    bad = host.expect([4], 1)
    host.add(bad, [0], torch.full((1, 1, 4), torch.nan, dtype=torch.float64), info, (32, 99))
    host.add(host.expect([5], 1), [0], torch.full((1, 1, 4), 0.25, dtype=torch.float64), info, (32, 31))
    assert [index for done in host.complete() for index in done.indices] == [2, 3]
    with pytest.raises(BackendError, match="not numbers at 99x32: fp16"):
        host.rest()
    assert list(host.complete()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sums_on_a_gpu_are_those_on_the_cpu_and_the_same_bits_every_time() -> None:
    rng = torch.Generator().manual_seed(0)
    batches = [(torch.randint(40, (256,), generator=rng).tolist(), torch.rand(2, 256, 1000, generator=rng).double())
               for _ in range(6)]  # fmt: skip
    due = [sum(slots.count(image) for slots, _ in batches) for image in range(40)]
    info: Any = type("Info", (), {"artifact": "net", "precision": "fp32"})()

    def summed(device: str) -> Tensor:
        sums = Arrivals(torch.device(device), 3, 1000, arrivals.everything)
        slots = [sums.expect([image], due[image])[0] for image in range(40)]
        for images, probs_RBK in batches:
            sums.add([slots[image] for image in images], [0, 2], probs_RBK.to(device), info, (1, 1))
        sums.rest()
        found = {
            index: row for done in sums.complete() for index, row in zip(done.indices, done.values[0], strict=True)
        }
        return torch.stack([found[image] for image in range(40)])

    torch.testing.assert_close(summed("cuda"), summed("cpu"), rtol=1e-6, atol=0)
    assert torch.equal(summed("cuda"), summed("cuda"))


def test_groups_of_several_models_are_their_single_images(model: Model, source: Source) -> None:
    members = [Member(model, MIXED[:2]), Member(model, MIXED[1:])]
    single = {result.index: result.probs_PK for result in score(members, source, loading=Loading(workers=0))}
    grouped = list(score_groups(members, source, loading=Loading(workers=0, batch_size=7)))
    assert sorted(index for group in grouped for index in group.indices) == list(range(COUNT))
    for group in grouped:
        for index, probs_PK in zip(group.indices, group.values[0], strict=True):
            torch.testing.assert_close(probs_PK, single[index], rtol=0, atol=1e-5)
