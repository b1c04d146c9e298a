"""Evaluation: errors counted from the definition, an honest interval, and no silent losses."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from resnet_infer.backends.load import Model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.evaluate import evaluate, rank_of
from resnet_infer.evaluation.rows import wilson_interval
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import multi_scale, single_crop, ten_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
NAMES = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "twice")
LABELS = Labels(names=NAMES)
PROTOCOLS = (single_crop(40, 32), ten_crop(40, 32), multi_scale((32, 40)))
COUNT = 40
BROKEN = ("brown/broken.png", "lazy/also broken.jpg")


@pytest.fixture(scope="module")
def images(picture: Callable[..., Picture]) -> list[tuple[int, Picture]]:
    """(class, pixels); classes at random, so that the network is right now and then."""
    classes = np.random.default_rng(0).integers(0, 10, COUNT).tolist()
    return [(true, picture(40 + seed % 3, 45 - seed % 4, seed)) for seed, true in enumerate(classes)]


@pytest.fixture(scope="module")
def source(images: list[tuple[int, Picture]], encode: Any, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("data") / "labelled.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, (true, pixels) in enumerate(images):
            archive.writestr(f"{NAMES[true]}/{number:02}.png", encode(pixels))
    return open_source(path)


@pytest.fixture(scope="module")
def damaged(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The same images and two more that cannot be read."""
    path = tmp_path_factory.mktemp("data") / "damaged.zip"
    path.write_bytes(Path(source.name).read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        for name in BROKEN:
            archive.writestr(name, b"\xff\xd8\xff broken")
    return open_source(path)


@pytest.fixture(scope="module")
def model(small_net: ResNet, model_of: Callable[..., Model]) -> Model:
    return model_of(small_net, LABELS)


def test_errors_are_counted_as_scikit_learn_counts_them(
    model: Model, source: Source, images: list[tuple[int, Picture]], small_net: ResNet, naive: Any
) -> None:
    truth = np.array([true for true, _ in images])
    reference = naive(small_net)
    for row, probs_NK in zip(
        evaluate([Member(model, tuple(PROTOCOLS))], source),
        (
            torch.stack([reference.single_crop(pixels, 40, 32) for _, pixels in images]),
            torch.stack([reference.ten_crop(pixels, 40, 32) for _, pixels in images]),
            torch.stack([reference.multi_scale(pixels, (32, 40), "window-softmax") for _, pixels in images]),
        ),
        strict=True,
    ):
        wrong = [
            COUNT - top_k_accuracy_score(truth, probs_NK.numpy(), k=k, normalize=False, labels=range(10))
            for k in (1, 5)
        ]
        assert 0 < wrong[1] < wrong[0] < COUNT
        assert [row.top1_errors, row.top5_errors] == wrong
        assert row.top1_err == pytest.approx(100 * wrong[0] / COUNT, abs=1e-4)
        assert row.top5_err == pytest.approx(100 * wrong[1] / COUNT, abs=1e-4)
        assert row.top1_err_ci95 == pytest.approx(wilson_interval(wrong[0], COUNT), abs=1e-4)
        assert row.images == COUNT


def test_rows_say_what_was_measured(model: Model, source: Source) -> None:
    rows = evaluate([Member(model, tuple(PROTOCOLS))], source)
    assert [row.protocol for row in rows] == ["single-crop", "ten-crop", "multiscale"]
    assert [row.head for row in rows] == ["pooled", "pooled", "dense"]
    for row in rows:
        assert (row.model, row.architecture, row.backend, row.device) == ("random", "resnet20", "torch", "cpu")
        assert (row.data, row.precision, row.unreadable) == (source.name, "fp32", [])
        assert row.images_per_s == pytest.approx(COUNT / row.seconds, rel=0.05)


def test_protocols_together_are_as_each_alone(model: Model, source: Source) -> None:
    together = evaluate([Member(model, tuple(PROTOCOLS))], source, loading=Loading(batch_size=3, workers=2))
    for row, protocol in zip(together, PROTOCOLS, strict=True):
        (alone,) = evaluate([Member(model, (protocol,))], source, loading=Loading(workers=0))
        assert (row.top1_errors, row.top5_errors, row.views) == (alone.top1_errors, alone.top5_errors, alone.views)


def test_a_model_that_cannot_decide_is_always_wrong(
    source: Source, small_net: ResNet, model_of: Callable[..., Model]
) -> None:
    constant = model_of(small_net, LABELS, fc__weight=torch.zeros(10, 64), fc__bias=torch.zeros(10))
    for row in evaluate([Member(constant, tuple(PROTOCOLS))], source):
        assert (row.top1_errors, row.top5_errors) == (COUNT, COUNT)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_the_rank_counts_the_classes_before_and_beside_the_true_one(levels: list[int], data: st.DataObject) -> None:
    truth = data.draw(st.integers(0, len(levels) - 1))
    others = levels[:truth] + levels[truth + 1 :]
    assert rank_of(truth, torch.tensor(levels) / 5) == sum(level >= levels[truth] for level in others)


# the interval


@pytest.mark.parametrize(
    ("errors", "images", "low", "high"),
    [(0, 10, 0, 27.75), (10, 10, 72.25, 100), (81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (1, 29, 0.61, 17.18)],
)
def test_wilsons_interval_is_the_published_one(errors: int, images: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3; and the well-known 0 and 10 of 10."""
    assert wilson_interval(errors, images) == pytest.approx((low, high), abs=0.006)


@given(st.integers(1, 50_000), st.data())
def test_wilsons_interval_holds_the_rates_that_a_score_test_does_not_reject(images: int, data: st.DataObject) -> None:
    """Its ends solve (rate - p)^2 = z^2 p (1 - p) / n."""
    errors = data.draw(st.integers(0, images))
    rate, z = errors / images, NormalDist().inv_cdf(0.975)
    ends = np.roots([1 + z * z / images, -(2 * rate + z * z / images), rate * rate])
    low, high = wilson_interval(errors, images)
    np.testing.assert_allclose([low, high], 100 * np.sort(ends.real), atol=1e-4)
    assert 0 <= low <= 100 * rate + 1e-9
    assert 100 * rate - 1e-9 <= high <= 100


# images that cannot be read


def test_unreadable_images_end_an_evaluation_and_are_all_named(
    model: Model, damaged: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    for workers in (0, 2):
        with pytest.raises(DataError, match=f"2 of {COUNT + 2} images cannot be read.*--on-error skip"):
            evaluate([Member(model, (PROTOCOLS[0],))], damaged, loading=Loading(workers=workers))
        captured = capsys.readouterr()
        assert all(captured.err.count(name) == 1 for name in BROKEN)
        assert captured.out == ""


@pytest.mark.parametrize("on_error", ["skip", "count-wrong"])
def test_unreadable_images_are_left_out_or_count_as_errors(
    on_error: Any, model: Model, source: Source, damaged: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = 2 if on_error == "count-wrong" else 0
    advanced: list[float] = []
    clean = evaluate([Member(model, tuple(PROTOCOLS))], source)
    rows = evaluate([Member(model, tuple(PROTOCOLS))], damaged, on_error=on_error, advance=advanced.append)
    for row, whole in zip(rows, clean, strict=True):
        assert row.images == COUNT + counted
        assert row.top1_errors == whole.top1_errors + counted
        assert row.top5_errors == whole.top5_errors + counted
        assert row.top1_err == pytest.approx(100 * row.top1_errors / row.images, abs=1e-4)
        assert sorted(entry["path"] for entry in row.unreadable) == sorted(BROKEN)
        assert all(entry["error"] for entry in row.unreadable)
        assert row.on_error == on_error
    assert sum(advanced) == COUNT + 2
    printed = capsys.readouterr().err
    assert all(printed.count(name) == 1 for name in BROKEN)


@pytest.mark.parametrize("on_error", ["fail", "skip", "count-wrong"])
def test_data_without_one_readable_image_is_an_error(on_error: Any, model: Model, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in BROKEN:
            archive.writestr(name, b"")
    with pytest.raises(DataError, match="read"):
        evaluate([Member(model, (PROTOCOLS[0],))], open_source(tmp_path / "x.zip"), on_error=on_error)


def test_what_cannot_be_evaluated_is_refused_before_any_work(
    model: Model, source: Source, small_net: ResNet, model_of: Callable[..., Model]
) -> None:
    with pytest.raises(UsageError, match="fail, skip, count-wrong"):
        evaluate([Member(model, tuple(PROTOCOLS))], source, on_error="ignore")  # type: ignore[arg-type]
    others = model_of(small_net, Labels(names=tuple(f"class {number}" for number in range(10))))
    with pytest.raises(DataError, match="10 of 10 class folders match no class"):
        evaluate([Member(others, tuple(PROTOCOLS))], source)


def test_a_model_without_class_names_takes_the_folders_in_sorted_order(
    source: Source,
    small_net: ResNet,
    model_of: Callable[..., Model],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (unnamed,) = evaluate([Member(model_of(small_net), (PROTOCOLS[0],))], source)
    assert "sorted order" in capsys.readouterr().err
    (named,) = evaluate([Member(model_of(small_net, Labels(names=tuple(sorted(NAMES)))), (PROTOCOLS[0],))], source)
    assert (unnamed.top1_errors, unnamed.top5_errors) == (named.top1_errors, named.top5_errors)
