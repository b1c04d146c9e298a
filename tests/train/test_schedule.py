"""Learning rates against PyTorch's schedulers and the paper's sentences."""

import warnings
from dataclasses import replace

import pytest
import torch

from resnet_infer.train.recipe import RECIPES, Recipe
from resnet_infer.train.schedule import Schedule

CIFAR10 = RECIPES["cifar10"]


def rates_of(scheduler: torch.optim.lr_scheduler.LRScheduler, iterations: int) -> list[float]:
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer steps here
        for _ in range(iterations):
            rates.append(scheduler.get_last_lr()[0])
            scheduler.step()
    return rates


def optimizer(lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1)], lr=lr)


def test_steps_are_multi_step_lr() -> None:
    recipe = CIFAR10.rescaled(64)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer(), [32, 48], gamma=0.1)
    ours = Schedule(recipe)
    assert [ours.lr(i) for i in range(64)] == pytest.approx(rates_of(theirs, 64))


def test_the_paper_divides_at_32k_and_48k() -> None:
    ours = Schedule(CIFAR10)
    assert [ours.lr(i) for i in (0, 31_999, 32_000, 47_999, 48_000, 63_999)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


@pytest.mark.parametrize("iterations", [7, 100, 300])
def test_one_cycle_is_pytorchs(iterations: int) -> None:
    recipe = replace(CIFAR10, schedule="one-cycle", iterations=iterations, lr=0.2)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer(), 0.2, total_steps=iterations, cycle_momentum=False)
    ours = Schedule(recipe)
    assert [ours.lr(i) for i in range(iterations)] == pytest.approx(rates_of(theirs, iterations), abs=2e-6)


def test_warm_up_ends_on_training_error_and_leaves_the_rest_unmoved() -> None:
    ours = Schedule(replace(CIFAR10, warmup_lr=0.01))
    ours.saw_test_error(10)
    ours.saw_training_error(80)
    assert ours.lr(400) == 0.01
    ours.saw_training_error(79.9)
    assert ours.lr(400) == 0.1
    ours.saw_training_error(95)  # once ended, it stays so
    assert (ours.lr(31_999), ours.lr(32_000)) == pytest.approx((0.1, 0.01))


def plateau() -> Schedule:
    recipe: Recipe = replace(RECIPES["imagenet"], patience=2)
    return Schedule(recipe)


def test_plateaus_divide_by_ten() -> None:
    ours = plateau()
    rates = []
    for err in (50, 40, 41, 40, 39, 39, 39.5, 38):
        ours.saw_test_error(err)
        rates.append(ours.lr(0))
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001])


def test_a_schedule_goes_on_where_it_was() -> None:
    first = plateau()
    for err in (50, 40, 41):
        first.saw_test_error(err)
    second = plateau()
    second.load_state_dict(first.state_dict())
    second.saw_test_error(45)
    assert second.lr(0) == pytest.approx(0.01)
