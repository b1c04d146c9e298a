"""Two classifiers on the same images: errors, flips each way, McNemar's test, classes, and where they disagree.

Models are scored in one pass with one decode, each in its own preprocessing; predictions that were kept are read.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from resnet_infer.backends.load import Model
from resnet_infer.console import note_damaged
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.agreement import Agreeing
from resnet_infer.evaluation.class_order import naming, order_between, orders, reorder
from resnet_infer.evaluation.comparison_rows import Comparison, Side
from resnet_infer.evaluation.flips import Judged, Pairs, judge, mcnemar_exact
from resnet_infer.evaluation.rows import wilson_interval
from resnet_infer.pipeline.loading import DEFAULT, Loading
from resnet_infer.pipeline.packing import ImageRecord
from resnet_infer.pipeline.score import Member, score
from resnet_infer.predictions.files import open_predictions
from resnet_infer.predictions.records import Identity, Record
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.protocols import Protocol

OnUnreadable = Literal["fail", "skip"]


def compare_models(
    a: Member,
    b: Member,
    source: Source,
    *,
    on_error: OnUnreadable = "fail",
    loading: Loading = DEFAULT,
    advance: Callable[[float], None] = lambda images: None,
) -> list[Comparison]:
    """Any two classifiers of the same classes in one pass with one decode: a comparison a protocol, in their order.

    Images that cannot be read end it (`fail`) or are named and left out (`skip`). With `skip` they
    are decoded in worker processes, which may crash. `advance` is called with 1 after every image. Raises
    UsageError if the classes are not the same, DataError if they are not the source's.
    """
    if on_error not in get_args(OnUnreadable):
        raise UsageError(f"--on-error '{on_error}' is not one of {', '.join(get_args(OnUnreadable))}")
    if [p.name for p in a.protocols] != [p.name for p in b.protocols]:
        raise ValueError("both sides of a comparison are scored under the same protocols")
    if on_error == "skip":
        loading = loading.guarded()
    truth, (_, order) = orders([a.model, b.model], source)
    labels = a.model.manifest.labels or (b.model.manifest.labels if truth is None else None)  # in a's order
    name_of = naming(labels, source, truth)
    pairs = [Pairs(name_of) for _ in a.protocols]
    agreeing = [Agreeing(len(source.samples), a.model.manifest.spec.classes) for _ in a.protocols]
    unreadable: dict[int, str] = {}
    damaged: dict[str, str] = {}
    begun = time.perf_counter()

    def see(record: ImageRecord) -> None:
        if record.warning:
            damaged[source.samples[record.index].name] = record.warning

    for result in score([a, b], source, loading=loading, seen=see):
        path = source.samples[result.index].name
        if result.probs_PK is None:
            if on_error == "fail":
                raise DataError(f"{path}: {result.error}. --on-error skip leaves such images out, and names them")
            unreadable[result.index] = result.error
        else:
            true = None if truth is None else truth[result.index]
            a_PK, b_PK = result.probs_PK[: len(pairs)], result.probs_PK[len(pairs) :]
            for number, (a_K, b_K) in enumerate(zip(a_PK, reorder(b_PK, order), strict=True)):
                pairs[number].add(result.index, path, true, judge(a_K, true), judge(b_K, true))
                agreeing[number].add(a_K, b_K)
        advance(1)
    seconds = time.perf_counter() - begun
    note_damaged(damaged)
    left_out = [(source.samples[index].name, error) for index, error in sorted(unreadable.items())]
    return [
        _compared(
            protocol=protocol.name,
            data=source.name,
            sides=tuple(_side_of(member.model, member.protocols[number]) for member in (a, b)),
            pairs=pairs[number],
            agreeing=agreeing[number],
            unreadable=left_out,
            seconds=seconds,
        )
        for number, protocol in enumerate(a.protocols)
    ]


def compare_predictions(a: Path, b: Path, protocols: Sequence[str] = ()) -> list[Comparison]:
    """Two predictions files of the same data: a comparison a protocol, those of `protocols` or all that both have.

    Images that either could not read are named and left out. Measures of the scores need files with all
    probabilities. Raises UsageError for files that do not belong together, DataError for damaged ones.
    """
    (first, a_records), (second, b_records) = open_predictions(a), open_predictions(b)
    if first.data_sha256 != second.data_sha256 or first.images != second.images:
        raise UsageError(
            f"{a} and {b} are of different data: {first.data}, {first.images} images, and {second.data}, "
            f"{second.images} (their listings differ); evaluate both models on the same"
        )
    if first.classes != second.classes:
        raise UsageError(f"{a} has {first.classes} classes and {b} {second.classes}: not comparable")
    wanted = protocols or [name for name in first.protocol_names if name in second.protocol_names]
    if not wanted or not {*first.protocol_names} & {*second.protocol_names} >= set(wanted):
        raise UsageError(
            f"{a} has {', '.join(first.protocol_names)} and {b} {', '.join(second.protocol_names)}: "
            f"{'no ' + ', '.join(protocols) if protocols else 'nothing'} that both have"
        )
    labels = [Labels(names=tuple(identity.labels)) if identity.labels else None for identity in (first, second)]
    order = order_between(labels[0], labels[1], (str(a), str(b)))
    back = {theirs: own for own, theirs in enumerate(order or range(first.classes))}
    names = labels[0] or labels[1]
    seen: dict[int, str | None] = {}  # by the data, where neither model says them
    pairs = [Pairs((lambda index: names.names[index]) if names else seen.get) for _ in wanted]
    full = first.probabilities and second.probabilities
    agreeing = [Agreeing(first.images, first.classes) for _ in wanted] if full else []
    unreadable: dict[int, tuple[str, str]] = {}
    for own, other in zip(
        _by_image(a_records, len(first.protocols)), _by_image(b_records, len(second.protocols)), strict=True
    ):
        for number, name in enumerate(wanted):
            x, y = own[name], other[name]
            if x.error or y.error:
                unreadable[x.index] = (x.name, x.error or y.error)
                continue
            if x.truth is not None:
                seen.setdefault(x.truth, x.label)
            if x.truth != (None if y.truth is None else back[y.truth]):
                raise UsageError(f"{a} and {b} do not mean the same classes: {x.name} is {x.truth} and {y.truth}")
            pairs[number].add(x.index, x.name, x.truth, _judged(x), _judged(y, back))
            if x.probs_K is not None and y.probs_K is not None:
                agreeing[number].add(torch.from_numpy(x.probs_K), reorder(torch.from_numpy(y.probs_K), order))
    return [
        _compared(
            protocol=name,
            data=first.data,
            sides=(_recorded_side(first, name), _recorded_side(second, name)),
            pairs=pairs[number],
            agreeing=agreeing[number] if full else None,
            unreadable=[unreadable[index] for index in sorted(unreadable)],
            seconds=None,
        )
        for number, name in enumerate(wanted)
    ]


def _by_image(records: Iterator[Record], protocols: int) -> Iterator[dict[str, Record]]:
    waiting: dict[str, Record] = {}
    for record in records:
        waiting[record.protocol] = record
        if len(waiting) == protocols:
            yield waiting
            waiting = {}


def _judged(record: Record, back: dict[int, int] | None = None) -> Judged:
    top = tuple(record.top_classes)
    return Judged(tuple(back[index] for index in top) if back else top, record.top_probs[0], record.rank)


def _side_of(model: Model, protocol: Protocol) -> dict[str, str]:
    info = model.backend.info
    return {
        "model": model.name,
        "architecture": model.manifest.spec.name,
        "backend": info.name,
        "device": info.device,
        "precision": info.precision,
        "views": protocol.describe(),
    }


def _recorded_side(identity: Identity, name: str) -> dict[str, str]:
    (fields,) = (protocol for protocol in identity.protocols if protocol["name"] == name)
    try:
        views = Protocol(**{**fields, "scales": tuple(fields["scales"])}).describe()
    except (TypeError, KeyError) as error:
        raise DataError(f"predictions of {identity.model}: the protocol {name} is damaged ({error})") from error
    kept = ("model", "architecture", "backend", "device", "precision")
    return {key: getattr(identity, key) for key in kept} | {"views": views}


def _compared(
    *,
    protocol: str,
    data: str,
    sides: Sequence[dict[str, str]],
    pairs: Pairs,
    agreeing: Agreeing | None,
    unreadable: Sequence[tuple[str, str]],
    seconds: float | None,
) -> Comparison:
    if not pairs.images:
        raise DataError(f"{data}: no image that both could read")
    known = not pairs.outcomes[""]
    only_a, only_b = pairs.outcomes["only A right"], pairs.outcomes["only B right"]
    measures: dict[str, Any] = {"top1_agreement": pairs.top1_agreement, "top5_overlap": pairs.top5_overlap}
    if agreeing:
        kept = ("logit_cosine", "kl_divergence", "max_diff", "mean_diff", "p99_diff")
        measured = agreeing.result()
        measures |= {name: getattr(measured, name) for name in kept}
    return Comparison(
        protocol=protocol,
        data=data,
        images=pairs.images,
        a=_side("a", sides[0], pairs, known),
        b=_side("b", sides[1], pairs, known),
        both_right=pairs.outcomes["both right"] if known else None,
        only_a_right=only_a if known else None,
        only_b_right=only_b if known else None,
        both_wrong=pairs.outcomes["both wrong"] if known else None,
        mcnemar_p=mcnemar_exact(only_a, only_b) if known else None,
        agreement=measures,
        classes=pairs.classes(),
        disagreements=sorted(pairs.disagreements, key=lambda image: image.index),
        unreadable=[{"path": path, "error": error} for path, error in unreadable],
        seconds=None if seconds is None else round(seconds, 3),
    )


def _side(name: str, of: dict[str, str], pairs: Pairs, known: bool) -> Side:
    top1, top5 = pairs.top1_errors(name), pairs.top5_errors[name]
    low, high = wilson_interval(top1, pairs.images)
    return Side(
        **of,
        top1_errors=top1 if known else None,
        top5_errors=top5 if known else None,
        top1_err=round(100 * top1 / pairs.images, 4) if known else None,
        top5_err=round(100 * top5 / pairs.images, 4) if known else None,
        top1_err_ci95=(round(low, 4), round(high, 4)) if known else None,
    )
