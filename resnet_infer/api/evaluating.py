"""Classes, probabilities, errors and comparisons of images, by any protocol and on any backend.

Shapes: N images, K classes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from resnet_infer.api.images import Images, as_source
from resnet_infer.api.models import opened
from resnet_infer.api.protocols import AsProtocol, protocols_of
from resnet_infer.backends.load import Model
from resnet_infer.errors import DataError
from resnet_infer.evaluation.compare import OnUnreadable, compare_models
from resnet_infer.evaluation.comparison_rows import Comparison
from resnet_infer.evaluation.evaluate import OnError
from resnet_infer.evaluation.evaluate import evaluate as evaluate_members
from resnet_infer.evaluation.predict import predict as predict_source
from resnet_infer.evaluation.rows import EvalRow, Prediction
from resnet_infer.pipeline.loading import DEFAULT, Loading
from resnet_infer.pipeline.score import Member, score_groups
from resnet_infer.predictions.recorder import Recording

AsModel = Model | str | os.PathLike[str]
"""What `load` returns, or a key or file for it."""


def predict(
    model: Model,
    images: Images,
    *,
    protocol: AsProtocol = "single-crop",
    top_k: int = 5,
    loading: Loading = DEFAULT,
) -> Iterator[Prediction]:
    """The best `top_k` classes of every image, in their order, each as soon as it is known.

    An image that cannot be read is a `Prediction` with its `error`. Raises UsageError for a request that cannot work,
    DataError if the images cannot be opened.
    """
    (test,) = protocols_of(protocol, model)
    return predict_source(model, test, as_source(images, merged=True), top_k=top_k, loading=loading)


def score(model: Model, images: Images, *, protocol: AsProtocol = "single-crop", loading: Loading = DEFAULT) -> Tensor:
    """Probabilities of every class, (N, K) float32 on the CPU, in the images' order; each row sums to 1.

    Raises DataError naming an image that cannot be read, UsageError for a request that cannot work.
    """
    members = [Member(model, protocols_of(protocol, model))]
    source = as_source(images, merged=True)
    probs_NK = torch.empty(len(source.samples), model.manifest.spec.classes)
    for group in score_groups(members, source, loading=loading):
        if group.error:
            raise DataError(f"{source.samples[group.indices[0]].name}: {group.error}; leave it out")
        probs_NK[list(group.indices)] = group.values[0][:, 0]
    return probs_NK


def evaluate(
    model: Model | Sequence[Model],
    images: Images,
    *,
    protocols: AsProtocol | Sequence[AsProtocol] = "single-crop",
    weights: Sequence[float] | None = None,
    metrics: bool = False,
    on_error: OnError = "fail",
    predictions: str | os.PathLike[str] | None = None,
    resume: bool = False,
    loading: Loading = DEFAULT,
) -> list[EvalRow]:
    """Top-1 and top-5 errors with their 95 % interval: a row a protocol for every model, then for their ensemble.

    The images' classes are those of their folders, lists or tables. `metrics` adds calibration, errors by class and
    confusions. `predictions` names a .parquet or .jsonl file for a record of every image, from which `resume` continues
    an evaluation that was interrupted. Unreadable images end the evaluation (`fail`), are left out (`skip`) or count as
    errors (`count-wrong`); the rows name them.

    Raises DataError if images cannot be read or their classes are not the model's, UsageError for a request that
    cannot work.
    """
    models = [model] if isinstance(model, Model) else list(model)
    return evaluate_members(
        [Member(each, protocols_of(protocols, each)) for each in models],
        as_source(images),
        weights=weights,
        metrics=metrics,
        on_error=on_error,
        recording=Recording(path=Path(predictions), resume=resume) if predictions is not None else None,
        loading=loading,
    )


def compare(
    a: AsModel,
    b: AsModel,
    images: Images,
    *,
    protocol: AsProtocol = "single-crop",
    on_error: OnUnreadable = "fail",
    loading: Loading = DEFAULT,
) -> Comparison:
    """Where two models disagree and whether one is better, in one pass, each in its own preprocessing.

    Raises UsageError if their classes are not the same, DataError if images cannot be read.
    """
    with ExitStack() as stack:
        first, second = (opened(model) for model in (a, b))
        for given, model in ((a, first), (b, second)):
            if model is not given:
                stack.callback(model.close)
        members = [Member(model, protocols_of(protocol, model)) for model in (first, second)]
        return compare_models(members[0], members[1], as_source(images), on_error=on_error, loading=loading)[0]
