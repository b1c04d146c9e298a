"""Which images an iteration sees and how they are altered: a function of the seed and the iteration alone.

So a run that is killed and resumed, and one that is shared out over processes, see the very samples of one that is
not. Images come in an endless row of permutations, cut into batches of one size: every image once an epoch, no batch
short. Random numbers are Philox's, whose key is the seed and the iteration.

Shapes: B images of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resnet_infer.errors import UsageError

ORDER, AUGMENT, SPLIT, WEIGHTS = range(4)
"""What random numbers are for; each has a sequence of its own."""


@dataclass(frozen=True, slots=True)
class Draws:
    """One batch: positions of its images in the training set, and the random numbers of their augmentation."""

    chosen_B: Tensor
    """int64."""
    uniform_B4: Tensor
    """float32 in [0, 1): of the crop's top and left, the mirror, and the scale."""
    normal_B3: Tensor
    """float32: of the three components of the colour shift."""


class Stream:
    """The batches of a run; this process takes its share of each."""

    def __init__(self, images: int, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if images < batch:
            raise UsageError(f"{images} training images are too few for a batch of {batch}; give a smaller --batch")
        if batch % world:
            raise UsageError(
                f"--batch {batch} cannot be shared evenly by {world} processes; give a multiple of {world}"
            )
        self.images = images
        self.batch = batch
        self.seed = seed
        self.share = slice(rank * batch // world, (rank + 1) * batch // world)
        self._orders: dict[int, Tensor] = {}

    def draws(self, iteration: int) -> Draws:
        """This process's share of an iteration's batch."""
        rng = generator(self.seed, AUGMENT, iteration)
        uniform_B4 = torch.from_numpy(rng.random((self.batch, 4), dtype=np.float32))
        normal_B3 = torch.from_numpy(rng.standard_normal((self.batch, 3), dtype=np.float32))
        return Draws(self._chosen(iteration)[self.share], uniform_B4[self.share], normal_B3[self.share])

    def used(self, iterations: int) -> Tensor:
        """Positions of the images that so many iterations have seen, all processes together."""
        return self._order(0)[: iterations * self.batch]

    def _chosen(self, iteration: int) -> Tensor:
        begin = iteration * self.batch
        epoch, at = divmod(begin, self.images)
        first = self._order(epoch)[at : at + self.batch]
        return (
            torch.cat((first, self._order(epoch + 1)[: self.batch - len(first)])) if len(first) < self.batch else first
        )

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = permutation(self.images, self.seed, ORDER, epoch)
        return self._orders[epoch]


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """Random numbers that nothing else in the run uses."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose << 56 | number]))


def permutation(count: int, seed: int, purpose: int, number: int) -> Tensor:
    """A random order of `count` things, int64."""
    return torch.from_numpy(generator(seed, purpose, number).permutation(count))


def split(count: int, held_out: int, seed: int) -> tuple[Sequence[int], Sequence[int]]:
    """Positions to train on and positions held out, both in rising order."""
    if held_out >= count:
        raise UsageError(f"--hold-out {held_out} leaves nothing of {count} images to train on")
    order = permutation(count, seed, SPLIT, 0).tolist()
    return sorted(order[held_out:]), sorted(order[:held_out])
