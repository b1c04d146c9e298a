"""`resnet-infer eval`: errors on labelled images under one or several protocols."""

from dataclasses import asdict
from typing import Annotated

import typer

from resnet_infer.cli import options
from resnet_infer.errors import UsageError
from resnet_infer.report import rows


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
            "--model", "-m", help="Checkpoint key or file; `resnet-infer models` lists keys.", metavar="MODEL"
        ),
    ],
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
    """Print top-1 and top-5 errors with their 95 % interval; several protocols share one decode."""
    form = rows.check_format(format_name)
    options.check_image_timeout(image_timeout, workers)
    if len(model) != 1:
        raise UsageError(f"eval takes one model; got {', '.join(model)}. Run it once for each")
    from resnet_infer.data.sources import open_source
    from resnet_infer.evaluate import evaluate as run
    from resnet_infer.report.console import note, progress
    from resnet_infer.report.environment import environment

    flags = (("single-crop", single_crop), ("ten-crop", ten_crop), ("multiscale", multiscale))
    names = [*(protocol or []), *(name for name, given in flags if given)] or ["single-crop"]
    opened = options.open_as_asked(
        model[0],
        backend=backend,
        device=device,
        precision=precision,
        overrides=options.overrides(arch, mean, std, labels),
        options=options.run_options(provider, prefer_nhwc, cuda_graph, compile, autocast),
        dense="multiscale" in names and average != "gap",
    )
    tests = options.protocols(
        names, opened.manifest, resize=resize, crop=crop, scales=scales, mirror=mirror, average=average
    )
    source = open_source(data)
    if source.left_out:
        note(f"{data}: {len(source.left_out)} files are no images by their suffix, as {source.left_out[0]}; left out")
    with progress("evaluating", len(source.samples), "images") as advance:
        results = run(
            opened,
            tests,
            source,
            on_error=on_error,  # type: ignore[arg-type]  # evaluate checks it
            batch_size=batch_size,
            workers=workers,
            offload=options.offload(render, decode),
            image_timeout_s=image_timeout,
            advance=advance,
        )
    records = [asdict(row) for row in results]
    if form == "table":
        print(table(results))
    elif form == "json":
        print(rows.as_json({"environment": environment(), "rows": records}))
    else:
        print(rows.as_json_lines(records) if form == "jsonl" else rows.as_csv(records))


def table(results: list[rows.EvalRow]) -> str:
    """The rows at 80 columns: one head line for what they share, one line each, one each for what was scored."""
    first = results[0]
    unreadable = f", {len(first.unreadable)} unreadable ({first.on_error})" if first.unreadable else ""
    head = f"{first.model} ({first.architecture}, {first.backend} {first.precision} on {first.device})"
    lines = [
        [
            row.protocol,
            f"{row.top1_err:.2f}",
            "{:.2f} .. {:.2f}".format(*row.top1_err_ci95),
            f"{row.top5_err:.2f}",
            f"{row.top1_errors}",
        ]
        for row in results
    ]
    columns = ["protocol", "top-1 err %", "95 % interval", "top-5 err %", "top-1 errors"]
    return "\n".join(
        [
            head,
            f"{first.data}: {first.images} images{unreadable}, {first.images_per_s:.1f} images/s",
            "",
            rows.as_table(columns, lines, right=(1, 2, 3, 4)),
            "",
            *(f"{row.protocol}: {row.views}" for row in results),
        ]
    )
