"""Predictions of very large collections on a Ray cluster: a Ray Data pipeline around `predict`.

A pool of actors, one a GPU or a CPU, each with a model of its own, takes batches of images as they come and gives
records, which are written as Parquet while others are still scored. Ray holds no more in memory than what is under
way, starts an actor anew that died, and repeats its batch. Images are read where they are scored, so files and
archives must lie where every machine sees them; those that are rows of Parquet files are read by tasks of their own.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else Ray repeats a driver's `uv run` for every worker
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # a dead worker is mended

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from resnet_infer.backends.load import Model
from resnet_infer.data.packing import Offload
from resnet_infer.data.sources import Memory, Source
from resnet_infer.errors import DataError, ProcessError, ResnetInferError, UsageError
from resnet_infer.predict import predict
from resnet_infer.protocols import Protocol
from resnet_infer.report.rows import Prediction

BATCH_IMAGES = 512
"""Images that an actor is given at once, and that are scored again if it dies."""
TRIES = 3
"""How often a batch is begun. Ray itself would go on for ever with one that ends every actor."""
TRIES_FOLDER = "_tries"

STRINGS, NUMBERS, SHARES = pa.list_(pa.string()), pa.list_(pa.int32()), pa.list_(pa.float32())
SCHEMA = pa.schema(
    {"index": pa.int64()}
    | dict.fromkeys(("path", "model", "protocol", "backend"), pa.string())
    | {"top_classes": NUMBERS, "top_labels": STRINGS, "top_probs": SHARES, "error": pa.string()}
)
"""Of the files written: one row an image, in no order; `index` is its position in the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What every actor does with its images."""

    open: Callable[[], Model]
    """Opens the model, in the actor."""
    protocol: Protocol
    device: Literal["cpu", "cuda"] = "cpu"
    """Whether every actor has a GPU, or a CPU core."""
    top_k: int = 5
    batch_size: int | None = None
    workers: int | None = None
    """Decoding processes of each actor; by default the cores it has to itself."""
    offload: Offload = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a run has written."""

    folder: Path
    images: int
    unreadable: int
    files: int
    images_per_s: float
    """From the start of the pipeline, with the opening of models."""


def predict_source(source: Source, scoring: Scoring, output: Path, *, actors: int | None = None) -> Written:
    """Score the images of a source, which travels to the actors; see `_run`."""
    images = len(source.samples)
    with _cluster():
        numbers = ray.data.range(images, override_num_blocks=-(-images // BATCH_IMAGES))
        return _run(numbers.rename_columns({"id": "index"}), images, ray.put(source), scoring, output, actors)


def predict_parquet(files: Sequence[Path], scoring: Scoring, output: Path, *, actors: int | None = None) -> Written:
    """Score images whose bytes are rows of Parquet files; see `_run`.

    The bytes are in a column `image`, `bytes` or `data`, or in the field `bytes` of a column `image`; names are in
    `path` or `name`, in the field `path` of `image`, or are FILE:ROW. Raises DataError for files that have none.
    """
    groups, images = [], 0
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                column = _image_column(opened.schema_arrow, file)
                for group in range(opened.num_row_groups):
                    rows = opened.metadata.row_group(group).num_rows
                    groups.append({"file": str(file), "group": group, "first": images, "column": column})
                    images += rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: no Parquet file, or damaged ({error})") from error
    if not images:
        raise DataError(f"{files[0]}: no rows in it")
    with _cluster():
        listed = ray.data.from_items(groups, override_num_blocks=len(groups))
        rows = listed.map_batches(_read_rows, batch_size=1, batch_format="pyarrow")
        return _run(rows, images, None, scoring, output, actors)


def _run(rows: Dataset, images: int, source: Any, scoring: Scoring, output: Path, actors: int | None) -> Written:
    """Run the pipeline and put its folder in place once every image is in it exactly once.

    Raises UsageError if the folder is there already, ProcessError if Ray gives up, or what an actor raised.
    """
    if output.exists():
        raise UsageError(f"{output}: is there already; give a new folder")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / TRIES_FOLDER).mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror or error})") from error
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    on_gpu = scoring.device == "cuda"
    pool = actors or max(1, int(resources.get("GPU", 0)) if on_gpu else int(resources["CPU"]) - 1)
    cores = max(1, (int(resources["CPU"]) - 1) // pool)
    scored = rows.map_batches(
        _Actor,
        fn_constructor_kwargs={
            "scoring": scoring,
            "source": source,
            "cores": cores if on_gpu else 1,
            "tries": str(partial / TRIES_FOLDER),
        },
        batch_size=BATCH_IMAGES,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=pool),
        num_cpus=cores if on_gpu else 1,
        num_gpus=1 if on_gpu else None,
    )
    begun = time.perf_counter()
    try:
        scored.write_parquet(str(partial))
    except RayError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _own(error) from error
    seconds = time.perf_counter() - begun
    written = pyarrow.dataset.dataset(partial, format="parquet")
    index_N = written.to_table(columns=["index"])["index"].to_numpy()
    counts_N = np.bincount(index_N, minlength=images)
    if len(counts_N) != images or (counts_N != 1).any():
        wrong = int(np.argmax(counts_N != 1))
        raise ProcessError(f"{partial}: image {wrong} was written {counts_N[wrong]} times; nothing is put in place")
    shutil.rmtree(partial / TRIES_FOLDER)
    partial.rename(output)
    written = pyarrow.dataset.dataset(output, format="parquet")
    return Written(
        folder=output,
        images=images,
        unreadable=written.count_rows(filter=pyarrow.dataset.field("error") != ""),
        files=len(written.files),
        images_per_s=images / seconds,
    )


