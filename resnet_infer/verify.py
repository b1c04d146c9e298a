"""Whether a file is still what was written: its checksums, its manifest against what it holds, its precision."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from resnet_infer.errors import GateError, ResnetInferError, UsageError


@dataclass(slots=True)
class Verified:
    """What was looked at in one file or folder."""

    path: Path
    kind: str
    checked: list[str] = field(default_factory=list)
    """What holds, in words."""
    problem: str = ""
    """The first thing that does not."""


def verify(path: Path) -> Verified:
    """Check a weights file, an export, predictions, a benchmark's JSON or a run's folder; nothing is run.

    What is wrong with it is in the result. Raises UsageError for what is missing or of no kind that is known.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    kinds: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
        ".safetensors": ("weights", _weights),
        ".pth": ("weights", _weights),
        ".pt": ("weights", _weights),
        ".th": ("weights", _weights),
        ".onnx": ("onnx", _onnx),
        ".engine": ("engine", _engine),
        ".plan": ("engine", _engine),
        ".jsonl": ("predictions", _predictions),
        ".parquet": ("predictions", _predictions),
        ".json": ("benchmark", _benchmark),
    }
    kind, check = ("run", _run) if path.is_dir() else kinds.get(suffix, ("", _run))
    if not kind:
        raise UsageError(f"{path}: cannot be verified; what can ends in {', '.join(kinds)}, or is a run's folder")
    found = Verified(path, kind)
    try:
        found.checked = check(path)
    except ResnetInferError as error:
        found.problem = str(error)
    except OSError as error:
        found.problem = f"{path}: cannot be read ({error.strerror or error})"
    return found


def _weights(path: Path) -> list[str]:
    from resnet_infer.model.adapters import conform, read_architecture
    from resnet_infer.model.checkpoints import read_file

    tensors, manifest, _ = read_file(path)
    spec = manifest.spec if manifest else read_architecture(tensors, str(path))
    conform(tensors, spec, str(path))
    checked = [f"{len(tensors)} tensors make a {spec.name}"]
    if manifest and manifest.weights_sha256:
        return [*checked, "checksums of weights and manifest"]
    return [*checked, "no checksums in it"]


def _onnx(path: Path) -> list[str]:
    import onnx

    from resnet_infer.backends.onnx_ends import GraphEnds
    from resnet_infer.backends.onnx_file import check_checksum, check_precision, load_graph, stored_manifest
    from resnet_infer.backends.onnx_layers import file_precision, read_layers

    proto = load_graph(path)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise GateError(f"{path}: onnx.checker refuses the graph ({error})") from error
    layers = read_layers(proto)
    manifest = stored_manifest(proto, str(path))
    if manifest is None:
        return ["a valid graph", f"{file_precision(layers)} by its {len(layers)} layers", "no manifest in it"]
    check_checksum(proto, manifest, str(path))
    check_precision(manifest, layers, str(path))
    output, _ = GraphEnds(proto, path).scores(manifest.output_name or None, manifest.spec.classes)
    if output.classes != manifest.spec.classes:
        raise GateError(
            f"{path}: the graph has {output.classes} classes, and its manifest says {manifest.spec.classes}"
        )
    checksums = "checksums of graph and manifest" if manifest.weights_sha256 else "no checksums in it"
    return ["a valid graph", f"{manifest.precision} proven by {len(layers)} layers", checksums]


def _engine(path: Path) -> list[str]:
    from resnet_infer.backends.engine_file import read_engine
    from resnet_infer.backends.onnx_file import check_precision

    record, _ = read_engine(path)
    manifest = record.manifest
    check_precision(manifest, record.layers, str(path))
    return ["sha256 of the plan", f"{manifest.precision} proven by {len(record.layers)} layers as TensorRT parsed them"]


def _predictions(path: Path) -> list[str]:
    from resnet_infer.predictions.files import open_predictions

    identity, records = open_predictions(path)
    count = sum(1 for _ in records)
    return [f"{count} records of {identity.images} images, each with its checksum and without contradiction"]


def _benchmark(path: Path) -> list[str]:
    from resnet_infer.bench.rows import load_run

    return [f"{len(load_run(path).rows)} rows can be read; there is no checksum in a benchmark"]


def _run(folder: Path) -> list[str]:
    from resnet_infer.model.checkpoints import read_file
    from resnet_infer.model.digest import tensors_sha256
    from resnet_infer.train.log import read_metrics
    from resnet_infer.train.state import BEST, LAST, load_state

    state = load_state(folder)
    checked = [f"checksum of the state at iteration {state.iteration}"]
    for name in (LAST, BEST):
        if (folder / name).exists():
            checked += [f"{name}: {line}" for line in _weights(folder / name)]
    if (folder / LAST).exists():
        last, _, _ = read_file(folder / LAST)
        if tensors_sha256(last) != tensors_sha256(state.weights):
            raise GateError(
                f"{folder / LAST}: is not of the state's iteration {state.iteration}; --resume writes it anew"
            )
    return [*checked, f"{len(read_metrics(folder))} lines of metrics"]
