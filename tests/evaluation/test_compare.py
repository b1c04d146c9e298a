"""Comparing two classifiers: counts of two evaluations, one decode, classes in any order, and kept predictions."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from resnet_infer.backends.load import Model
from resnet_infer.data.open import open_source
from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.agreement import agreement
from resnet_infer.evaluation.compare import compare_models, compare_predictions
from resnet_infer.evaluation.evaluate import evaluate, rank_of
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, score
from resnet_infer.predictions.files import format_of
from resnet_infer.predictions.records import Identity, Record
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import Protocol, single_crop, ten_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
ORDER = (3, 1, 0, 2, 9, 8, 7, 6, 5, 4)
"""Class k of the model whose classes are shuffled is NAMES[ORDER[k]]."""
COUNT = 60
A = (single_crop(40, 32), ten_crop(41, 32))
B = (single_crop(36, 32, "bicubic"), ten_crop(41, 32))
"""B resizes to another size, by another interpolation."""


@pytest.fixture(scope="module")
def source(picture: Callable[..., Picture], encode: Any, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("data") / "labelled.zip"
    classes = np.random.default_rng(4).integers(0, 10, COUNT).tolist()
    with zipfile.ZipFile(path, "w") as archive:
        for number, true in enumerate(classes):
            archive.writestr(f"{NAMES[true]}/{number:02}.png", encode(picture(40 + number % 3, 45, number)))
    return open_source(path)


@pytest.fixture(scope="module")
def a(small_net: ResNet, model_of: Callable[..., Model]) -> Model:
    return model_of(small_net, Labels(names=NAMES))


@pytest.fixture(scope="module")
def weights(small_net: ResNet) -> torch.Tensor:
    noise = torch.randn(small_net.fc.weight.shape, generator=torch.Generator().manual_seed(5))
    return small_net.fc.weight.detach() + 0.15 * noise


@pytest.fixture(scope="module")
def b(small_net: ResNet, model_of: Callable[..., Model], weights: torch.Tensor) -> Model:
    return model_of(small_net, Labels(names=NAMES), fc__weight=weights)


@pytest.fixture(scope="module")
def shuffled(small_net: ResNet, model_of: Callable[..., Model], weights: torch.Tensor) -> Model:
    """The same classifier as b, with its classes in another order."""
    labels = Labels(names=tuple(NAMES[at] for at in ORDER))
    bias = small_net.fc.bias.detach()[list(ORDER)]
    return model_of(small_net, labels, fc__weight=weights[list(ORDER)], fc__bias=bias)


def scores(model: Model, protocol: Protocol, source: Source) -> list[torch.Tensor]:
    results = sorted(score([Member(model, (protocol,))], source), key=lambda result: result.index)
    return [result.probs_PK[0] for result in results if result.probs_PK is not None]


def test_counts_are_those_of_two_evaluations_and_of_every_image(a: Model, b: Model, source: Source) -> None:
    found = compare_models(Member(a, A), Member(b, B), source)
    for own, other, c in zip(A, B, found, strict=True):
        (first,), (second,) = evaluate([Member(a, (own,))], source), evaluate([Member(b, (other,))], source)
        for side, row in ((c.a, first), (c.b, second)):
            assert (side.top1_errors, side.top5_errors) == (row.top1_errors, row.top5_errors)
            assert (side.top1_err, side.top1_err_ci95, side.views) == (row.top1_err, row.top1_err_ci95, row.views)
        truth = [NAMES.index(str(sample.label)) for sample in source.samples]
        p, q = scores(a, own, source), scores(b, other, source)
        flips = [(rank_of(t, x) == 0, rank_of(t, y) == 0) for t, x, y in zip(truth, p, q, strict=True)]
        assert c.only_a_right == flips.count((True, False)) > 0
        assert c.only_b_right == flips.count((False, True)) > 0
        assert (c.both_right, c.both_wrong) == (flips.count((True, True)), flips.count((False, False)))
        assert c.mcnemar_p == pytest.approx(binomtest(c.only_a_right, c.only_a_right + c.only_b_right).pvalue, rel=1e-9)
        expected = agreement(torch.stack(p), torch.stack(q))
        for name, value in c.agreement.items():
            assert value == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-6)
        differing = [at for at in range(COUNT) if p[at].argmax() != q[at].argmax()]
        assert [image.index for image in c.disagreements] == differing
        for image in c.disagreements:
            assert image.path == source.samples[image.index].name
            assert image.truth_label == source.samples[image.index].label
            assert (image.a_label, image.b_label) == (NAMES[image.a_class], NAMES[image.b_class])
            assert image.a_prob == pytest.approx(float(p[image.index].max()), abs=1e-5)
        assert c.images == COUNT


def test_the_order_of_classes_does_not_matter(a: Model, b: Model, shuffled: Model, source: Source) -> None:
    (expected,), (found,) = (compare_models(Member(a, A[:1]), Member(other, B[:1]), source) for other in (b, shuffled))
    for one, other in zip(expected.disagreements, found.disagreements, strict=True):
        assert replace(one, a_prob=0, b_prob=0) == replace(other, a_prob=0, b_prob=0)
    assert replace(found, seconds=0, disagreements=(), agreement={}) == replace(
        expected, seconds=0, disagreements=(), agreement={}
    )
    assert found.agreement == pytest.approx(dict(expected.agreement), rel=1e-4)


def test_every_image_is_read_once(a: Model, b: Model, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = type(source).read

    def counting(self: Source, sample: Sample) -> Any:
        read.append(sample.name)
        return original(self, sample)

    monkeypatch.setattr(type(source), "read", counting)
    advanced: list[float] = []
    compare_models(Member(a, A), Member(b, B), source, advance=advanced.append, loading=Loading(workers=0))
    assert sorted(read) == sorted(sample.name for sample in source.samples)
    assert sum(advanced) == COUNT


def test_unreadable_images_are_named(a: Model, b: Model, source: Source, tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    path.write_bytes(Path(source.name).read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("fox/broken.jpg", b"\xff\xd8\xff broken")
    damaged = open_source(path)
    with pytest.raises(DataError, match=r"fox/broken\.jpg.*--on-error skip"):
        compare_models(Member(a, A), Member(b, B), damaged)
    (found,) = compare_models(Member(a, A[:1]), Member(b, B[:1]), damaged, on_error="skip")
    (expected,) = compare_models(Member(a, A[:1]), Member(b, B[:1]), source)
    assert [image["path"] for image in found.unreadable] == ["fox/broken.jpg"]
    assert (found.images, found.a.top1_errors, found.classes) == (COUNT, expected.a.top1_errors, expected.classes)
    with pytest.raises(UsageError, match="fail, skip"):
        compare_models(Member(a, A), Member(b, B), source, on_error="count-wrong")  # type: ignore[arg-type]


def test_images_without_classes_have_no_errors(a: Model, b: Model, source: Source, encode: Any, tmp_path: Path) -> None:
    for number, sample in enumerate(source.samples):
        data = source.read(sample)
        assert isinstance(data, bytes)
        (tmp_path / f"{number}.png").write_bytes(data)
    (found,) = compare_models(Member(a, A[:1]), Member(b, B[:1]), open_source(tmp_path))
    assert (found.a.top1_errors, found.mcnemar_p, found.only_a_right, list(found.classes)) == (None, None, None, [])
    assert found.disagreements
    assert {image.outcome for image in found.disagreements} == {""}


# predictions that were kept


def kept(
    path: Path, model: Model, protocols: Sequence[Protocol], source: Source, *, full: bool, **changed: Any
) -> Path:
    """A predictions file of this model, its records made here from its scores."""
    labels = model.manifest.labels
    assert labels
    identity = Identity(
        release="1", model="kept", model_sha256="00", architecture="resnet20", preprocessing={}, classes=10,
        labels=list(labels.names), backend="torch", device="cpu", precision="fp32", offload="nothing",
        protocols=[asdict(protocol) for protocol in protocols], data=source.name, data_sha256="11",
        images=len(source.samples), probabilities=full,
    )  # fmt: skip
    scored = [scores(model, protocol, source) for protocol in protocols]
    records = []
    for index, sample in enumerate(source.samples):
        truth = labels.names.index(str(sample.label))
        for protocol, p_NK in zip(protocols, scored, strict=True):
            values, top = p_NK[index].topk(5)
            record = Record(
                index=index, protocol=protocol.name, name=sample.name, label=sample.label, truth=truth,
                rank=rank_of(truth, p_NK[index]), truth_prob=float(p_NK[index][truth]), top_classes=top.tolist(),
                top_probs=values.tolist(), probs_K=p_NK[index].numpy() if full else None,
            )  # fmt: skip
            if index == changed.get("broken"):
                record = Record(index=index, protocol=protocol.name, name=sample.name, label=sample.label,
                                truth=truth, error="cut off")  # fmt: skip
            records.append(record)
    format_of(path).write(path, replace(identity, **{k: v for k, v in changed.items() if k != "broken"}), records)
    return path


@pytest.mark.parametrize(("full", "suffix"), [(True, "jsonl"), (False, "jsonl"), (True, "parquet")])
def test_kept_predictions_compare_as_their_models(
    a: Model, shuffled: Model, source: Source, tmp_path: Path, full: bool, suffix: str
) -> None:
    """The second file's classes are in another order, and it has its protocols in another too."""
    first = kept(tmp_path / f"a.{suffix}", a, A, source, full=full)
    second = kept(tmp_path / f"b.{suffix}", shuffled, B[::-1], source, full=full)
    expected = compare_models(Member(a, A), Member(shuffled, B), source)
    for c, found in zip(expected, compare_predictions(first, second), strict=True):
        assert (found.protocol, found.a.views, found.b.views) == (c.protocol, c.a.views, c.b.views)
        assert (found.only_a_right, found.only_b_right, found.both_wrong) == (
            c.only_a_right, c.only_b_right, c.both_wrong,
        )  # fmt: skip
        assert (found.a.top5_errors, found.b.top5_errors, found.mcnemar_p) == (
            c.a.top5_errors, c.b.top5_errors, c.mcnemar_p,
        )  # fmt: skip
        assert list(found.classes) == list(c.classes)
        for one, other in zip(found.disagreements, c.disagreements, strict=True):
            assert replace(one, a_prob=0, b_prob=0) == replace(other, a_prob=0, b_prob=0)
        measured = c.agreement if full else {k: c.agreement[k] for k in ("top1_agreement", "top5_overlap")}
        assert found.agreement == pytest.approx(measured, rel=1e-3, abs=1e-6)
        assert found.seconds is None
    (one,) = compare_predictions(first, second, ["ten-crop"])
    assert one.protocol == "ten-crop"


