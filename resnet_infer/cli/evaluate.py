"""`resnet-infer eval`: errors on labelled images under one or several protocols."""

import os
from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli import options
from resnet_infer.cli.members import open_members, weights_of
from resnet_infer.errors import UsageError
from resnet_infer.report import text
from resnet_infer.report.evaluation_page import eval_page
from resnet_infer.report.evaluation_table import eval_table
from resnet_infer.report.html import check_page, write_page


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
            help="Checkpoint key or file (`resnet-infer models` lists keys); given several times, an ensemble.",
            metavar="MODEL",
        ),
    ],
    weights: Annotated[
        str | None, typer.Option(help="Of an ensemble's models, as 2,1; equal by default.", metavar="W,W,...")
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="single-crop (default), ten-crop or multiscale; may be repeated.", metavar="NAME"),
    ] = None,
    single_crop: Annotated[bool, typer.Option("--single-crop", help="As --protocol single-crop.")] = False,
    ten_crop: Annotated[bool, typer.Option("--ten-crop", help="As --protocol ten-crop.")] = False,
    multiscale: Annotated[bool, typer.Option("--multiscale", help="As --protocol multiscale.")] = False,
    on_error: Annotated[
        str, typer.Option(help="Unreadable images: fail, skip or count-wrong. They are always listed.", metavar="MODE")
    ] = "fail",
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Write a record of every image while it goes on: .parquet (extra `parquet`) or .jsonl.", metavar="FILE"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted --predictions FILE; scored images are skipped.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="In --predictions, every class's probability, not the best five.")
    ] = False,
    rank_timeout: Annotated[
        float,
        typer.Option(help="Under torchrun: seconds without a sign until a process is missed.", min=1, metavar="S"),
    ] = 600,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Count classes, confusions, calibration and likelihood too.")
    ] = False,
    page: Annotated[Path | None, typer.Option(help="Write the metrics as a web page.", metavar="FILE.html")] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(help="ILSVRC2012_validation_ground_truth.txt, for images in one flat folder.", metavar="FILE"),
    ] = None,
    synsets: Annotated[
        Path | None,
        typer.Option(help="What its numbers mean: meta.mat, or `1 n02119789` lines.", metavar="FILE"),
    ] = None,
    real_labels: Annotated[
        Path | None, typer.Option(help="real.json of the ReaL labels: metrics say the error by them.", metavar="FILE")
    ] = None,
    format_name: options.FormatName = "table",
    resize: options.Resize = None,
    crop: options.Crop = None,
    scales: options.Scales = None,
    average: options.AverageName = None,
    mirror: options.Mirror = None,
    arch: options.Arch = None,
    mean: options.Mean = None,
    std: options.Std = None,
    labels: options.LabelFile = None,
    backend: options.Backend = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    provider: options.ProviderName = None,
    prefer_nhwc: options.PreferNhwc = False,
    cuda_graph: options.CudaGraph = False,
    compile: options.Compile = None,
    autocast: options.Autocast = False,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    render: options.RenderOn = "workers",
    decode: options.DecodeOn = "workers",
    image_timeout: options.ImageTimeout = None,
    verbose: options.Verbose = False,
) -> None:
    """Print top-1 and top-5 errors with their 95 % interval; several protocols and models share one decode.

    Several models give a row each, and one for their ensemble, which averages their softmax scores.

    torchrun --nproc-per-node N -m resnet_infer eval ... shares the images among N processes, also over machines.
    """
    form = text.check_format(format_name)
    options.check_image_timeout(image_timeout, workers)
    if synsets and not ground_truth:
        raise UsageError("--synsets says what the numbers of --ground-truth mean; give both")
    if page:
        check_page(page)
    if predictions is None and (resume or probabilities):
        raise UsageError(f"--{'resume' if resume else 'probabilities'} is of --predictions FILE; give that too")
    if "WORLD_SIZE" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost process is one line of ours, not a stack trace
    from resnet_infer.console import mute, note, progress
    from resnet_infer.data.imagenet import real_sets, with_ground_truth
    from resnet_infer.data.open import open_source
    from resnet_infer.distributed.group import processes
    from resnet_infer.environment import environment
    from resnet_infer.evaluation.evaluate import evaluate as run
    from resnet_infer.pipeline.loading import Loading
    from resnet_infer.predictions.files import format_of
    from resnet_infer.predictions.recorder import Recording

    if predictions:
        format_of(predictions)
    with processes(device, tensors=False, patience_s=rank_timeout) as group:
        if not group.leads:
            mute()
        flags = (("single-crop", single_crop), ("ten-crop", ten_crop), ("multiscale", multiscale))
        names = [*(protocol or []), *(name for name, given in flags if given)] or ["single-crop"]
        members = open_members(
            model,
            names,
            {"resize": resize, "crop": crop, "scales": scales, "mirror": mirror, "average": average},
            backend=backend,
            device=device if group.world == 1 else str(group.device),
            precision=precision,
            overrides=options.overrides(arch, mean, std, labels),
            options=options.run_options(provider, prefer_nhwc, cuda_graph, compile, autocast),
        )
        source = open_source(data)
        if source.left_out:
            left_out = f"{len(source.left_out)} files are no images by their suffix, as {source.left_out[0]}"
            note(f"{data}: {left_out}; left out")
        if ground_truth:
            source = with_ground_truth(source, ground_truth, synsets)
        first = members[0].model.manifest
        with progress("evaluating", len(source.samples), "images") as advance:
            results = run(
                members,
                source,
                weights=weights_of(weights, len(model)),
                on_error=on_error,  # type: ignore[arg-type]  # evaluate checks it
                loading=Loading(
                    batch_size=batch_size,
                    workers=workers,
                    offload=options.offload(render, decode),
                    image_timeout_s=image_timeout,
                ),
                metrics=metrics or page is not None,
                real=real_sets(source, real_labels, first.labels, first.spec.classes) if real_labels else None,
                recording=Recording(path=predictions, resume=resume, probabilities=probabilities)
                if predictions
                else None,
                group=group,
                advance=advance,
            )
    if not results:  # a process of several that does not lead
        return
    records = [row.to_dict() for row in results]
    if page:
        write_page(page, eval_page(results))
    if form == "table":
        print(eval_table(results))
    elif form == "json":
        print(text.as_json({"environment": environment(), "rows": records}))
    else:
        print(text.as_json_lines(records) if form == "jsonl" else text.as_csv(records))
