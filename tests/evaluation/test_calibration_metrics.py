"""Metrics against scikit-learn where it has them, and image by image from their definitions where it has not."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss, recall_score
from torch import Tensor

from resnet_infer.evaluation.calibration_metrics import BINS, ClassificationMetrics
from resnet_infer.evaluation.evaluate import rank_of
from resnet_infer.evaluation.verdicts import judged, right_by_sets, verdicts_of


def drawn(images: int, classes: int, seed: int) -> tuple[list[int], Tensor]:
    """Classes and float32 probabilities, right more often than by chance."""
    rng = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (images,), generator=rng)
    logits_NK = 2 * torch.randn(images, classes, generator=rng)
    logits_NK[torch.arange(images), truth] += 2
    return truth.tolist(), logits_NK.softmax(1)


def counted(
    truth: list[int], p_NK: Tensor, real: list[set[int]] | None = None, at_once: int = 256
) -> ClassificationMetrics:
    metrics = ClassificationMetrics(p_NK.shape[1])
    for at in range(0, len(truth), at_once):
        some = slice(at, at + at_once)
        truth_N = torch.tensor(truth[some])
        block_NQC = judged(p_NK[some, None], truth_N, metrics=True, real=None if real is None else real[some])
        metrics.add(truth_N, verdicts_of(block_NQC[:, 0]))
    return metrics


def ece_by_definition(truth: list[int], p_NK: Tensor) -> float:
    """Guo et al. 2017, equation 3, one bin after another: (m - 1) / M < confidence <= m / M."""
    images, total = len(truth), 0.0
    rows = [(max(p), p.index(max(p)) == true) for true, p in zip(truth, p_NK.double().tolist(), strict=True)]
    for m in range(1, BINS + 1):
        inside = [(confidence, right) for confidence, right in rows if (m - 1) / BINS < confidence <= m / BINS]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = sum(confidence for confidence, _ in inside) / len(inside)
            total += len(inside) / images * abs(accuracy - confidence)
    return 100 * total


@pytest.mark.parametrize(("images", "classes"), [(529, 10), (300, 37), (5, 3)])
def test_metrics_are_scikit_learns(images: int, classes: int) -> None:
    truth, p_NK = drawn(images, classes, images)
    found = counted(truth, p_NK).to_dict()
    predicted = p_NK.argmax(1).tolist()
    matrix = confusion_matrix(truth, predicted, labels=range(classes))
    dense = np.zeros_like(matrix)
    for true, guess, count in found["confusion"]:
        dense[true, guess] = count
    np.testing.assert_array_equal(dense, matrix)
    assert len(found["confusion"]) == np.count_nonzero(matrix)
    present = sorted(set(truth))
    recall = recall_score(truth, predicted, labels=present, average=None)
    assert [record["index"] for record in found["classes"]] == sorted({*truth, *predicted})
    error_of = {record["index"]: record["top1_err"] for record in found["classes"]}
    assert [error_of[index] for index in present] == pytest.approx(list(100 * (1 - recall)))
    assert [record["images"] for record in found["classes"]] == [truth.count(r["index"]) for r in found["classes"]]
    assert found["mean_class_err"] == pytest.approx(100 * (1 - recall.mean()))
    p_exact_NK = p_NK.double().numpy()
    normed = p_exact_NK / p_exact_NK.sum(1, keepdims=True)  # scikit-learn insists on it to the last bit
    assert found["nll"] == pytest.approx(log_loss(truth, normed, labels=range(classes)), rel=1e-6)
    onehot = np.eye(classes)[truth]
    assert found["brier"] == pytest.approx(((p_exact_NK - onehot) ** 2).sum(1).mean(), rel=1e-9)
    assert found["images"] == images


@given(st.integers(1, 60), st.sampled_from([2, 3, 7, 10]), st.integers(0, 99))
def test_the_calibration_error_is_its_definition_bin_by_bin(images: int, classes: int, seed: int) -> None:
    truth, p_NK = drawn(images, classes, seed)
    metrics = counted(truth, p_NK)
    assert metrics.to_dict()["ece"] == pytest.approx(ece_by_definition(truth, p_NK), abs=1e-9)
    assert sum(part.images for part in metrics.bins()) == images


def test_confidences_on_an_edge_belong_to_the_bin_below_and_none_is_lost() -> None:
    """0.2 and 1 are the upper ends of bins 3 and 15."""
    p_NK = torch.tensor([[0.2] * 5, [1.0, 0, 0, 0, 0]], dtype=torch.float64)
    assert [number for number, part in enumerate(counted([0, 0], p_NK).bins()) if part.images] == [2, 14]


def test_a_perfect_and_sure_model_has_no_error_of_any_kind() -> None:
    found = counted([0, 1, 2, 2], torch.eye(3)[[0, 1, 2, 2]]).to_dict()
    assert (found["nll"], found["brier"], found["ece"], found["mean_class_err"]) == (0, 0, 0, 0)
    assert found["confusion"] == [[0, 0, 1], [1, 1, 1], [2, 2, 2]]


def test_a_sure_and_wrong_model_has_a_finite_likelihood() -> None:
    found = counted([0], torch.tensor([[0.0, 1.0]])).to_dict()
    assert 80 < found["nll"] < 100
    assert (found["brier"], found["ece"]) == (2, 100)


@given(st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=12), st.data())
def test_errors_with_ties_are_those_of_an_evaluation(levels: list[list[int]], data: st.DataObject) -> None:
    p_NK = torch.tensor(levels, dtype=torch.float32) / 5
    truth = [data.draw(st.integers(0, 6)) for _ in levels]
    found = counted(truth, p_NK).to_dict()
    ranks = [rank_of(true, p_K) for true, p_K in zip(truth, p_NK, strict=True)]
    assert sum(record["top1_errors"] for record in found["classes"]) == sum(rank >= 1 for rank in ranks)
    assert sum(record["top5_errors"] for record in found["classes"]) == sum(rank >= 5 for rank in ranks)
    assert sum(n for true, guess, n in found["confusion"] if true == guess) == sum(rank == 0 for rank in ranks)
    assert sum(n for _, _, n in found["confusion"]) == len(levels)


def test_parts_merge_to_the_whole_in_any_order() -> None:
    truth, p_NK = drawn(700, 10, 3)
    real = [{0}, set(), {1, 2}]
    whole = counted(truth, p_NK, [real[number % 3] for number in range(700)], at_once=1)
    parts = [counted(truth[k::3], p_NK[k::3], [real[k]] * len(truth[k::3])) for k in range(3)]
    joined = ClassificationMetrics(10)
    for part in reversed(parts):
        joined.merge(part)
    expected, found = whole.to_dict(), joined.to_dict()
    for key in ("nll", "brier", "ece", "mean_class_err"):
        assert found[key] == pytest.approx(expected[key], rel=1e-12)
    for key in ("images", "confusion", "classes", "real"):
        assert found[key] == expected[key]
    with pytest.raises(ValueError, match="7 classes"):
        joined.merge(ClassificationMetrics(7))


def test_a_class_that_is_only_predicted_has_no_error() -> None:
    found = counted([0, 0], torch.tensor([[0.9, 0.1], [0.1, 0.9]])).to_dict()
    assert [(record["images"], record["top1_err"]) for record in found["classes"]] == [(2, 50), (0, None)]
    assert found["mean_class_err"] == 50


def test_names_are_given_to_the_classes_that_have_one() -> None:
    found = counted([0, 1], torch.eye(2)).to_dict({1: "hen"}.get)
    assert [record["label"] for record in found["classes"]] == [None, "hen"]


# ReaL labels


def test_images_without_a_real_label_are_left_out_and_any_of_several_is_right() -> None:
    p_NK = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7], [0.5, 0.3, 0.2]])
    metrics = counted([0, 0, 0, 0], p_NK, [{0}, {0, 1}, set(), {1, 2}])
    assert metrics.to_dict()["real"] == {
        "images": 3, "left_out": 1, "top1_errors": 1, "top1_err": pytest.approx(100 / 3),
    }  # fmt: skip
    assert "real" not in counted([0], p_NK[:1]).to_dict()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.data())
def test_a_set_is_right_if_one_of_its_classes_beats_all_others(levels: list[int], data: st.DataObject) -> None:
    right = data.draw(st.sets(st.integers(0, len(levels) - 1), min_size=1))
    outside = [level for index, level in enumerate(levels) if index not in right]
    best = max(levels[index] for index in right)
    assert bool(right_by_sets(torch.tensor(levels)[None, None] / 4, [right])) == all(best > level for level in outside)


def test_one_label_is_judged_as_the_rank_judges_it() -> None:
    truth, p_NK = drawn(50, 6, 1)
    for true, p_K in zip(truth, p_NK, strict=True):
        assert bool(right_by_sets(p_K[None, None], [{true}])) == (rank_of(true, p_K) == 0)
        assert math.isclose(float(p_K.sum()), 1, rel_tol=1e-5)
