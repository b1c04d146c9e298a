"""`resnet-infer predict`: the best classes of images."""

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from resnet_infer.cli.data_options import PictureData
from resnet_infer.cli.groups import with_flags
from resnet_infer.cli.model_options import RunModel
from resnet_infer.cli.options import Loading, Output, Views
from resnet_infer.errors import DataError, UsageError
from resnet_infer.evaluation.rows import Prediction
from resnet_infer.report import text
from resnet_infer.spec.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from resnet_infer.data.source import Source


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a large collection is scored."""

    PANEL: ClassVar = "Ray"
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: on a cluster, for very large collections (extra `ray`).")
    ] = "local"
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="With --engine ray: a new folder for Parquet.", metavar="FOLDER"),
    ] = None
    actors: Annotated[
        int | None,
        typer.Option(help="With --engine ray: models at work; default: one a GPU, or CPU.", min=1, metavar="N"),
    ] = None

    def check(self, format_name: str) -> None:
        """Raise UsageError for flags that do not go together."""
        if self.engine == "local" and (self.output or self.actors):
            raise UsageError(f"--{'output' if self.output else 'actors'} is for --engine ray")
        if self.engine == "ray" and (self.output is None or format_name != "table"):
            raise UsageError("--engine ray writes Parquet: give --output FOLDER, and no --format")


@with_flags
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders, .zip, .tar, lists, 'patterns*', or - for stdin."),
    ],
    run_model: RunModel,
    views: Views,
    loading: Loading,
    pictures: PictureData,
    cluster: Cluster,
    output: Output,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Checkpoint key, file or hf-hub:OWNER/NAME; `resnet-infer models` lists keys.",
            metavar="MODEL",
        ),
    ] = DEFAULT_MODEL,
    on_error: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="Unreadable images: fail (exit code 1 at the end) or skip. They are always listed."),
    ] = "fail",
    top_k: Annotated[int, typer.Option(help="Classes to show.", min=1, metavar="N")] = 5,
) -> None:
    """Print the best classes of images. An unreadable image or input is a record with its error, and exit code 1.

    Files that are no images by their suffix are left out, and counted on stderr in every --format.

    With --engine ray the records are written as Parquet, a row an image, in no order.
    """
    form = output.format_name
    cluster.check(form)
    if len(views.names) > 1:
        raise UsageError(f"predict uses one protocol; got {', '.join(views.names)}")
    from resnet_infer.console import emit, note, note_damaged, progress, say, visible
    from resnet_infer.data.left_out import note_left_out
    from resnet_infer.data.open import open_inputs
    from resnet_infer.evaluation.predict import predict as run

    opener = partial(run_model.open, model, dense=views.dense)
    source = open_inputs(inputs, sys.stdin.buffer, reading=pictures.reading(), keep_going=True)
    note_left_out(source)
    opened = opener()
    (test,) = views.protocols(opened.manifest)
    how = loading.value() if on_error == "fail" else loading.value().guarded()
    if cluster.output:
        on = "cuda" if opened.backend.info.device.startswith("cuda") else "cpu"
        opened.close()
        from_cluster = partial(opener, device=on)
        _by_ray(source, cluster, on_error, open=from_cluster, protocol=test, device=on, top_k=top_k, loading=how)
        return
    records: list[Prediction] = []
    with progress("predicting", len(source.samples), "images") as advance:
        for record in run(opened, test, source, top_k=top_k, loading=how):
            records.append(record)
            if form == "jsonl":
                emit(text.as_json_lines([record.to_dict()]))
            advance(1)
    if form == "table":
        say("\n".join(_block(visible(record)) for record in records if not record.error))
    elif form == "json":
        emit(text.as_json([record.to_dict() for record in records]))
    elif form == "csv":
        emit(text.as_csv([line for record in records for line in _lines(record)]))
    note_damaged({record.path: record.warning for record in records if record.warning})
    failed = [record for record in records if record.error]
    for record in failed:
        note(f"{record.path}: {record.error}")
    if failed and (on_error == "fail" or len(failed) == len(records)):  # nothing at all is no success
        raise DataError(f"{len(failed)} of {len(records)} images cannot be read (listed above)")


def _by_ray(source: "Source", cluster: Cluster, on_error: str, **scoring: Any) -> None:
    from resnet_infer.console import note, say, visible

    assert cluster.output
    try:
        from resnet_infer.evaluation.predict_on_ray import Scoring, predict_by_ray
    except ImportError as error:
        raise UsageError(f"--engine ray needs Ray ({error}): pip install 'resnet-infer[ray]'") from error
    written = predict_by_ray(source, Scoring(**scoring), cluster.output, actors=cluster.actors)
    total = f"{written.images} images"
    say(
        f"{visible(str(written.folder))}: {total} in {written.files} Parquet files, {written.images_per_s:.1f} images/s"
    )
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
