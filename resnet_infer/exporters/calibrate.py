"""Activation ranges for a quantised export: a search over methods and numbers of images, judged on images held out.

Which method serves a network best cannot be told beforehand: entropy or min-max is the difference between one and
twenty points of accuracy, one way for one network and the other way for the next. So all are tried and the one kept
whose best class agrees most often with fp32 on images that no range was made from.

Methods: onnxruntime.quantization's calibrators, min-max, entropy (Kullback-Leibler) and percentile (99.999).
"""

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from resnet_infer.backends.graph_ends import GraphInput
from resnet_infer.backends.load import Model
from resnet_infer.backends.onnx_ends import image_input
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, GateError, UsageError
from resnet_infer.evaluation.agreement import agreement, errors, probabilities, truth_of
from resnet_infer.exporters.quantize import CALIBRATED_OPERATORS, Arrangement, quantized_graph, saturates_int8
from resnet_infer.pipeline.loader import Crew, load
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import FloatLayer
from resnet_infer.spec.protocols import Protocol, protocol_for

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
CALIBRATORS: Mapping[Method, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512}),  # by default as many bins as levels: nothing to choose
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.999}),
}
FEWEST = 32
"""Images to calibrate on at least, and to judge on at least."""
PIXELS = 8 * 224 * 224
"""In one batch: the histograms hold every activation of it at once, 350 MB for resnet50."""
FLOOR = 0.8
"""Agreement on held-out images below which the best candidate is not written, gate or no gate: it is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How a quantised export is to be made."""

    data: Source
    """Images to calibrate and to judge on; classes are used where it has them, not needed."""
    images: int = 500
    """Most images to calibrate on; as many others are held out."""
    method: Method | None = None
    """None searches over all."""
    keep_float: tuple[FloatLayer, ...] = ("classifier",)
    arrangement: Arrangement = "onnxruntime"
    reduce_range: bool | None = None
    """Weights of 7 bits. None: where this CPU needs it, for the onnxruntime arrangement."""

    def __post_init__(self) -> None:
        if self.method not in (None, *METHODS):
            raise UsageError(f"calibration method '{self.method}' is not one of search, {', '.join(METHODS)}")
        if self.images < FEWEST:
            raise UsageError(f"--calibration-images must be at least {FEWEST}; got {self.images}")