class _Actor:
    """A model, and the images that it is given."""

    def __init__(self, scoring: Scoring, source: Any, cores: int, tries: str) -> None:
        self._scoring = scoring
        self._source: Source | None = ray.get(source) if source is not None else None
        self._workers = cores - 1 if scoring.workers is None else scoring.workers
        self._tries = Path(tries)
        self._model = scoring.open()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows of images: of positions in the source, or of names and bytes."""
        index_N = batch["index"].to_pylist()
        begun = self._begin(index_N[0], index_N[-1])
        if self._source is not None:
            source, indices = self._source, index_N
        else:
            named = zip(batch["name"].to_pylist(), batch["bytes"].to_pylist(), strict=True)
            source, indices = Memory("Parquet", [(name, data or b"") for name, data in named]), range(len(index_N))
        records = predict(
            self._model,
            self._scoring.protocol,
            source,
            indices=indices,
            top_k=self._scoring.top_k,
            batch_size=self._scoring.batch_size,
            workers=self._workers,
            offload=self._scoring.offload,
        )
        rows = [_row(index, record) for index, record in zip(index_N, records, strict=True)]
        begun.unlink(missing_ok=True)
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _begin(self, first: int, last: int) -> Path:
        """A mark on the common storage that outlives this actor; raises ProcessError if there are too many."""
        mark = self._tries / f"{first}-{last}"
        with mark.open("ab") as file:
            file.write(b".")
        if mark.stat().st_size > TRIES:
            raise ProcessError(
                f"images {first} to {last} ended {TRIES} workers, by a crash or for want of memory; find the one in "
                "question with `resnet-infer predict` without Ray, and leave it out"
            )
        return mark


def _row(index: int, record: Prediction) -> dict[str, Any]:
    best = record.predictions
    return {
        "index": index,
        "path": _utf8(record.path),
        "model": record.model,
        "protocol": record.protocol,
        "backend": record.backend,
        "top_classes": [entry["index"] for entry in best],
        "top_labels": [entry["label"] for entry in best],
        "top_probs": [entry["prob"] for entry in best],
        "error": _utf8(record.error),
    }


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _image_column(schema: pa.Schema, file: Path) -> str:
    for name in ("image", "bytes", "data"):
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(kind.num_fields)]:
                return name
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    raise DataError(
        f"{file}: no column with the bytes of images among {', '.join(schema.names)}; one is named image, bytes or data"
    )


def _read_rows(groups: pa.Table) -> Iterator[pa.Table]:
    """The rows of a row group, some at a time: their index, name and bytes."""
    for entry in groups.to_pylist():
        with pq.ParquetFile(entry["file"]) as opened:
            columns = [name for name in (entry["column"], "path", "name") if name in opened.schema_arrow.names]
            at = 0
            for batch in opened.iter_batches(BATCH_IMAGES, row_groups=[entry["group"]], columns=columns):
                rows = batch.to_pylist()
                images = [row[entry["column"]] for row in rows]
                if images and pa.types.is_struct(batch.schema.field(entry["column"]).type):
                    data = [image and image["bytes"] for image in images]
                    names = [image and image.get("path") for image in images]
                else:
                    data, names = images, [row.get("path") or row.get("name") for row in rows]
                first = entry["first"] + at
                index = range(first, first + len(rows))
                titles = [name or f"{entry['file']}:{at + place}" for place, name in enumerate(names)]
                at += len(rows)
                yield pa.table(
                    {"index": pa.array(index, pa.int64()), "name": titles, "bytes": pa.array(data, pa.large_binary())}
                )


@contextmanager
def _cluster() -> Iterator[None]:
    """The cluster that this process has joined, that of RAY_ADDRESS, or one of this machine alone."""
    joined = ray.is_initialized()
    if not joined:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ProcessError(f"Ray does not start ({str(error).splitlines()[0]})") from error
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        if not joined:
            ray.shutdown()


def _own(error: BaseException) -> ResnetInferError:
    """The error of ours that an actor raised, or that Ray gave up."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ResnetInferError):
            return cause
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ProcessError(f"Ray gave up: {lines[-1] if lines else type(error).__name__}")
