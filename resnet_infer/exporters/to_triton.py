"""An ONNX file or an engine to a folder of a Triton model repository.

    REPOSITORY/NAME/config.pbtxt  labels.txt  1/model.onnx | 1/model.plan and model.plan.json

Sources: Triton's model_repository.md, model_configuration.md and the TensorRT backend's notes on optimisation profiles.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from resnet_infer.backends.engine_file import read_engine
from resnet_infer.backends.onnx_ends import GraphEnds, image_input
from resnet_infer.backends.onnx_file import files_beside, load_graph, manifest_of
from resnet_infer.errors import ArtifactError, UsageError, remedy
from resnet_infer.files import new_folder
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec.engine_manifest import record_path
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.shapes import BatchRange, ShapeRange

TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.UINT8: "TYPE_UINT8",
}
QUEUE_DELAY_US = 100
"""How long a request may wait for others to share its batch: less than a batch takes."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What Triton is to know of a model's input and output; sizes of -1 are free."""

    input: str = "input"
    output: str = "logits"
    input_type: str = "TYPE_FP32"
    output_type: str = "TYPE_FP32"
    batch: int = 0
    """The only batch that it takes; 0 if it takes others."""
    sides: tuple[int, int] = (-1, -1)


def export_triton(
    artifact: Path,
    repository: Path,
    name: str | None = None,
    batch: BatchRange | None = None,
    overrides: Overrides | None = None,
) -> Path:
    """Put an exported file, or an ONNX file of another tool, into a model repository and return the model's folder.

    Batch sizes are an engine's own; for an ONNX file, which takes any, those of `batch`. The folder appears whole or
    not at all. Raises UsageError if the name is no folder name, is taken, or the batch sizes cannot be served;
    ArtifactError for a file of which not enough is known.
    """
    batch = batch or BatchRange()
    name = name or re.sub(r"[^A-Za-z0-9_.-]", "_", artifact.stem)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name):
        raise UsageError(f"--name '{name}' is not a valid model name; use letters, digits, dot, dash and underscore")
    target = repository / name
    if target.exists():
        raise UsageError(f"{target}: already exists; choose another --name, or remove it first")
    engine = artifact.suffix.lower() in (".engine", ".plan")
    if engine:
        record, _ = read_engine(artifact)
        manifest, profiles, stored = record.manifest, record.profiles, "model.plan"
        ends = _engine_ends(manifest, profiles)
    else:
        manifest, ends = _onnx_ends(artifact, overrides or Overrides())
        profiles, stored = (), "model.onnx"
    config = config_pbtxt(name, manifest, ends, profiles, batch, engine=engine)
    try:
        with new_folder(target) as made:
            (made / "1").mkdir(parents=True)
            if engine or not files_beside(load_graph(artifact), artifact):
                shutil.copyfile(artifact, made / "1" / stored)
            else:
                onnx.save(onnx.load(artifact), made / "1" / stored)  # with the weights that lay beside it
            if stored == "model.plan":
                shutil.copyfile(record_path(artifact), record_path(made / "1" / stored))
            (made / "config.pbtxt").write_text(config, "utf-8")
            (made / "labels.txt").write_text(_labels(manifest), "utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror or error}){remedy(error)}") from error
    return target


