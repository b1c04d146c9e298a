"""Agreement of two models: every number from its formula, image by image, and errors as an evaluation counts them."""

import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.agreement import Agreement, agreement, measure_agreement
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.score import DEFAULT_BATCH, Member
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import multi_scale, single_crop

Picture = np.ndarray[Any, np.dtype[np.uint8]]
NAMES = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "twice")
LABELS = Labels(names=NAMES)
COUNT = 30
CROP = single_crop(40, 32)


def by_formula(reference: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]) -> dict[str, float]:
    """Every measure in plain Python, one image after another."""
    same, overlaps, cosines, divergences, differences = 0, [], [], [], []
    for p, q in zip(reference, candidate, strict=True):
        classes = range(len(p))
        a, b = sorted(classes, key=lambda k: -p[k]), sorted(classes, key=lambda k: -q[k])
        same += a[0] == b[0]
        overlaps.append(len(set(a[:5]) & set(b[:5])) / len(a[:5]))
        x, y = [math.log(value) for value in p], [math.log(value) for value in q]
        divergences.append(sum(p[k] * (x[k] - y[k]) for k in classes))
        x, y = [value - sum(x) / len(x) for value in x], [value - sum(y) / len(y) for value in y]
        dot = sum(x[k] * y[k] for k in classes)
        cosines.append(dot / math.sqrt(sum(value**2 for value in x) * sum(value**2 for value in y)))
        differences += [abs(x[k] - y[k]) for k in classes]
    images = len(reference)
    return {
        "images": images,
        "top1_agreement": same / images,
        "top5_overlap": sum(overlaps) / images,
        "logit_cosine": sum(cosines) / images,
        "kl_divergence": sum(divergences) / images,
        "max_diff": max(differences),
        "mean_diff": sum(differences) / len(differences),
        "p99_diff": float(np.percentile(differences, 99, method="inverted_cdf")),
    }


def softmaxes(images: int, classes: int, seed: int) -> Tensor:
    return (2 * torch.randn(images, classes, generator=torch.Generator().manual_seed(seed))).softmax(1)


def measures(found: Agreement) -> dict[str, float]:
    return {key: value for key, value in asdict(found).items() if not key.endswith("errors")}


@pytest.fixture(scope="module")
def images(picture: Callable[..., Picture]) -> list[tuple[int, Picture]]:
    classes = np.random.default_rng(4).integers(0, 10, COUNT).tolist()
    return [(true, picture(40 + seed % 3, 45 - seed % 4, seed)) for seed, true in enumerate(classes)]


