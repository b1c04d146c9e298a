"""The best classes of images."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from resnet_infer.backends.load import Model
from resnet_infer.data.packing import Offload
from resnet_infer.data.sources import Source
from resnet_infer.errors import UsageError
from resnet_infer.protocols import Protocol
from resnet_infer.report.rows import Prediction
from resnet_infer.score import score


def predict(
    model: Model,
    protocol: Protocol,
    source: Source,
    *,
    indices: Sequence[int] | None = None,
    top_k: int = 5,
    batch_size: int | None = None,
    workers: int | None = None,
    offload: Offload = "nothing",
    image_timeout_s: float | None = None,
) -> Iterator[Prediction]:
    """One record an image, of all or of those at `indices`, in their order, each once it and all before it are done.

    Probabilities are the protocol's averages. An image that cannot be read gives a record with its error.
    Raises UsageError if `top_k` is below 1; more than there are classes gives all.
    """
    if top_k < 1:
        raise UsageError(f"--top-k must be at least 1; got {top_k}")
    waiting: dict[int, Prediction] = {}
    order = iter(range(len(source.samples)) if indices is None else indices)
    due = next(order, None)
    results = score(
        model,
        [protocol],
        source,
        indices=indices,
        batch_size=batch_size,
        workers=workers,
        offload=offload,
        image_timeout_s=image_timeout_s,
    )
    for result in results:
        path = source.samples[result.index].name
        if result.probs_PK is None:
            waiting[result.index] = Prediction(path=path, error=result.error)
        else:
            waiting[result.index] = Prediction(
                path=path,
                model=model.name,
                protocol=protocol.name,
                backend=model.backend.info.name,
                predictions=_best(model, result.probs_PK[0], top_k),
            )
        while due is not None and due in waiting:
            yield waiting.pop(due)
            due = next(order, None)


def _best(model: Model, probs_K: Tensor, top_k: int) -> list[dict[str, object]]:
    values, indices = probs_K.topk(min(top_k, len(probs_K)))
    labels = model.manifest.labels
    return [
        {"index": index, "label": labels.names[index] if labels else None, "prob": round(prob, 6)}
        for prob, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]
