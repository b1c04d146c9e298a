"""Class order of several models: which class of the one is which of the other, by id or name, never by position.

Models that are averaged or compared need not have learned their classes in one order; here every model's scores are
put into the order of the first.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.console import note
from resnet_infer.data.classes import class_indices
from resnet_infer.data.samples import labels_of as labels_in
from resnet_infer.data.source import Source, said
from resnet_infer.errors import UsageError
from resnet_infer.spec.labels import Labels, folded

Order = tuple[int, ...] | None
"""For every class of the first model its index in another; None where they are the same."""


def reorder(probs_PK: Tensor, order: Order) -> Tensor:
    """Scores with their classes in the first model's order."""
    return probs_PK if order is None else probs_PK[..., list(order)]


def naming(labels: Labels | None, source: Source, truth: Sequence[int] | None) -> Callable[[int], str | None]:
    """The name of a class by its index: the model's, or else the source's, or None."""
    if labels:
        return lambda index: labels.names[index]
    own: Sequence[str] = said(source, "class_names", ())
    label_of = dict(zip(truth or (), labels_in(source.samples), strict=False))
    if own:  # the data numbers its classes and names the numbers
        label_of = {k: own[int(v)] if v and v.isdecimal() and int(v) < len(own) else v for k, v in label_of.items()}
    return label_of.get


def orders(models: Sequence[Model], source: Source) -> tuple[Sequence[int] | None, list[Order]]:
    """The class of every image by the first model (None if the source states none), and each model's order.

    Where a model does not say its class names, the source's classes in sorted order are taken for them, as everywhere.
    Raises UsageError if the models' classes are not the same, DataError if they are not the source's.
    """
    counts = {model.manifest.spec.classes for model in models}
    if len(counts) != 1:
        listed = ", ".join(f"{model.name} {model.manifest.spec.classes}" for model in models)
        raise UsageError(f"models have different numbers of classes: {listed}")
    (classes,) = counts
    labels = [model.manifest.labels for model in models]
    between = [_between(models[0], model) for model in models]
    if all(label is None for label in labels_in(source.samples)):
        if None in labels and any(labels):
            note(
                "not every model has class names, and the images have none: "
                "assuming all models use the same class order"
            )
        return None, between
    by_labels = {known: class_indices(source, known, classes) for known in dict.fromkeys(labels)}
    truth = by_labels[labels[0]]
    found: list[Order] = []
    for known, order in zip(labels, between, strict=True):
        if known and labels[0]:
            found.append(order)
        else:  # one of the two has the source's classes, all of them, in sorted order
            index_of = dict(zip(truth, by_labels[known], strict=True))
            found.append(_plain(tuple(index_of[index] for index in range(classes))))
    return truth, found


def order_between(first: Labels | None, other: Labels | None, names: tuple[str, str]) -> Order:
    """The order of the other's classes; raises UsageError if they are not the first's."""
    if first is None or other is None or first.names == other.names:
        return None
    by_id = bool(first.ids and other.ids)
    own, theirs = (labels.ids if by_id else tuple(map(folded, labels.names)) for labels in (first, other))
    missing = [name for name in own if name not in set(theirs)]
    if missing or len(set(own)) != len(own) or len(set(theirs)) != len(theirs) or len(own) != len(theirs):
        what = f"'{missing[0]}' is not a class of {names[1]}" if missing else "several classes share a name"
        raise UsageError(f"{names[0]} and {names[1]} do not have the same classes: {what}")
    index_of = {name: index for index, name in enumerate(theirs)}
    return _plain(tuple(index_of[name] for name in own))


def _between(first: Model, other: Model) -> Order:
    return order_between(first.manifest.labels, other.manifest.labels, (first.name, other.name))


def _plain(order: tuple[int, ...]) -> Order:
    return None if order == tuple(range(len(order))) else order
