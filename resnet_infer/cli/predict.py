"""`resnet-infer predict`: the best classes of images."""

import sys
from typing import Annotated, Any

import typer

from resnet_infer.cli import options
from resnet_infer.errors import DataError
from resnet_infer.registry import DEFAULT_MODEL
from resnet_infer.report import rows


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders, .zip, .tar, lists, 'patterns*', or - for stdin."),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="Checkpoint key or file; `resnet-infer models` lists keys.", metavar="MODEL"
        ),
    ] = DEFAULT_MODEL,
    protocol: Annotated[str, typer.Option(help="single-crop, ten-crop or multiscale.", metavar="NAME")] = "single-crop",
    on_error: Annotated[
        str,
        typer.Option(help="Unreadable images: fail (exit code 1 at the end) or skip. Always listed.", metavar="MODE"),
    ] = "fail",
    top_k: Annotated[int, typer.Option(help="Classes to show.", min=1, metavar="N")] = 5,
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
    """Print the best classes of images. An unreadable image is a record with its error, and exit code 1."""
    form = rows.check_format(format_name)
    options.check_on_error(on_error)
    options.check_image_timeout(image_timeout, workers)
    from resnet_infer.data.loader import IMAGE_TIMEOUT_S
    from resnet_infer.data.sources import open_inputs
    from resnet_infer.predict import predict as run
    from resnet_infer.report.console import note, progress

    source = open_inputs(inputs, sys.stdin.buffer)
    opened = options.open_as_asked(
        model,
        backend=backend,
        device=device,
        precision=precision,
        overrides=options.overrides(arch, mean, std, labels),
        options=options.run_options(provider, prefer_nhwc, cuda_graph, compile, autocast),
        dense=protocol == "multiscale" and average != "gap",
    )
    (test,) = options.protocols(
        [protocol], opened.manifest, resize=resize, crop=crop, scales=scales, mirror=mirror, average=average
    )
    records: list[rows.Prediction] = []
    with progress("predicting", len(source.samples), "images") as advance:
        for record in run(
            opened,
            test,
            source,
            top_k=top_k,
            batch_size=batch_size,
            workers=workers,
            offload=options.offload(render, decode),
            image_timeout_s=image_timeout or (IMAGE_TIMEOUT_S if on_error == "skip" else None),
        ):
            records.append(record)
            if form == "jsonl":
                print(rows.as_json_lines([record.to_dict()]), flush=True)
            advance(1)
    if form == "table":
        print("\n".join(_block(record) for record in records if not record.error))
    elif form == "json":
        print(rows.as_json([record.to_dict() for record in records]))
    elif form == "csv":
        print(rows.as_csv([line for record in records for line in _lines(record)]))
    failed = [record for record in records if record.error]
    for record in failed:
        note(f"{record.path}: {record.error}")
    if failed and (on_error == "fail" or len(failed) == len(records)):  # nothing at all is no success
        raise DataError(f"{len(failed)} of {len(records)} images cannot be read (listed above)")


def _block(record: rows.Prediction) -> str:
    lines = [f"  {100 * p['prob']:6.2f} %  {p['label'] or 'class ' + str(p['index'])}" for p in record.predictions]
    return "\n".join([record.path, *lines])


def _lines(record: rows.Prediction) -> list[dict[str, Any]]:
    base = {"path": record.path, "model": record.model, "protocol": record.protocol, "backend": record.backend}
    if record.error:
        return [base | {"rank": "", "index": "", "label": "", "prob": "", "error": record.error}]
    return [base | {"rank": rank, **best, "error": ""} for rank, best in enumerate(record.predictions, start=1)]