@pytest.fixture(scope="module")
def labelled(images: list[tuple[int, Picture]], encode: Any, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("data") / "labelled.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, (true, pixels) in enumerate(images):
            archive.writestr(f"{NAMES[true]}/{number:02}.png", encode(pixels))
    return open_source(path)


@pytest.fixture(scope="module")
def unlabelled(
    images: list[tuple[int, Picture]], encode: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[list[int]], Source]:
    """unlabelled(order): these images as a list file in this order."""
    folder = tmp_path_factory.mktemp("list")
    for number, (_, pixels) in enumerate(images):
        (folder / f"{number}.png").write_bytes(encode(pixels))

    def listed(order: list[int]) -> Source:
        path = folder / "images.txt"
        path.write_text("".join(f"{number}.png\n" for number in order))
        return open_source(path)

    return listed


@pytest.fixture(scope="module")
def changed(small_net: ResNet) -> dict[str, Tensor]:
    """Weights far enough from the net's to change some best classes, but not all."""
    noise = torch.randn(small_net.fc.weight.shape, generator=torch.Generator().manual_seed(5))
    return {"fc__weight": small_net.fc.weight.detach() + 0.1 * noise}


@pytest.fixture(scope="module")
def reference(small_net: ResNet, model_of: Callable[..., Model]) -> Model:
    return model_of(small_net, LABELS)


@pytest.fixture(scope="module")
def candidate(small_net: ResNet, model_of: Callable[..., Model], changed: dict[str, Tensor]) -> Model:
    return model_of(small_net, LABELS, **changed)


@given(st.integers(1, 40), st.sampled_from([2, 3, 5, 6, 10, 21]), st.integers(0, 99))
def test_every_measure_is_its_formula_image_by_image(images: int, classes: int, seed: int) -> None:
    p_NK, q_NK = softmaxes(images, classes, seed), softmaxes(images, classes, seed + 1)
    found = agreement(p_NK, q_NK)
    assert measures(found) == pytest.approx(by_formula(p_NK.tolist(), q_NK.tolist()), rel=1e-9, abs=1e-12)
    assert (found.reference_errors, found.candidate_errors, found.top1_drop) == (None, None, None)


def test_models_are_compared_by_their_scores_on_every_image(
    reference: Model,
    candidate: Model,
    images: list[tuple[int, Picture]],
    labelled: Source,
    small_net: ResNet,
    changed: dict[str, Tensor],
    naive: Any,
) -> None:
    order = [int(Path(sample.name).stem) for sample in labelled.samples]
    other = type(small_net)(small_net.spec).eval()
    other.load_state_dict(dict(small_net.state_dict()) | {"fc.weight": changed["fc__weight"]})
    scores = [[naive(net).single_crop(images[n][1], 40, 32).tolist() for n in order] for net in (small_net, other)]
    expected = by_formula(*scores)
    assert 0.3 < expected["top1_agreement"] < 1
    assert 0.3 < expected["top5_overlap"] < 1
    assert measures(measure_agreement(reference, candidate, CROP, labelled)) == pytest.approx(
        expected, rel=1e-3, abs=1e-5
    )


@pytest.mark.parametrize("protocol", [CROP, multi_scale((32, 40))], ids=lambda protocol: str(protocol.name))
def test_errors_and_drop_are_those_of_two_evaluations(
    reference: Model, candidate: Model, labelled: Source, protocol: Any
) -> None:
    (first,), (second,) = (evaluate([Member(model, (protocol,))], labelled) for model in (reference, candidate))
    assert first.top1_errors != second.top1_errors
    found = measure_agreement(reference, candidate, protocol, labelled)
    assert (found.reference_errors, found.candidate_errors) == (first.top1_errors, second.top1_errors)
    assert found.top1_drop == pytest.approx(second.top1_err - first.top1_err, abs=1e-3)
    assert found.to_dict()["top1_drop"] == found.top1_drop
    assert found.images == COUNT


def test_a_tie_with_the_true_class_is_an_error_as_in_an_evaluation(
    reference: Model, labelled: Source, small_net: ResNet, model_of: Callable[..., Model]
) -> None:
    constant = model_of(small_net, LABELS, fc__weight=torch.zeros(10, 64), fc__bias=torch.zeros(10))
    assert measure_agreement(reference, constant, CROP, labelled).candidate_errors == COUNT
    p_NK = torch.tensor([[0.4, 0.4, 0.2], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    assert agreement(p_NK, p_NK, [0, 0, 0]).reference_errors == 2
    assert agreement(p_NK, p_NK, [1, 1, 2]).candidate_errors == 2


def test_a_model_agrees_with_itself_in_everything(reference: Model, labelled: Source) -> None:
    found = measure_agreement(reference, reference, CROP, labelled)
    assert (found.top1_agreement, found.top5_overlap, found.kl_divergence) == (1, 1, 0)
    assert (found.max_diff, found.mean_diff, found.p99_diff, found.top1_drop) == (0, 0, 0, 0)
    assert found.logit_cosine == pytest.approx(1, abs=1e-9)


def test_scores_that_are_exactly_zero_give_finite_measures() -> None:
    sure, other = torch.eye(4), torch.eye(4).flip(0)
    found = agreement(sure, other)
    assert all(math.isfinite(value) for value in measures(found).values())
    assert found.kl_divergence > 80
    assert found.top1_agreement == 0
    assert agreement(sure, sure).kl_divergence == 0


def test_order_and_batch_size_do_not_matter(
    reference: Model,
    candidate: Model,
    unlabelled: Callable[[list[int]], Source],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = list(range(COUNT))
    expected = measures(measure_agreement(reference, candidate, CROP, unlabelled(order)))
    assert expected["top1_agreement"] < 1
    shuffled = np.random.default_rng(0).permutation(order).tolist()
    for batch in (1, 7, 64):
        monkeypatch.setitem(DEFAULT_BATCH, ("cpu", "cifar"), batch)
        found = measures(measure_agreement(reference, candidate, CROP, unlabelled(shuffled)))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_without_classes_there_are_no_errors_and_every_image_advances_twice(
    reference: Model, candidate: Model, unlabelled: Callable[[list[int]], Source]
) -> None:
    advanced: list[float] = []
    found = measure_agreement(reference, candidate, CROP, unlabelled(list(range(9))), advance=advanced.append)
    assert (found.reference_errors, found.candidate_errors, found.top1_drop) == (None, None, None)
    assert sum(advanced) == 18


def test_an_unreadable_image_is_named(reference: Model, candidate: Model, labelled: Source, tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    path.write_bytes(Path(labelled.name).read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("fox/broken.jpg", b"\xff\xd8\xff broken")
    with pytest.raises(DataError, match=r"fox/broken\.jpg"):
        measure_agreement(reference, candidate, CROP, open_source(path))


def test_models_of_other_class_counts_are_refused(
    reference: Model, labelled: Source, random_net: Callable[..., ResNet], model_of: Callable[..., Model]
) -> None:
    with pytest.raises(UsageError, match="10 classes and random 7"):
        measure_agreement(reference, model_of(random_net("resnet20", 7)), CROP, labelled)


def test_classes_that_are_not_the_models_are_refused(
    candidate: Model, labelled: Source, small_net: ResNet, model_of: Callable[..., Model]
) -> None:
    others = model_of(small_net, Labels(names=tuple(f"class {number}" for number in range(10))))
    with pytest.raises(DataError, match="match no class"):
        measure_agreement(others, candidate, CROP, labelled)
