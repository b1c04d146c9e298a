"""The best classes of images."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from resnet_infer.backends.load import Model
from resnet_infer.data.source import Source
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.rows import ClassProbability, Prediction
from resnet_infer.evaluation.verdicts import best
from resnet_infer.pipeline.loading import DEFAULT, Loading
from resnet_infer.pipeline.packing import ImageRecord
from resnet_infer.pipeline.score import Member, score_groups
from resnet_infer.spec.protocols import Protocol


def predict(
    model: Model,
    protocol: Protocol,
    source: Source,
    *,
    indices: Sequence[int] | None = None,
    top_k: int = 5,
    loading: Loading = DEFAULT,
) -> Iterator[Prediction]:
    """One record an image, of all or of those at `indices`, in their order, each once it and all before it are done.

    Probabilities are the protocol's averages. An image that cannot be read gives a record with its error.
    Raises UsageError if `top_k` is below 1; more than there are classes gives all.
    """
    if top_k < 1:
        raise UsageError(f"--top-k must be at least 1; got {top_k}")
    waiting: defaultdict[int, list[Prediction]] = defaultdict(list)  # an index may come several times
    order = iter(range(len(source.samples)) if indices is None else indices)
    due = next(order, None)
    warnings: dict[int, str] = {}

    def see(record: ImageRecord) -> None:
        if record.warning:
            warnings[record.index] = record.warning

    results = score_groups(
        [Member(model, (protocol,))], source, reduce=partial(best, top_k), indices=indices, loading=loading, seen=see
    )
    for images in results:
        if images.error:
            index = images.indices[0]
            waiting[index].append(Prediction(path=source.samples[index].name, error=images.error))
        else:
            for index, (probs, classes) in zip(images.indices, images.values[0][:, 0].tolist(), strict=True):
                found = Prediction(
                    path=source.samples[index].name,
                    model=model.name,
                    protocol=protocol.name,
                    backend=model.backend.info.name,
                    predictions=_named(model, probs, classes),
                    warning=warnings.get(index, ""),
                )
                waiting[index].append(found)
        while due is not None and due in waiting:
            yield waiting[due].pop()
            if not waiting[due]:
                del waiting[due]
            due = next(order, None)


def _named(model: Model, probs: Sequence[float], classes: Sequence[float]) -> list[ClassProbability]:
    labels = model.manifest.labels
    return [
        ClassProbability(index=int(index), label=labels.names[int(index)] if labels else None, prob=round(prob, 6))
        for prob, index in zip(probs, classes, strict=True)
    ]