def config_pbtxt(
    name: str, manifest: Manifest, ends: Ends, profiles: Sequence[ShapeRange], batch: BatchRange, *, engine: bool
) -> str:
    """Triton's model configuration in text form; raises UsageError if no batch of one can be run."""
    most, preferred = (0, []) if ends.batch else _batches(profiles, batch)
    pooled = manifest.head != "dense"
    channels_last, channels = manifest.input.endswith("-nhwc"), manifest.input_channels
    fixed = [ends.batch] if ends.batch else []  # which Triton then does not put before these
    dims = [*fixed, *([*ends.sides, channels] if channels_last else [channels, *ends.sides])]
    classes = manifest.spec.classes
    form = [] if fixed else [f"    format: {'FORMAT_NHWC' if channels_last else 'FORMAT_NCHW'}"]
    lines = [
        f"name: {_quoted(name)}",
        f"platform: {_quoted('tensorrt_plan' if engine else 'onnxruntime_onnx')}",
        f"max_batch_size: {most}",
        "input [",
        "  {",
        f"    name: {_quoted(ends.input)}",
        f"    data_type: {ends.input_type}",
        *form,
        f"    dims: {dims}",
        "  }",
        "]",
        "output [",
        "  {",
        f"    name: {_quoted(ends.output)}",
        f"    data_type: {ends.output_type}",
        f"    dims: {[*fixed, classes] if pooled else [*fixed, classes, -1, -1]}",
        *(['    label_filename: "labels.txt"'] if pooled else []),
        "  }",
        "]",
    ]
    if not fixed:
        lines += [
            "dynamic_batching {",
            f"  preferred_batch_size: {preferred}",
            f"  max_queue_delay_microseconds: {QUEUE_DELAY_US}",
            "}",
        ]
    if engine:  # without the list an instance uses the first profile alone
        numbers = ", ".join(_quoted(str(index)) for index in range(len(profiles)))
        lines += ["instance_group [", "  {", "    kind: KIND_GPU", f"    profile: [{numbers}]", "  }", "]"]
    said = (("architecture", manifest.spec.name), ("input", _input_words(manifest)), ("output", manifest.output))
    for key, value in said:
        lines += ["parameters {", f"  key: {_quoted(key)}", f"  value {{ string_value: {_quoted(value)} }}", "}"]
    return "\n".join(lines) + "\n"


def _onnx_ends(path: Path, overrides: Overrides) -> tuple[Manifest, Ends]:
    proto = load_graph(path)
    manifest = manifest_of(proto, path, overrides)
    if manifest.head is None:
        raise ArtifactError(f"{path}: its manifest does not say which head it has; export it again")
    if manifest.precision == "fp8":
        raise UsageError(f"{path}: Triton's onnxruntime does not run fp8; build an engine from it first")
    ends, image = GraphEnds(proto, path), image_input(proto)
    output, _ = ends.scores(manifest.output_name or None, manifest.spec.classes)
    return manifest, Ends(
        input=image.name,
        output=output.name,
        input_type=TYPES[image.type.tensor_type.elem_type],
        output_type=TYPES[ends.types[output.name].tensor_type.elem_type],
        batch=int(image.type.tensor_type.shape.dim[0].dim_value),
        sides=ends.sides or (-1, -1),
    )


def _engine_ends(manifest: Manifest, profiles: Sequence[ShapeRange]) -> Ends:
    """By the names and types of the graphs that engines are built from."""
    of_bytes, kind = manifest.input.startswith("uint8"), _float(manifest)
    return Ends(
        input_type="TYPE_UINT8" if of_bytes else kind,
        output=manifest.output_name or "logits",
        output_type=kind,
        sides=_sides(profiles),
    )


def _batches(profiles: Sequence[ShapeRange], batch: BatchRange) -> tuple[int, list[int]]:
    """max_batch_size and preferred_batch_size: what every profile can take, and what the profiles are tuned for."""
    if not profiles:
        return batch.max, sorted({batch.opt, batch.max})
    lowest = max(profile.min[0] for profile in profiles)
    if lowest > 1:
        raise UsageError(
            f"the engine takes batches of {lowest} and more, and Triton may send one image; "
            "build it with a --batch-range that starts at 1"
        )
    most = min(profile.max[0] for profile in profiles)
    return most, sorted({min(profile.opt[0], most) for profile in profiles} | {most})


def _sides(profiles: Sequence[ShapeRange]) -> tuple[int, int]:
    """Height and width if they are one number, else -1, Triton's any."""
    sides = {(end[1], end[2]) for profile in profiles for end in (profile.min, profile.max)}
    return sides.pop() if len(sides) == 1 else (-1, -1)


def _float(manifest: Manifest) -> str:
    return "TYPE_FP16" if manifest.precision == "fp16" else "TYPE_FP32"


def _input_words(manifest: Manifest) -> str:
    if manifest.input.startswith("uint8"):
        return f"RGB bytes, {manifest.input}; in the graph: {manifest.preprocessing.describe_values()}"
    return manifest.preprocessing.describe()


def _labels(manifest: Manifest) -> str:
    names = manifest.labels.names if manifest.labels else tuple(map(str, range(manifest.spec.classes)))
    return "".join(f"{' '.join(name.split())}\n" for name in names)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