def test_an_image_that_either_could_not_read_is_left_out(a: Model, b: Model, source: Source, tmp_path: Path) -> None:
    first = kept(tmp_path / "a.jsonl", a, A[:1], source, full=False, broken=7)
    second = kept(tmp_path / "b.jsonl", b, B[:1], source, full=False, broken=9)
    (found,) = compare_predictions(first, second)
    assert found.images == COUNT - 2
    assert [u["path"] for u in found.unreadable] == [source.samples[at].name for at in (7, 9)]
    assert all(image.index not in (7, 9) for image in found.disagreements)


def test_predictions_that_do_not_belong_together_are_refused(
    a: Model, b: Model, source: Source, tmp_path: Path
) -> None:
    first = kept(tmp_path / "a.jsonl", a, A[:1], source, full=False)
    for changed, words in (
        ({"data_sha256": "22"}, "different data"),
        ({"classes": 11}, "10 classes"),
        ({"labels": [*NAMES[:-1], "yak"]}, "'jay' is not a class"),
        ({"labels": None}, ""),
    ):
        second = kept(tmp_path / "b.jsonl", b, B[:1], source, full=False, **changed)
        if words:
            with pytest.raises(UsageError, match=words):
                compare_predictions(first, second)
        else:
            assert compare_predictions(first, second)[0].images == COUNT
    second = kept(tmp_path / "b.jsonl", b, B[1:], source, full=False)
    with pytest.raises(UsageError, match="ten-crop"):
        compare_predictions(first, second)
    with pytest.raises(UsageError, match="multiscale"):
        compare_predictions(first, first, ["multiscale"])
