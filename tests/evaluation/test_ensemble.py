"""Ensembles: softmax averaged by hand gives the same errors, whatever the members' preprocessing and backend."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.open import open_source
from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Source
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.ensemble import normalised
from resnet_infer.evaluation.evaluate import evaluate, rank_of
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import load_checkpoint, save_checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, score
from resnet_infer.predictions.recorder import Recording
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import Protocol, single_crop, ten_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
BACK = tuple(reversed(range(10)))
COUNT = 30
FIRST = (single_crop(40, 32), ten_crop(41, 32))
SECOND = (single_crop(36, 32, "bicubic"), ten_crop(44, 32, interpolation="bicubic"))


@pytest.fixture(scope="module")
def source(picture: Callable[..., Picture], encode: Any, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("data") / "labelled.zip"
    classes = np.random.default_rng(1).integers(0, 10, COUNT).tolist()
    with zipfile.ZipFile(path, "w") as archive:
        for number, true in enumerate(classes):
            archive.writestr(f"{NAMES[true]}/{number:02}.png", encode(picture(40 + number % 3, 45, number)))
    return open_source(path)


@pytest.fixture(scope="module")
def members(
    random_net: Callable[..., ResNet], model_of: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory
) -> list[Member]:
    """resnet20 on torch, and resnet32 with its classes backwards and other means, as an ONNX file."""
    path = tmp_path_factory.mktemp("members") / "second.safetensors"
    net = random_net("resnet32")
    state = dict(net.state_dict())
    state |= {key: state[key][list(BACK)] for key in ("fc.weight", "fc.bias")}
    preprocessing = Preprocessing(resize=40, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    save_checkpoint(path, state, Manifest(spec=net.spec, preprocessing=preprocessing, labels=Labels(names=NAMES[::-1])))
    export_onnx(load_checkpoint(str(path)), path.with_suffix(".onnx"))
    first = model_of(random_net("resnet20"), Labels(names=NAMES))
    return [Member(first, FIRST), Member(open_model(str(path.with_suffix(".onnx"))), SECOND)]


def alone(member: Member, protocol: Protocol, source: Source) -> Tensor:
    results = sorted(score([Member(member.model, (protocol,))], source), key=lambda result: result.index)
    return torch.stack([result.probs_PK[0] for result in results if result.probs_PK is not None])


@pytest.mark.parametrize("weights", [None, (3.0, 1.0)])
def test_an_ensemble_is_the_mean_of_its_members_softmax(weights: Any, members: list[Member], source: Source) -> None:
    rows = evaluate(members, source, weights=weights, metrics=True)
    truth = [NAMES.index(str(sample.label)) for sample in source.samples]
    assert [(row.model, row.protocol) for row in rows] == [
        (name, protocol)
        for name in ("random", "second.onnx", "ensemble of 2")
        for protocol in ("single-crop", "ten-crop")
    ]
    share = 0.5 if weights is None else 0.75
    for number in range(2):
        a_NK = alone(members[0], FIRST[number], source)
        b_NK = alone(members[1], SECOND[number], source)[:, list(BACK)]
        mean_NK = share * a_NK + (1 - share) * b_NK
        for row, p_NK in zip(rows[number::2], (a_NK, b_NK, mean_NK), strict=True):
            ranks = [rank_of(true, p_K) for true, p_K in zip(truth, p_NK, strict=True)]
            assert row.top1_errors == sum(rank >= 1 for rank in ranks)
            assert row.top5_errors == sum(rank >= 5 for rank in ranks)
            nll = -np.mean([np.log(float(p_K[true])) for true, p_K in zip(truth, p_NK, strict=True)])
            assert row.metrics
            assert row.metrics["nll"] == pytest.approx(nll, rel=1e-4)
    together = rows[-1]
    assert (together.architecture, together.backend) == ("resnet20+resnet32", "torch+onnxruntime")
    assert [member["weight"] for member in together.members] == [share, 1 - share]
    assert len({rows[0].metrics["nll"], rows[2].metrics["nll"], rows[4].metrics["nll"]}) == 3  # type: ignore[index]


def test_a_members_row_is_its_own_evaluation(members: list[Member], source: Source) -> None:
    together = evaluate(members, source)
    separate = [row for m in members for row in evaluate([Member(m.model, tuple(m.protocols))], source)]
    for row, expected in zip(together[:4], separate, strict=True):
        assert (row.model, row.views, row.top1_errors, row.top5_errors) == (
            expected.model, expected.views, expected.top1_errors, expected.top5_errors,
        )  # fmt: skip


def test_every_image_is_read_once(members: list[Member], source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = type(source).read

    def counting(self: Source, sample: Sample) -> Any:
        read.append(sample.name)
        return original(self, sample)

    monkeypatch.setattr(type(source), "read", counting)
    evaluate(members, source, loading=Loading(workers=0))
    assert sorted(read) == sorted(sample.name for sample in source.samples)


def test_a_copy_adds_nothing(members: list[Member], source: Source) -> None:
    rows = evaluate([members[0], members[0], members[0]], source)
    assert len({(row.top1_errors, row.top5_errors) for row in rows[::2]}) == 1


def test_unreadable_images_count_in_every_row(members: list[Member], source: Source, tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    path.write_bytes(Path(source.name).read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("fox/broken.jpg", b"\xff\xd8\xff broken")
    whole = evaluate(members, source)
    for row, expected in zip(evaluate(members, open_source(path), on_error="count-wrong"), whole, strict=True):
        assert (row.images, row.top1_errors) == (COUNT + 1, expected.top1_errors + 1)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), ()])
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(UsageError, match="--weights"):
        normalised(weights, 2)


def test_weights_sum_to_one() -> None:
    assert normalised(None, 4) == (0.25,) * 4
    assert normalised([2, 6], 2) == (0.25, 0.75)


def test_what_is_no_ensemble_is_refused(
    members: list[Member],
    source: Source,
    random_net: Callable[..., ResNet],
    model_of: Callable[..., Model],
    tmp_path: Path,
) -> None:
    other = model_of(random_net("resnet20"), Labels(names=(*NAMES[:-1], "yak")))
    with pytest.raises(UsageError, match="'jay' is not a class"):
        evaluate([members[0], Member(other, FIRST)], source)
    with pytest.raises(UsageError, match="--predictions records one model"):
        evaluate(members, source, recording=Recording(path=tmp_path / "x.jsonl"))
