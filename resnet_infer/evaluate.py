"""Errors of a model on labelled images, under one or several protocols in one pass."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal, get_args

from resnet_infer.backends.load import Model
from resnet_infer.data.classes import class_indices
from resnet_infer.data.loader import auto_workers, load
from resnet_infer.data.packing import Offload
from resnet_infer.data.sources import Source
from resnet_infer.errors import DataError, ProcessError, ResnetInferError, UsageError
from resnet_infer.identity import identity_of
from resnet_infer.processes import Processes
from resnet_infer.protocols import Protocol
from resnet_infer.recorder import Recorder, Recording
from resnet_infer.records import TOP_K
from resnet_infer.report.console import note
from resnet_infer.report.rows import EvalRow
from resnet_infer.roll_call import RollCall
from resnet_infer.score import score
from resnet_infer.tally import Tally, rank_of, records_of, wilson_interval

__all__ = ["TOP_K", "OnError", "evaluate", "rank_of", "wilson_interval"]

OnError = Literal["fail", "skip", "count-wrong"]


def evaluate(
    model: Model,
    protocols: Sequence[Protocol],
    source: Source,
    *,
    on_error: OnError = "fail",
    batch_size: int | None = None,
    workers: int | None = None,
    offload: Offload = "nothing",
    recording: Recording | None = None,
    group: Processes | None = None,
    advance: Callable[[float], None] = lambda images: None,
) -> list[EvalRow]:
    """One row a protocol, in their order.

    Unreadable images end the evaluation (`fail`), are left out of the count (`skip`) or count as errors
    (`count-wrong`); all are named on stderr and in the rows. `advance` is called with 1 after every image.

    `recording` writes a record of every image to a file, from which an evaluation that was interrupted goes on. The
    processes of a `group` score a part of the images each; the leading one has the rows, the others none.

    Raises DataError if the source's classes are not the model's, or images cannot be read; UsageError if a recording
    cannot go on; ProcessError if another process is gone, or sees another model or other data; ReportedElsewhere in
    processes that do not lead, for what the leading one raises.
    """
    if on_error not in get_args(OnError):
        raise UsageError(f"--on-error '{on_error}' is not one of {', '.join(get_args(OnError))}")
    group = group or Processes()
    truth = class_indices(source, model.manifest.labels, model.manifest.spec.classes)
    tallies = [Tally() for _ in protocols]
    failure: ResnetInferError | None = None
    rows: list[EvalRow] = []
    with ExitStack() as stack:
        recorder = _recorder(model, protocols, source, offload, recording, group)
        if recorder:
            stack.callback(recorder.close)
            recorder.count(tallies)
        there = recorder.images_there if recorder else 0
        todo = group.share(recorder.missing() if recorder else range(len(source.samples)))
        workers = _workers(workers, len(todo), model, group)
        results = score(model, protocols, source, indices=todo, batch_size=batch_size, workers=workers, offload=offload)
        roll = RollCall(group, advance)
        advance(there)
        begun = time.perf_counter()
        returned = bytearray(len(source.samples))
        with roll.member():
            for result in results:
                index = result.index
                sample = source.samples[index]
                records = records_of(index, sample, truth[index], protocols, result.probs_PK, result.error)
                for tally, record in zip(tallies, records, strict=True):
                    tally.add(record)
                if recorder:
                    recorder.add(records)
                returned[index] = True
                if result.error and on_error == "fail":
                    roll.stop()
                if roll.say():
                    rest = [index for index in todo if not returned[index]]
                    for tally in tallies:
                        tally.unreadable |= _unreadable(source, protocols, rest, workers)
                    break
            if recorder:
                recorder.flush()
        tallies = _merged(tallies, group)
        seconds = time.perf_counter() - begun
        if group.leads:
            try:
                rows = _rows(model, protocols, source, tallies, there, seconds, on_error)
            except ResnetInferError as error:
                failure = error
        group.settle(failure)
        if recorder:
            recorder.finish()
    return rows


def _recorder(
    model: Model,
    protocols: Sequence[Protocol],
    source: Source,
    offload: Offload,
    recording: Recording | None,
    group: Processes,
) -> Recorder | None:
    """Where records go, if anywhere; raises ProcessError if the processes see different things."""
    if not recording and group.world == 1:
        return None
    probabilities = recording is not None and recording.probabilities
    identity = identity_of(model, protocols, source, offload=offload, probabilities=probabilities)
    failure: ProcessError | None = None
    first, *others = group.gathered(identity)
    for rank, other in enumerate(others, start=1):
        if differing := other.differences(first):
            failure = ProcessError(
                f"process {rank} works on something else than process 0: {'; '.join(differing)}; "
                "give all of them the same model, data and flags"
            )
    group.settle(failure)
    return Recorder(recording, identity, group) if recording else None


def _workers(asked: int | None, images: int, model: Model, group: Processes) -> int:
    """Decoding processes: those asked for, or this process's part of what suits the machine."""
    if asked is not None:
        return asked
    device = "cuda" if model.backend.info.device.startswith("cuda") else "cpu"
    return -(-auto_workers(images, device) // group.on_this_machine)


def _merged(tallies: list[Tally], group: Processes) -> list[Tally]:
    """On the leading process the tallies of all of them; elsewhere its own."""
    first, *others = group.gathered(tallies)
    if not group.leads:
        return tallies
    for other in others:
        for tally, theirs in zip(first, other, strict=True):
            tally.merge(theirs)
    return list(first)


def _rows(
    model: Model,
    protocols: Sequence[Protocol],
    source: Source,
    tallies: Sequence[Tally],
    there: int,
    seconds: float,
    on_error: OnError,
) -> list[EvalRow]:
    unreadable = tallies[0].unreadable
    for index, error in sorted(unreadable.items()):
        note(f"{source.samples[index].name}: {error}")
    total = len(source.samples)
    if unreadable and on_error == "fail":
        raise DataError(
            f"{source.name}: {len(unreadable)} of {total} images cannot be read (listed above). "
            "Mend or remove them, or choose --on-error skip or count-wrong"
        )
    for tally in tallies:
        if tally.images + len(tally.unreadable) != total:
            raise ProcessError(f"{source.name}: {tally.images + len(tally.unreadable)} images counted of {total}")
    if not tallies[0].images:
        raise DataError(f"{source.name}: none of its {total} images can be read (listed above)")
    wrong = len(unreadable) if on_error == "count-wrong" else 0
    return [
        _row(model, protocol, source, tally, wrong, there, seconds, on_error)
        for protocol, tally in zip(protocols, tallies, strict=True)
    ]


def _row(
    model: Model,
    protocol: Protocol,
    source: Source,
    tally: Tally,
    wrong: int,
    there: int,
    seconds: float,
    on_error: str,
) -> EvalRow:
    info = model.backend.info
    images, top1, top5 = tally.images + wrong, tally.top1_errors + wrong, tally.top5_errors + wrong
    low, high = wilson_interval(top1, images)
    return EvalRow(
        model=model.name,
        architecture=model.manifest.spec.name,
        data=source.name,
        protocol=protocol.name,
        views=protocol.describe(),
        head=protocol.head,
        backend=info.name,
        device=info.device,
        precision=info.precision,
        images=images,
        top1_errors=top1,
        top5_errors=top5,
        top1_err=round(100 * top1 / images, 4),
        top5_err=round(100 * top5 / images, 4),
        top1_err_ci95=(round(low, 4), round(high, 4)),
        images_per_s=round((images - there) / seconds, 2),
        seconds=round(seconds, 3),
        unreadable=[
            {"path": source.samples[index].name, "error": error} for index, error in sorted(tally.unreadable.items())
        ],
        on_error=on_error,
        resumed=there,
    )


def _unreadable(source: Source, protocols: Sequence[Protocol], rest: Sequence[int], workers: int) -> dict[int, str]:
    """The unreadable among images not yet scored: rendered but not run, so that one call finds all and ends soon."""
    return {image.index: image.error for image in load(source, protocols, rest, workers) if image.error}
