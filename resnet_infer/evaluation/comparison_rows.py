"""The typed result of comparing two classifiers on the same images, A and B."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["both right", "only A right", "only B right", "both wrong", ""]
"""Of one image; "" where its class is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two. Errors are None where the images have no classes."""

    model: str
    architecture: str
    backend: str
    device: str
    precision: str
    views: str
    """The protocol in plain words, in this model's own preprocessing."""
    top1_errors: int | None
    top5_errors: int | None
    top1_err: float | None
    top5_err: float | None
    """In percent."""
    top1_err_ci95: tuple[float, float] | None
    """Wilson's 95 % interval of top1_err."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An image that the two put into different classes. Probabilities are 0..1."""

    index: int
    """Position in the data."""
    path: str
    outcome: Outcome
    truth: int | None
    truth_label: str | None
    a_class: int
    a_label: str | None
    a_prob: float
    b_class: int
    b_label: str | None
    b_prob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDifference:
    """One class's images and how the two did on them."""

    index: int
    label: str | None
    images: int
    a_errors: int
    b_errors: int
    only_a_right: int
    only_b_right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two classifiers under one protocol on the same images. Counts are None where the images have no classes."""

    protocol: str
    data: str
    images: int
    """Images that both could read."""
    a: Side
    b: Side
    both_right: int | None
    only_a_right: int | None
    only_b_right: int | None
    both_wrong: int | None
    mcnemar_p: float | None
    """Exact and two-sided: how likely at least so uneven a split of the flips is, were the two equally good."""
    agreement: Mapping[str, float]
    """`agreement.Agreement`'s measures; those of the best classes alone where all probabilities were not kept."""
    classes: Sequence[ClassDifference]
    """In order of index, those with images."""
    disagreements: Sequence[Disagreement]
    """In the order of the data."""
    unreadable: Sequence[Mapping[str, str]]
    """{"path", "error"} of every image that was left out."""
    seconds: float | None
    """Of scoring both; None for what was scored before."""

    @property
    def p_value(self) -> float | None:
        """McNemar's exact p."""
        return self.mcnemar_p

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the measures of agreement among them."""
        values = asdict(self)
        lists = {name: values.pop(name) for name in ("classes", "disagreements", "unreadable")}
        return values | dict(values.pop("agreement")) | lists

    def summary(self) -> dict[str, Any]:
        """Without its lists and one level deep: a line of a table."""
        values = self.to_dict()
        for name in ("classes", "disagreements", "unreadable"):
            del values[name]
        sides = {f"{side}_{key}": value for side in "ab" for key, value in values.pop(side).items()}
        return {"protocol": values.pop("protocol"), "data": values.pop("data")} | sides | values