def quantize(
    graph: onnx.ModelProto,
    manifest: Manifest,
    reference: Model,
    wanted: Quantization,
    *,
    advance: Callable[[float], None] = lambda candidates: None,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The best quantised form of an fp32 graph, and the record of the search for the manifest.

    `advance` is called with 1 after every candidate. Raises DataError if there are too few images or one cannot be
    read, GateError if even the best candidate is no use.
    """
    if manifest.precision == "fp8" and wanted.arrangement != "tensorrt":
        raise UsageError("fp8 is for TensorRT; use the arrangement tensorrt")
    calibration, held_out = _split(wanted)
    protocol = _crops(manifest)
    truth = _truth(reference, wanted.data)
    held_truth = None if truth is None else [truth[index] for index in held_out]
    reduce_range = wanted.reduce_range
    if reduce_range is None:
        reduce_range = wanted.arrangement == "onnxruntime" and saturates_int8()

    table: list[dict[str, Any]] = []
    best: tuple[tuple[float, float], onnx.ModelProto, dict[str, Any]] | None = None
    with (
        tempfile.TemporaryDirectory(prefix="resnet-infer-calibration-") as folder,
        Crew(wanted.data) as crew,
    ):
        expected_NK = probabilities(reference, protocol, wanted.data, held_out, crew=crew)
        for method, images, ranges in _ranges(graph, manifest, wanted, calibration, Path(folder)):
            made = quantized_graph(
                graph,
                ranges,
                precision=manifest.precision,
                arrangement=wanted.arrangement,
                keep_float=wanted.keep_float,
                reduce_range=reduce_range,
            )
            candidate = _model(made, manifest, Path(folder) / "candidate.onnx")
            found_NK = probabilities(candidate, protocol, wanted.data, held_out, crew=crew)
            candidate.backend.close()
            measured = agreement(expected_NK, found_NK)
            row: dict[str, Any] = {
                "method": method,
                "images": images,
                "agreement": round(measured.top1_agreement, 5),
                "kl_divergence": measured.kl_divergence,
                "held_out_errors": None if held_truth is None else errors(found_NK, held_truth),
            }
            table.append(row)
            rank = (measured.top1_agreement, -measured.kl_divergence)
            if best is None or rank > best[0]:
                best = rank, made, row
            advance(1)
    assert best is not None
    _, proto, chosen = best
    if chosen["agreement"] < FLOOR:
        raise GateError(
            f"{reference.name}: not written: the best of {len(table)} {manifest.precision} candidates agrees with fp32 "
            f"on {100 * chosen['agreement']:.1f} % of held-out images; give other --calibration-data, or keep more in "
            "float with --keep-float stem,classifier"
        )
    return proto, {
        "data": wanted.data.name,
        "method": chosen["method"],
        "images": chosen["images"],
        "held_out": len(held_out),
        "arrangement": wanted.arrangement,
        "kept_float": list(wanted.keep_float),
        "reduce_range": reduce_range,
        "reference_held_out_errors": None if held_truth is None else errors(expected_NK, held_truth),
        "table": table,
    }


def _crops(manifest: Manifest) -> Protocol:
    """Single crops, for a dense head of the size at which its map is one window."""
    spec, preprocessing = manifest.spec, manifest.preprocessing
    if manifest.head == "dense":
        resize = max(preprocessing.resize, spec.native_size)
        return protocol_for("single-crop", spec, preprocessing, resize=resize, crop=spec.native_size)
    return protocol_for("single-crop", spec, preprocessing)


def _truth(reference: Model, source: Source) -> Sequence[int] | None:
    """The classes of the images if they are the model's: errors are shown then, but nothing depends on them."""
    try:
        return truth_of(reference, source)
    except DataError:
        return None


def candidates(wanted: Quantization) -> int:
    """How many will be tried: methods times numbers of images."""
    calibration, _ = _split(wanted)
    return len(_sizes(len(calibration))) * (1 if wanted.method else len(METHODS))


def _split(wanted: Quantization) -> tuple[list[int], list[int]]:
    """Indices to calibrate on and to judge on: drawn over the whole source, which is often sorted by class."""
    total = len(wanted.data.samples)
    if total < 2 * FEWEST:
        raise DataError(
            f"{wanted.data.name}: {total} images are too few to calibrate on; give at least {2 * FEWEST}, "
            "of every class, such as the network will meet"
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(2015)).tolist()
    most = min(wanted.images, total // 2)
    return order[:most], order[most : 2 * most]


def _sizes(most: int) -> list[int]:
    """All images, a quarter and a sixteenth of them, as far as those are enough."""
    return sorted({size for size in (most // 16, most // 4, most) if size >= FEWEST})


def _ranges(
    graph: onnx.ModelProto, manifest: Manifest, wanted: Quantization, calibration: Sequence[int], folder: Path
) -> Iterator[tuple[Method, int, Any]]:
    """(method, number of images, ranges): every method sees each image once, its ranges taken on the way."""
    path = folder / "float.onnx"
    onnx.save(graph, path)
    protocol, image = _crops(manifest), image_input(graph)
    for method in [wanted.method] if wanted.method else METHODS:
        kind, options = CALIBRATORS[method]
        calibrator = create_calibrator(
            path,
            CALIBRATED_OPERATORS,
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=options,
        )
        begun = 0
        for size in _sizes(len(calibration)):
            for batch in _batches(wanted.data, protocol, manifest, calibration[begun:size], _fixed_batch(image)):
                with redirect_stdout(io.StringIO()):  # it prints its progress where results go
                    calibrator.collect_data(Once(batch, image.name))
            begun = size
            with redirect_stdout(io.StringIO()):
                ranges = calibrator.compute_data()
            yield method, size, ranges


def _fixed_batch(image: onnx.ValueInfoProto) -> int:
    """The batch that the graph takes, 0 for any."""
    return int(image.type.tensor_type.shape.dim[0].dim_value)


def _batches(
    source: Source, protocol: Protocol, manifest: Manifest, indices: Sequence[int], fixed: int = 0
) -> Iterator[NDArray[Any]]:
    """These images' single crops as the graph takes them; a fixed batch is filled up with its last image."""
    as_input = GraphInput(manifest, "cpu", torch.float32)
    room = fixed or max(1, PIXELS // protocol.crop**2)
    waiting: list[torch.Tensor] = []
    for number, image in enumerate(load(source, [protocol], indices, workers=0), start=1):
        if image.error:
            raise DataError(f"{source.samples[image.index].name}: {image.error}; leave it out of the calibration data")
        waiting.append(image.tiles[0])
        if len(waiting) == room or number == len(indices):
            waiting += [waiting[-1]] * (fixed - len(waiting))
            yield as_input(torch.stack(waiting).permute(0, 3, 1, 2)).numpy()
            waiting = []


class Once(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """One batch, so that a calibrator holds the activations of no more."""

    def __init__(self, batch: NDArray[Any], name: str = "input") -> None:
        self._batches: list[NDArray[Any]] = [batch]
        self._name = name

    def get_next(self) -> dict[str, NDArray[Any]]:
        return {self._name: self._batches.pop()} if self._batches else {}


def _model(proto: onnx.ModelProto, manifest: Manifest, path: Path) -> Model:
    onnx.save(proto, path)
    running = replace(manifest, quantization={})
    return Model(name=path.name, manifest=running, backend=OrtBackend(path, running, "cpu"))
