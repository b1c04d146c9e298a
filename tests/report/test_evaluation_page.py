"""The page of an evaluation: its figures are the metrics', whatever the number of classes and their names."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from resnet_infer.evaluation.calibration_metrics import BINS, ClassificationMetrics
from resnet_infer.evaluation.rows import EvalRow
from resnet_infer.evaluation.verdicts import judged, verdicts_of
from resnet_infer.report.evaluation_page import MATRIX_CLASSES, SHOWN, eval_page


def counted(truth_N: Tensor, p_NK: Tensor, real: Sequence[set[int]] | None = None) -> ClassificationMetrics:
    metrics = ClassificationMetrics(p_NK.shape[1])
    metrics.add(truth_N, verdicts_of(judged(p_NK[:, None], truth_N, metrics=True, real=real)[:, 0]))
    return metrics


def row_of(classes: int, images: int, names: dict[int, str], **changed: Any) -> EvalRow:
    rng = torch.Generator().manual_seed(classes)
    p_NK = (3 * torch.randn(images, classes, generator=rng)).softmax(1)
    real = [changed["real"]] * images if "real" in changed else None
    values = counted(torch.randint(classes, (images,), generator=rng), p_NK, real).to_dict(names.get)
    return EvalRow(
        model=changed.get("model", "net"), architecture="resnet20", data=changed.get("data", "data.zip"),
        protocol="single-crop", views="centre crop", head="pooled", backend="torch", device="cpu", precision="fp32",
        images=images, top1_errors=1, top5_errors=0, top1_err=12.34, top5_err=0.5, top1_err_ci95=(1.5, 30.25),
        images_per_s=10.0, seconds=1.0, unreadable=[], on_error="fail", metrics=values,
    )  # fmt: skip


def test_the_figures_are_on_the_page(read: Any, assert_harmless: Callable[[str], None]) -> None:
    row = row_of(6, 300, {0: "ant", 1: "bee"}, real={0})
    text = eval_page([row])
    assert_harmless(text)
    shown = "".join(read(text).text)
    values = row.metrics
    assert values is not None
    for figure in (
        f"{values['nll']:.4f}", f"{values['ece']:.2f}", f"{values['brier']:.4f}", "12.34", "1.50 .. 30.25", "ant",
        f"{values['real']['top1_errors']} of 300", *(f"{c['top1_err']:.2f}" for c in values["classes"]),
    ):  # fmt: skip
        assert figure in shown
    used = sum(part["images"] > 0 for part in values["calibration"])
    assert 1 < used < BINS
    assert sum(tag == "title" for tag, _ in read(text).tags) == 1 + used  # the page's, and a hint on every bar
    matrix = [attributes for tag, attributes in read(text).tags if tag == "td" and "style" in attributes]
    assert len(matrix) == 36


def test_many_classes_are_folded_and_have_no_matrix(read: Any) -> None:
    row = row_of(MATRIX_CLASSES + 30, 3000, {})
    found = read(eval_page([row]))
    assert sum(tag == "details" for tag, _ in found.tags) == 2
    assert not any("style" in attributes for _, attributes in found.tags)
    assert f"{MATRIX_CLASSES + 30 - SHOWN} more classes" in found.text
    assert "class 3" in found.text


def test_names_of_all_kinds_are_escaped(hostile: str, assert_harmless: Callable[[str], None]) -> None:
    rows = [row_of(3, 40, dict.fromkeys(range(3), hostile), model=hostile, data=hostile) for _ in range(2)]
    assert_harmless(eval_page(rows))


def test_a_model_without_errors_has_a_page() -> None:
    metrics = counted(torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    row = row_of(2, 5, {})
    perfect = type(row)(**{**{f: getattr(row, f) for f in row.__dataclass_fields__}, "metrics": metrics.to_dict()})
    assert "every image is right" in eval_page([perfect])
