"""Flips and McNemar's exact test, against SciPy's binomial test and counting by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from resnet_infer.evaluation.evaluate import rank_of
from resnet_infer.evaluation.flips import Pairs, judge, mcnemar_exact


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_p_is_the_binomial_tests(only_a: int, only_b: int) -> None:
    flips = only_a + only_b
    expected = binomtest(only_a, flips, 0.5).pvalue if flips else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(only_a, only_b) == mcnemar_exact(only_b, only_a)


@pytest.mark.parametrize(("only_a", "only_b"), [(50_000, 49_000), (3000, 3001), (20_000, 20_000), (249, 415)])
def test_mcnemars_p_holds_for_many_flips(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)


def test_mcnemars_p_by_hand() -> None:
    """1 and 7 flips: twice the chance of at most one head in eight."""
    assert mcnemar_exact(1, 7) == mcnemar_exact(7, 1) == 2 * (1 + 8) / 2**8
    assert mcnemar_exact(0, 0) == mcnemar_exact(4, 4) == 1


@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 99))
def test_counts_are_those_by_hand(images: int, classes: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    a_NK = torch.randint(0, 4, (images, classes), generator=rng) / 4  # few levels, so that ties occur
    b_NK = torch.randint(0, 4, (images, classes), generator=rng) / 4
    truth = torch.randint(classes, (images,), generator=rng).tolist()
    pairs = Pairs(lambda index: f"class {index}")
    for index, true in enumerate(truth):
        pairs.add(index, f"{index}.png", true, judge(a_NK[index], true), judge(b_NK[index], true))
    right = [[rank_of(true, p_K) == 0 for true, p_K in zip(truth, side, strict=True)] for side in (a_NK, b_NK)]
    flips = list(zip(*right, strict=True))
    assert pairs.outcomes["both right"] == flips.count((True, True))
    assert pairs.outcomes["only A right"] == flips.count((True, False))
    assert pairs.outcomes["only B right"] == flips.count((False, True))
    assert pairs.outcomes["both wrong"] == flips.count((False, False))
    assert [pairs.top1_errors(side) for side in "ab"] == [side.count(False) for side in right]
    for side, p_NK in (("a", a_NK), ("b", b_NK)):
        assert pairs.top5_errors[side] == sum(rank_of(true, p_K) >= 5 for true, p_K in zip(truth, p_NK, strict=True))
    for record in pairs.classes():
        own = [at for at, true in enumerate(truth) if true == record.index]
        assert record.images == len(own)
        assert record.a_errors == sum(not right[0][at] for at in own)
        assert record.b_errors == sum(not right[1][at] for at in own)
        assert record.only_a_right == sum(right[0][at] and not right[1][at] for at in own)
        assert record.only_b_right == sum(right[1][at] and not right[0][at] for at in own)
    assert sum(record.images for record in pairs.classes()) == images
    flipped = [at for at, (x, y) in enumerate(flips) if x != y]
    listed = [image.index for image in pairs.disagreements]
    assert set(flipped) <= set(listed)
    assert listed == sorted(listed)
    others = [at for at in range(images) if a_NK[at].argmax() != b_NK[at].argmax()]
    assert set(listed) == {*flipped, *others}


def test_images_without_a_class_have_no_outcome_but_disagree() -> None:
    pairs = Pairs({}.get)
    for index, (p, q) in enumerate((([0.7, 0.3], [0.2, 0.8]), ([0.9, 0.1], [0.6, 0.4]))):
        pairs.add(index, "x.png", None, judge(torch.tensor(p), None), judge(torch.tensor(q), None))
    assert pairs.outcomes == {"": 2}
    assert (pairs.top1_agreement, pairs.top5_overlap, pairs.classes()) == (0.5, 1, [])
    (image,) = pairs.disagreements
    assert (image.index, image.truth, image.a_class, image.b_class) == (0, None, 0, 1)
    assert (image.a_prob, image.b_prob) == pytest.approx((0.7, 0.8))
