"""`resnet-infer predict`: the best classes of images."""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_infer.cli import options
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.rows import Prediction
from resnet_infer.report import text
from resnet_infer.spec.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from resnet_infer.data.source import Source


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
    engine: Annotated[
        str,
        typer.Option(help="local, or ray: a cluster, for very large collections (extra `ray`).", metavar="NAME"),
    ] = "local",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Of --engine ray: new folder of Parquet.", metavar="FOLDER")
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="Of --engine ray: models at work; by default one a GPU, or CPU.", min=1)
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
    """Print the best classes of images. An unreadable image is a record with its error, and exit code 1.

    With --engine ray the records are written as Parquet, a row an image, in no order.
    """
    form = text.check_format(format_name)
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine '{engine}' is not one of local, ray")
    if engine == "local" and (output or actors):
        raise UsageError(f"--{'output' if output else 'actors'} is of --engine ray")
    if engine == "ray" and (output is None or form != "table"):
        raise UsageError("--engine ray writes Parquet: give --output FOLDER, and no --format")
    options.check_on_error(on_error)
    options.check_image_timeout(image_timeout, workers)
    from resnet_infer.console import note, progress
    from resnet_infer.data.open import open_inputs
    from resnet_infer.evaluation.predict import predict as run
    from resnet_infer.pipeline.loading import IMAGE_TIMEOUT_S, Loading

    opener = partial(
        options.open_as_asked,
        model,
        backend=backend,
        device=device,
        precision=precision,
        overrides=options.overrides(arch, mean, std, labels),
        options=options.run_options(provider, prefer_nhwc, cuda_graph, compile, autocast),
        dense=protocol == "multiscale" and average != "gap",
    )
    source = open_inputs(inputs, sys.stdin.buffer)
    opened = opener()
    (test,) = options.protocols(
        [protocol], opened.manifest, resize=resize, crop=crop, scales=scales, mirror=mirror, average=average
    )
    how: dict[str, Any] = {
        "top_k": top_k,
        "loading": Loading(
            batch_size=batch_size,
            workers=workers,
            offload=options.offload(render, decode),
            image_timeout_s=image_timeout or (IMAGE_TIMEOUT_S if on_error == "skip" else None),
        ),
    }
    if output:
        on = "cuda" if opened.backend.info.device.startswith("cuda") else "cpu"
        opened.backend.close()
        _by_ray(source, output, actors, on_error, open=partial(opener, device=on), protocol=test, device=on, **how)
        return
    records: list[Prediction] = []
    with progress("predicting", len(source.samples), "images") as advance:
        for record in run(opened, test, source, **how):
            records.append(record)
            if form == "jsonl":
                print(text.as_json_lines([record.to_dict()]), flush=True)
            advance(1)
    if form == "table":
        print("\n".join(_block(record) for record in records if not record.error))
    elif form == "json":
        print(text.as_json([record.to_dict() for record in records]))
    elif form == "csv":
        print(text.as_csv([line for record in records for line in _lines(record)]))
    failed = [record for record in records if record.error]
    for record in failed:
        note(f"{record.path}: {record.error}")
    if failed and (on_error == "fail" or len(failed) == len(records)):  # nothing at all is no success
        raise DataError(f"{len(failed)} of {len(records)} images cannot be read (listed above)")


def _by_ray(source: "Source", output: Path, actors: int | None, on_error: str, **scoring: Any) -> None:
    from resnet_infer.console import note

    try:
        from resnet_infer.evaluation.predict_on_ray import Scoring, predict_by_ray
    except ImportError as error:
        raise UsageError(f"--engine ray needs Ray ({error}): pip install 'resnet-infer[ray]'") from error
    written = predict_by_ray(source, Scoring(**scoring), output, actors=actors)
    total = f"{written.images} images"
    print(f"{written.folder}: {total} in {written.files} Parquet files, {written.images_per_s:.1f} images/s")
    if written.unreadable:
        unread = f"{written.unreadable} of {total} cannot be read (column error in {written.folder} says why)"
        if on_error == "fail" or written.unreadable == written.images:
            raise DataError(unread)
        note(unread)


def _block(record: Prediction) -> str:
    lines = [f"  {100 * p.prob:6.2f} %  {p.label or f'class {p.index}'}" for p in record.predictions]
    return "\n".join([record.path, *lines])


def _lines(record: Prediction) -> list[dict[str, Any]]:
    base = {"path": record.path, "model": record.model, "protocol": record.protocol, "backend": record.backend}
    if record.error:
        return [base | {"rank": "", "index": "", "label": "", "prob": "", "error": record.error}]
    return [base | {"rank": rank, **asdict(best), "error": ""} for rank, best in enumerate(record.predictions, start=1)]
