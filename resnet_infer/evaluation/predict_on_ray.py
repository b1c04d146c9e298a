"""Predictions of very large collections on a Ray cluster: a Ray Data pipeline around `predict`.

A pool of actors, one a GPU or a CPU, each with a model of its own, takes batches of images as they come and gives
records, which are written as Parquet while others are still scored. Ray holds no more in memory than what is under
way, starts an actor anew that died, and repeats its batch. Images are read where they are scored, so files, archives
and Parquet files of bytes must lie where every machine sees them.

Shapes: N images.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else Ray repeats a driver's `uv run` for every worker
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it warns of, as a dead worker, is mended

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from resnet_infer.backends.load import Model
from resnet_infer.data.source import Source
from resnet_infer.errors import ProcessError, ResnetInferError, UsageError
from resnet_infer.evaluation.predict import predict
from resnet_infer.evaluation.rows import Prediction
from resnet_infer.files import utf8
from resnet_infer.pipeline.loading import DEFAULT, Loading
from resnet_infer.spec.protocols import Protocol

BATCH_IMAGES = 512
"""Images that an actor is given at once, and that are scored again if it dies."""
TRIES = 3
"""How often a batch is begun. Ray itself would go on for ever with one that ends every actor."""
TRIES_FOLDER = "_tries"
TOLD = "error"
"""File in it with an actor's error: what Ray hands on of one is its traceback as text."""

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("path", pa.string()),
        ("model", pa.string()),
        ("protocol", pa.string()),
        ("backend", pa.string()),
        ("top_classes", pa.list_(pa.int32())),
        ("top_labels", pa.list_(pa.string())),
        ("top_probs", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
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
    loading: Loading = DEFAULT
    """Its workers are each actor's own; by default the cores it has to itself."""
    tries: int = TRIES
    """How often a batch is begun before it is taken for what ends its actors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a run has written."""

    folder: Path
    images: int
    unreadable: int
    files: int
    images_per_s: float
    """From the start of the pipeline, with the opening of models."""


def predict_by_ray(source: Source, scoring: Scoring, output: Path, *, actors: int | None = None) -> Written:
    """Score the images of a source, and put the folder in place once every image is in it exactly once.

    By default there are as many actors as GPUs or, less one, CPUs. Raises UsageError if the folder already exists,
    ProcessError if Ray gives up or images end every worker, and what else an actor raised as ResnetInferError.
    """
    if output.exists():
        raise UsageError(f"{output}: already exists; give a new folder")
    with _cluster():
        return _run(source, scoring, output, actors)


def _run(source: Source, scoring: Scoring, output: Path, actors: int | None) -> Written:
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
    images = len(source.samples)
    positions = ray.data.range(images, override_num_blocks=-(-images // BATCH_IMAGES))
    scored = positions.map_batches(
        _Actor,
        fn_constructor_kwargs={
            "scoring": scoring,
            "source": ray.put(source),
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
        failure = _failure(partial / TRIES_FOLDER / TOLD, error)
        shutil.rmtree(partial, ignore_errors=True)
        raise failure from error
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
        self._source: Source = ray.get(source)
        self._workers = cores - 1 if scoring.loading.workers is None else scoring.loading.workers
        self._tries = Path(tries)
        with self._telling():
            self._model = scoring.open()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows of the images at these positions."""
        positions = batch["id"].to_pylist()
        with self._telling():
            begun = self._begin(positions[0], positions[-1])
            rows = [_row(index, record) for index, record in zip(positions, self._predict(positions), strict=True)]
        begun.unlink(missing_ok=True)
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _predict(self, positions: Sequence[int]) -> Iterator[Prediction]:
        how = self._scoring
        return predict(
            self._model,
            how.protocol,
            self._source,
            indices=positions,
            top_k=how.top_k,
            loading=replace(how.loading, workers=self._workers),
        )

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except ResnetInferError as error:
            (self._tries / TOLD).write_text(f"{error.exit_code} {error}", "utf-8", "backslashreplace")
            raise

    def _begin(self, first: int, last: int) -> Path:
        """A mark on the common storage that outlives this actor; raises ProcessError if there are too many."""
        mark = self._tries / f"{first}-{last}"
        with mark.open("ab") as file:
            file.write(b".")
        if mark.stat().st_size > self._scoring.tries:
            raise ProcessError(
                f"images {first} to {last} ended {self._scoring.tries} workers, by a crash or for lack of memory; find "
                "the one in question with `resnet-infer predict` without Ray, and leave it out"
            )
        return mark


def _row(index: int, record: Prediction) -> dict[str, Any]:
    best = record.predictions
    return {
        "index": index,
        "path": utf8(record.path),
        "model": record.model,
        "protocol": record.protocol,
        "backend": record.backend,
        "top_classes": [entry.index for entry in best],
        "top_labels": [entry.label for entry in best],
        "top_probs": [entry.prob for entry in best],
        "error": utf8(record.error),
    }


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


def _failure(told: Path, error: RayError) -> ResnetInferError:
    """The error of ours that an actor told of, or that Ray gave up."""
    if told.is_file():
        code, _, message = told.read_text("utf-8").partition(" ")
        failure = ResnetInferError(message)
        failure.exit_code = int(code)
        return failure
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ProcessError(f"Ray gave up: {lines[-1] if lines else type(error).__name__}")
