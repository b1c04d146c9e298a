"""The learning rate of every iteration: the paper's steps or plateaus, or one cycle, after an optional warm-up.

Warm-up (section 4.2, 110 layers): a small rate until the TRAINING error is below 80 %, then the recipe's own, with the
rest of the schedule unmoved.
"""

import math
from typing import Any

from resnet_infer.errors import CheckpointError
from resnet_infer.train.recipe import Recipe

ONE_CYCLE_RISE = 0.3
"""Share of the iterations in which one cycle rises, from lr / 25; then it falls to nothing. Smith 2018."""
ONE_CYCLE_START = 1 / 25


class Schedule:
    """What the rate depends on besides the iteration: whether the warm-up has ended, and the plateaus so far."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.warming = recipe.warmup_lr > 0
        self.train_err = math.inf
        self.plateaus = 0
        self.best_err = math.inf
        self.stale = 0

    def lr(self, iteration: int) -> float:
        """The rate of an iteration, counted from 0."""
        recipe = self.recipe
        if self.warming:
            return recipe.warmup_lr
        if recipe.schedule == "one-cycle":
            return recipe.lr * _one_cycle(iteration, recipe.iterations)
        drops = self.plateaus if recipe.schedule == "plateau" else sum(drop <= iteration for drop in recipe.drops)
        return recipe.lr * recipe.drop_factor**drops

    def saw_training_error(self, err: float) -> None:
        """Take a training error in percent, averaged over `log_every` iterations; it can end the warm-up."""
        self.train_err = err
        if err < self.recipe.warmup_err:
            self.warming = False

    def saw_test_error(self, err: float) -> None:
        """Take an error in percent on images not trained on; without a new best for `patience` tests, the rate drops.

        Where there are no such images, the loop gives the training error.
        """
        if err < self.best_err:
            self.best_err, self.stale = err, 0
            return
        self.stale += 1
        if self.stale >= self.recipe.patience:
            self.plateaus, self.stale = self.plateaus + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {key: value for key, value in vars(self).items() if key != "recipe"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; raises CheckpointError for values that are not its own."""
        own = self.state_dict()
        if state.keys() != own.keys() or not all(isinstance(state[key], (int, float)) for key in own):
            raise CheckpointError(f"the run's state is damaged: its schedule has {', '.join(state) or 'nothing'}")
        vars(self).update(state)


def _one_cycle(iteration: int, iterations: int) -> float:
    """The rate over its peak: half a cosine up, half a cosine down."""
    peak = ONE_CYCLE_RISE * iterations - 1
    if iteration <= peak:
        share, low = iteration / max(peak, 1), ONE_CYCLE_START
        return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2
    share = (iteration - peak) / max(iterations - 1 - peak, 1)
    return (1 + math.cos(math.pi * min(share, 1))) / 2
