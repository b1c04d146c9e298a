"""`resnet-infer eval`: errors on labelled images under one or several protocols."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from resnet_infer.cli.data_options import LabelledData
from resnet_infer.cli.groups import with_flags
from resnet_infer.cli.members import open_members, weights_of
from resnet_infer.cli.model_options import MODEL_HELP, RunModel
from resnet_infer.cli.options import Loading, Output, Views
from resnet_infer.errors import UsageError
from resnet_infer.report import text
from resnet_infer.report.evaluation_page import eval_page
from resnet_infer.report.evaluation_table import eval_table
from resnet_infer.report.html import check_page, write_page


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is counted, and what is written besides the table."""

    PANEL: ClassVar = "Evaluation"
    weights: Annotated[
        str | None, typer.Option(help="Of an ensemble's models, as 2,1; equal by default.", metavar="W,W,...")
    ] = None
    on_error: Annotated[
        Literal["fail", "skip", "count-wrong"],
        typer.Option(help="Unreadable images: fail, leave out, or count as errors. They are always listed."),
    ] = "fail"
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Write a record of every image while it goes on: .parquet (extra `parquet`) or .jsonl.", metavar="FILE"
        ),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted --predictions FILE; scored images are skipped.")
    ] = False
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="In --predictions, every class's probability, not the best five.")
    ] = False
    rank_timeout: Annotated[
        float,
        typer.Option(help="Under torchrun: seconds without a sign until a process is missed.", min=1, metavar="S"),
    ] = 600
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Count classes, confusions, calibration and likelihood too.")
    ] = False
    page: Annotated[Path | None, typer.Option(help="Write the metrics as a web page.", metavar="FILE.html")] = None
    ground_truth: Annotated[
        Path | None,
        typer.Option(help="ILSVRC2012_validation_ground_truth.txt, for images in one flat folder.", metavar="FILE"),
    ] = None
    synsets: Annotated[
        Path | None,
        typer.Option(help="What its numbers mean: meta.mat, or `1 n02119789` lines.", metavar="FILE"),
    ] = None
    real_labels: Annotated[
        Path | None, typer.Option(help="real.json of the ReaL labels: metrics say the error by them.", metavar="FILE")
    ] = None

    def check(self) -> None:
        """Raise UsageError for flags that do not go together."""
        if self.synsets and not self.ground_truth:
            raise UsageError("--synsets explains the numbers of --ground-truth; give both")
        if self.page:
            check_page(self.page)
        if self.predictions is None and (self.resume or self.probabilities):
            raise UsageError(f"--{'resume' if self.resume else 'probabilities'} needs --predictions FILE")


@with_flags
def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder per class, a .zip or .tar of one, a `path<TAB>label` list, or cifar-10-batches-py.",
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help=f"{MODEL_HELP} Given several times, an ensemble; `resnet-infer models` lists keys.",
            metavar="MODEL",
        ),
    ],
    run_model: RunModel,
    views: Views,
    loading: Loading,
    labelled: LabelledData,
    run: Run,
    output: Output,
) -> None:
    """Print top-1 and top-5 errors with their 95 % interval; several protocols and models share one decode.

    Several models give a row each, and one for their ensemble, which averages their softmax scores.

    torchrun --nproc-per-node N -m resnet_infer eval ... shares the images among N processes, also over machines.
    """
    form = output.format_name
    run.check()
    if "WORLD_SIZE" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost process is one line of ours, not a stack trace
    from resnet_infer.console import emit, mute, progress, say, visible
    from resnet_infer.data.imagenet import real_sets, with_ground_truth
    from resnet_infer.data.left_out import left_out_record, note_left_out
    from resnet_infer.data.open import open_source
    from resnet_infer.distributed.group import processes
    from resnet_infer.environment import environment
    from resnet_infer.evaluation.evaluate import evaluate as evaluate_members
    from resnet_infer.predictions.files import format_of
    from resnet_infer.predictions.recorder import Recording

    if run.predictions:
        format_of(run.predictions)
    with processes(run_model.device, tensors=False, patience_s=run.rank_timeout) as group:
        if not group.leads:
            mute()
        members = open_members(model, run_model, views, None if group.world == 1 else str(group.device))
        source = open_source(data, reading=labelled.reading())
        note_left_out(source)
        left_out = left_out_record(source)
        if run.ground_truth:
            source = with_ground_truth(source, run.ground_truth, run.synsets)
        first = members[0].model.manifest
        with progress("evaluating", len(source.samples), "images") as advance:
            results = evaluate_members(
                members,
                source,
                weights=weights_of(run.weights, len(model)),
                on_error=run.on_error,
                loading=loading.value(),
                metrics=run.metrics or run.page is not None,
                real=real_sets(source, run.real_labels, first.labels, first.spec.classes) if run.real_labels else None,
                recording=Recording(path=run.predictions, resume=run.resume, probabilities=run.probabilities)
                if run.predictions
                else None,
                group=group,
                advance=advance,
            )
    if not results:  # a process of several that does not lead
        return
    records = [row.to_dict() for row in results]
    try:
        if form == "table":
            say(eval_table(visible(results)))
        elif form == "json":
            emit(text.as_json({"environment": environment(), "left_out": left_out, "rows": records}))
        else:
            emit(text.as_json_lines(records) if form == "jsonl" else text.as_csv(records))
    finally:  # neither result depends on the other's being written
        if run.page:
            write_page(run.page, eval_page(results))
