"""Predictions: one record an image, in the order given, best classes first."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer.backends.load import Model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Memory, Source
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.predict import predict
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import multi_scale, single_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
NAMES = tuple(f"class {letter}" for letter in "abcdefghij")


@pytest.fixture(scope="module")
def images(picture: Callable[..., Picture]) -> list[Picture]:
    """Every third is wide, so that whole images fill two kinds of batches."""
    return [picture(36, 60 if number % 3 == 0 else 36, number) for number in range(12)]


@pytest.fixture(scope="module")
def source(images: list[Picture]) -> Source:
    return Memory("memory", [(f"photo {number}", image) for number, image in enumerate(images)])


@pytest.fixture(scope="module")
def model(small_net: ResNet, model_of: Callable[..., Model]) -> Model:
    return model_of(small_net, Labels(names=NAMES))


def test_records_come_in_the_sources_order_though_scores_do_not(model: Model, source: Source) -> None:
    whole = multi_scale((36,))
    scored = [
        result.index for result in score([Member(model, (whole,))], source, loading=Loading(batch_size=4, workers=0))
    ]
    assert scored != sorted(scored)
    for loading in (Loading(batch_size=4, workers=0), Loading(batch_size=1), Loading(batch_size=4, workers=2)):
        records = list(predict(model, whole, source, loading=loading))
        assert [record.path for record in records] == [sample.name for sample in source.samples]


def test_classes_and_probabilities_are_the_naive_ones(
    model: Model, source: Source, images: list[Picture], small_net: ResNet, naive: Any
) -> None:
    for record, image in zip(predict(model, single_crop(40, 32), source, top_k=3), images, strict=True):
        probs_K = naive(small_net).single_crop(image, 40, 32).numpy()
        best = np.argsort(-probs_K)[:3].tolist()
        assert [entry.index for entry in record.predictions] == best
        assert [entry.label for entry in record.predictions] == [NAMES[index] for index in best]
        assert [entry.prob for entry in record.predictions] == pytest.approx(probs_K[best], abs=1e-5)
        assert (record.model, record.protocol, record.backend) == ("random", "single-crop", "torch")
        assert record.error == ""


def test_more_classes_than_there_are_gives_all_of_them(model: Model, source: Source) -> None:
    for top_k in (10, 11, 10**9):
        for record in predict(model, single_crop(40, 32), source, top_k=top_k):
            probs = [entry.prob for entry in record.predictions]
            assert sorted(entry.index for entry in record.predictions) == list(range(10))
            assert probs == sorted(probs, reverse=True)
            assert sum(probs) == pytest.approx(1, abs=1e-5)
    for top_k in (0, -1):
        with pytest.raises(UsageError, match=f"at least 1; got {top_k}"):
            next(predict(model, single_crop(40, 32), source, top_k=top_k))


def test_an_image_that_cannot_be_read_is_a_record_in_its_place(
    model: Model, images: list[Picture], encode: Callable[..., bytes], tmp_path: Path
) -> None:
    broken = (0, 3, 4, 11)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(f"{number:02}.png", b"broken" if number in broken else encode(image))
    records = list(predict(model, multi_scale((36,)), open_source(tmp_path / "x.zip"), loading=Loading(batch_size=4)))
    assert [record.path for record in records] == [f"{number:02}.png" for number in range(12)]
    for number, record in enumerate(records):
        if number in broken:
            assert record.to_dict() == {"path": record.path, "error": record.error}
            assert record.error
        else:
            assert len(record.predictions) == 5
            assert set(record.to_dict()) == {"path", "model", "protocol", "backend", "predictions"}


def test_without_class_names_there_is_no_label(
    source: Source, small_net: ResNet, model_of: Callable[..., Model]
) -> None:
    for record in predict(model_of(small_net), single_crop(40, 32), source):
        assert [entry.label for entry in record.predictions] == [None] * 5


def test_records_are_given_as_soon_as_all_before_them_are_done(model: Model, images: list[Picture]) -> None:
    """The first comes out before the last is read."""
    read: list[int] = []

    class Watched(Memory):
        def read(self, sample: Any) -> Any:
            read.append(sample.key)
            return super().read(sample)

    many = Watched("memory", [(str(number), images[0]) for number in range(100)])
    records = predict(model, single_crop(40, 32), many, loading=Loading(batch_size=4, workers=0))
    assert next(records).path == "0"
    assert len(read) < 50
    assert [record.path for record in records] == [str(number) for number in range(1, 100)]


def test_an_image_that_is_asked_for_twice_comes_twice(model: Model, source: Source) -> None:
    for order in ([0, 0, 2, 1, 1, 3], [3, 1, 1, 0]):
        for batch_size in (1, 64):
            records = list(
                predict(
                    model, multi_scale((36,)), source, indices=order, loading=Loading(batch_size=batch_size, workers=0)
                )
            )
            assert [record.path for record in records] == [source.samples[index].name for index in order]
