"""Errors of one or several models on labelled images, under one or several protocols, in one pass with one decode."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from resnet_infer.backends.load import Model
from resnet_infer.console import note, note_damaged
from resnet_infer.data.classes import class_indices
from resnet_infer.data.source import Source
from resnet_infer.distributed.group import Processes
from resnet_infer.distributed.heartbeat import RollCall
from resnet_infer.errors import DataError, ProcessError, ResnetInferError, UsageError
from resnet_infer.evaluation.calibration_metrics import ClassificationMetrics
from resnet_infer.evaluation.class_order import naming
from resnet_infer.evaluation.class_order import orders as orders_of
from resnet_infer.evaluation.counting import Counting
from resnet_infer.evaluation.ensemble import Ensemble
from resnet_infer.evaluation.rows import EvalRow, rows_of, wilson_interval
from resnet_infer.evaluation.tally import Tally
from resnet_infer.evaluation.verdicts import rank_of
from resnet_infer.pipeline.loader import Crew, auto_workers, load
from resnet_infer.pipeline.loading import DEFAULT, Loading
from resnet_infer.pipeline.score import Member, score_groups
from resnet_infer.predictions.identity import identity_of
from resnet_infer.predictions.listing import Earlier, Listing, check_same_content, listing_of
from resnet_infer.predictions.recorder import Recorder, Recording
from resnet_infer.predictions.records import TOP_K
from resnet_infer.spec.protocols import Protocol

__all__ = ["TOP_K", "OnError", "evaluate", "rank_of", "wilson_interval"]

SILENT = "nothing is counted; see what became of it (--rank-timeout waits longer)"

OnError = Literal["fail", "skip", "count-wrong"]


def evaluate(
    members: Sequence[Member],
    source: Source,
    *,
    weights: Sequence[float] | None = None,
    on_error: OnError = "fail",
    loading: Loading = DEFAULT,
    metrics: bool = False,
    real: Sequence[Collection[int]] | None = None,
    recording: Recording | None = None,
    group: Processes | None = None,
    crew: Crew | None = None,
    advance: Callable[[int], object] = lambda images: None,
) -> list[EvalRow]:
    """One row a protocol for every member, in their order, and then for their ensemble if there are several.

    The ensemble averages the members' probabilities by `weights`, of which None are equal ones.

    Unreadable images end the evaluation (`fail`), are left out of the count (`skip`) or count as errors
    (`count-wrong`); all are named on stderr and in the rows. With the last two they are decoded in
    worker processes, which may crash; a `crew` of the source's keeps these for the next pass. `advance` is
    called with every number of images done.

    `metrics` counts what is more than errors, over the images that can be read; `real` are their ReaL labels, by
    which metrics then say the error too.

    `recording` writes a record of every image to a file, from which an evaluation that was interrupted goes on. The
    processes of a `group` score a part of the images each; the leading one has the rows, the others none.

    Raises DataError if the source's classes are not the models', or images cannot be read; UsageError if the models
    have different classes, or a recording cannot go on; ProcessError if another process is gone, or sees another model
    or other data; ReportedElsewhere in processes that do not lead, for what the leading one raises.
    """
    if on_error not in get_args(OnError):
        raise UsageError(f"--on-error '{on_error}' is not one of {', '.join(get_args(OnError))}")
    if recording and len(members) > 1:
        raise UsageError("--predictions records one model; evaluate the members one by one to keep their predictions")
    if on_error != "fail":
        loading = loading.guarded()
    group = group or Processes()
    spec, labels = members[0].model.manifest.spec, members[0].model.manifest.labels
    truth, orders = orders_of([member.model for member in members], source)
    if truth is None:
        truth = class_indices(source, labels, spec.classes)  # which says why it cannot
    ensemble = Ensemble(members, orders, weights)
    protocols = ensemble.protocols
    metrics = metrics or real is not None
    tallies = [Tally(metrics=ClassificationMetrics(spec.classes) if metrics else None, real=real) for _ in protocols]
    failure: ResnetInferError | None = None
    rows: list[EvalRow] = []
    with ExitStack() as stack:
        listing = listing_of(source) if recording or group.world > 1 else None
        recorder = _recorder(members, source, listing, loading, recording, group) if listing else None
        if recorder and listing:
            stack.callback(recorder.close)
            earlier = Earlier(source, listing)
            for some in recorder.earlier():
                earlier.add(some)
                for protocol, tally in zip(protocols, tallies, strict=True):
                    tally.add_records([record for record in some if record.protocol == protocol.name])
            changed: ResnetInferError | None = None
            try:
                earlier.check(recorder.path)
            except ResnetInferError as error:
                changed = error
            group.settle(changed)
        there = recorder.images_there if recorder else 0
        todo = group.share(recorder.missing() if recorder else range(len(source.samples)))
        loading = _share_of_workers(loading, len(todo), members[0].model, group)
        counting = Counting(ensemble, source.samples, truth, tallies, real=real, recorder=recorder, listing=listing)
        results = score_groups(
            members,
            source,
            reduce=counting.judge,
            indices=todo,
            loading=loading,
            crew=crew,
            seen=counting.see,
            hashed=recorder is not None,
        )
        roll = RollCall(group, advance, remedy=SILENT)
        advance(there)
        begun = time.perf_counter()
        returned = np.zeros(len(source.samples), np.bool_)
        with roll.member(), closing(results):
            for images in results:
                counting.count(images)
                returned[images.indices] = True
                if images.error and on_error == "fail":
                    roll.stop()
                if roll.say(len(images.indices)):
                    results.close()
                    rest = [index for index in todo if not returned[index]]
                    for tally in tallies:
                        tally.unreadable |= _unreadable(source, protocols, rest, loading)
                    break
            if recorder:
                recorder.flush()
        tallies = _merged(tallies, group)
        seconds = time.perf_counter() - begun
        if group.leads:
            try:
                _check_counts(source, tallies, on_error)
                rows = rows_of(
                    ensemble,
                    source,
                    tallies,
                    naming(labels, source, truth),
                    there=there,
                    seconds=seconds,
                    on_error=on_error,
                    warns=loading.offload != "decoding",
                )
            except ResnetInferError as error:
                failure = error
        group.settle(failure)
        if recorder:
            recorder.finish()
    return rows


def _recorder(
    members: Sequence[Member],
    source: Source,
    listing: Listing,
    loading: Loading,
    recording: Recording | None,
    group: Processes,
) -> Recorder | None:
    """Where records go, if anywhere; raises ProcessError if the processes see different things."""
    probabilities = recording is not None and recording.probabilities
    identities = [
        identity_of(member.model, member.protocols, source, listing, loading=loading, probabilities=probabilities)
        for member in members
    ]
    failure: ProcessError | None = None
    first, *others = group.gathered(identities)
    for rank, other in enumerate(others, start=1):
        differing = [words for mine, theirs in zip(first, other, strict=False) for words in theirs.differences(mine)]
        if differing or len(first) != len(other):
            failure = ProcessError(
                f"process {rank} works on something else than process 0: "
                f"{'; '.join(differing) or 'the number of models'}; give all of them the same model, data and flags"
            )
    group.settle(failure)
    check_same_content(group, source, listing)
    return Recorder(recording, identities[0], group) if recording else None


def _share_of_workers(loading: Loading, images: int, model: Model, group: Processes) -> Loading:
    """With the workers asked for, or this process's part of what suits the machine."""
    if loading.workers is not None:
        return loading
    device = "cuda" if model.backend.info.device.startswith("cuda") else "cpu"
    most = auto_workers(images, device, guarded=loading.image_timeout_s is not None)
    return replace(loading, workers=-(-most // group.on_this_machine))


def _merged(tallies: list[Tally], group: Processes) -> list[Tally]:
    """On the leading process the tallies of all of them; elsewhere its own."""
    first, *others = group.gathered(tallies)
    if not group.leads:
        return tallies
    for other in others:
        for tally, theirs in zip(first, other, strict=True):
            tally.merge(theirs)
    return list(first)


def _check_counts(source: Source, tallies: Sequence[Tally], on_error: str) -> None:
    """Name what could not be read; raise if that ends the evaluation, or if an image is missing from the count."""
    unreadable = tallies[0].unreadable
    for index, error in sorted(unreadable.items()):
        note(f"{source.samples[index].name}: {error}")
    note_damaged({source.samples[index].name: text for index, text in sorted(tallies[0].warnings.items())})
    total = len(source.samples)
    if unreadable and on_error == "fail":
        raise DataError(
            f"{source.name}: {len(unreadable)} of {total} images cannot be read (listed above). "
            "Fix or remove them, or choose --on-error skip or count-wrong"
        )
    for tally in tallies:
        if tally.images + len(tally.unreadable) != total:
            raise ProcessError(f"{source.name}: {tally.images + len(tally.unreadable)} images counted of {total}")
    if not tallies[0].images:
        raise DataError(f"{source.name}: none of its {total} images can be read (listed above)")


def _unreadable(source: Source, protocols: Sequence[Protocol], rest: Sequence[int], loading: Loading) -> dict[int, str]:
    """The unreadable among images not yet scored: rendered but not run, so that one call finds all and ends soon."""
    loaded = load(source, protocols, rest, loading.workers or 0, loading.limit_s, strict=loading.strict_decode)
    return {image.index: image.error for image in loaded if image.error}
