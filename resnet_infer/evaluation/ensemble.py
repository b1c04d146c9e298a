"""Several models as one: the weighted mean of their softmax scores, as the paper's Table 5 averages six.

Every member is scored in its own preprocessing and on its own backend, over one decode; its classes are put into the
first member's order before they are averaged.

Shapes: N images, P rows of all members' protocols, Q with the ensemble's, K classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from resnet_infer.errors import UsageError
from resnet_infer.evaluation.class_order import Order
from resnet_infer.pipeline.score import Member
from resnet_infer.spec.protocols import Protocol


class Ensemble:
    """Members with equally many protocols; the n-th of each are averaged. One member is itself and no ensemble."""

    def __init__(
        self, members: Sequence[Member], orders: Sequence[Order], weights: Sequence[float] | None = None
    ) -> None:
        """`weights` of None are equal ones. Raises UsageError for weights that are none."""
        self.members = members
        self.weights = normalised(weights, len(members))
        self._size = len(members[0].protocols)
        if any(len(member.protocols) != self._size for member in members):
            raise ValueError("members of an ensemble have equally many protocols")
        device = members[0].model.backend.info.device if self.averages else "cpu"
        eye = torch.eye(self._size, dtype=torch.float64)
        self._shares_QP = torch.cat([weight * eye for weight in self.weights], 1).to(device)
        """What each of the members' rows adds to each of the ensemble's; float64, which no GPU rounds to TF32."""
        self._orders = [None if order is None else torch.tensor(order, device=device) for order in orders]

    @property
    def averages(self) -> bool:
        """Whether there is anything to average."""
        return len(self.members) > 1

    @property
    def protocols(self) -> list[Protocol]:
        """The protocol of every row: the members' one after another, then the ensemble's by its first member's."""
        own = [protocol for member in self.members for protocol in member.protocols]
        return own + list(self.members[0].protocols) if self.averages else own

    def rows(self, probs_NPK: Tensor) -> Tensor:
        """The rows of `score`, then the ensemble's, (N, Q, K), all in the first member's order of classes.

        Computed where the probabilities are, which is where the members run.
        """
        if not self.averages:
            return probs_NPK
        own = []
        for number, order in enumerate(self._orders):
            rows_NPK = probs_NPK[:, number * self._size : (number + 1) * self._size]
            own.append(rows_NPK if order is None else rows_NPK.index_select(2, order))
        probs_NPK = torch.cat(own, 1)
        return torch.cat((probs_NPK, (self._shares_QP @ probs_NPK.double()).float()), 1)


def normalised(weights: Sequence[float] | None, members: int) -> tuple[float, ...]:
    """Weights that sum to 1; raises UsageError if there are not as many as members, or one is not positive."""
    if weights is None:
        return (1 / members,) * members
    if len(weights) != members:
        raise UsageError(
            f"--weights has {len(weights)} numbers for {members} models; give one for each, in their order"
        )
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"--weights must be positive numbers; got {', '.join(f'{weight:g}' for weight in weights)}")
    return tuple(weight / sum(weights) for weight in weights)
