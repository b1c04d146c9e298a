"""An ONNX file or an engine to a folder of a Triton model repository.

    REPOSITORY/NAME/config.pbtxt  labels.txt  1/model.onnx | 1/model.plan and model.plan.json

Sources: Triton's model_repository.md, model_configuration.md and the TensorRT backend's notes on optimisation profiles.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from resnet_infer.backends.engine_file import read_engine
from resnet_infer.backends.onnx_file import load_graph, stored_manifest
from resnet_infer.errors import ArtifactError, UsageError, remedy
from resnet_infer.files import new_folder
from resnet_infer.spec.engine_manifest import record_path
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.shapes import BatchRange, ShapeRange

QUEUE_DELAY_US = 100
"""How long a request may wait for others to share its batch: less than a batch takes."""


def export_triton(artifact: Path, repository: Path, name: str | None = None, batch: BatchRange | None = None) -> Path:
    """Put an exported file into a model repository and return the model's folder.

    Batch sizes are an engine's own; for an ONNX file, which takes any, those of `batch`. The folder appears whole or
    not at all. Raises UsageError if the name is no folder name, is taken, or the batch sizes cannot be served;
    ArtifactError for a file that is not one of ours.
    """
    batch = batch or BatchRange()
    name = name or re.sub(r"[^A-Za-z0-9_.-]", "_", artifact.stem)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name):
        raise UsageError(f"--name '{name}' is not a valid model name; use letters, digits, dot, dash and underscore")
    target = repository / name
    if target.exists():
        raise UsageError(f"{target}: already exists; choose another --name, or remove it first")
    if artifact.suffix.lower() in (".engine", ".plan"):
        record, _ = read_engine(artifact)
        manifest, profiles, stored = record.manifest, record.profiles, "model.plan"
    else:
        manifest, stored = _onnx_manifest(artifact), "model.onnx"
        profiles = ()
    config = config_pbtxt(name, manifest, profiles, batch, engine=stored == "model.plan")
    try:
        with new_folder(target) as made:
            (made / "1").mkdir(parents=True)
            shutil.copyfile(artifact, made / "1" / stored)
            if stored == "model.plan":
                shutil.copyfile(record_path(artifact), record_path(made / "1" / stored))
            (made / "config.pbtxt").write_text(config, "utf-8")
            (made / "labels.txt").write_text(_labels(manifest), "utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror or error}){remedy(error)}") from error
    return target


def config_pbtxt(
    name: str, manifest: Manifest, profiles: Sequence[ShapeRange], batch: BatchRange, *, engine: bool
) -> str:
    """Triton's model configuration in text form; raises UsageError if no batch of one can be run."""
    most, preferred = _batches(profiles, batch)
    pooled = manifest.head != "dense"
    image = {"uint8-nchw": "TYPE_UINT8", "uint8-nhwc": "TYPE_UINT8"}.get(manifest.input, _float(manifest))
    height, width = _sides(profiles)
    channels_last = manifest.input == "uint8-nhwc"
    channels = manifest.input_channels
    dims = [height, width, channels] if channels_last else [channels, height, width]
    classes = manifest.spec.classes
    lines = [
        f"name: {_quoted(name)}",
        f"platform: {_quoted('tensorrt_plan' if engine else 'onnxruntime_onnx')}",
        f"max_batch_size: {most}",
        "input [",
        "  {",
        '    name: "input"',
        f"    data_type: {image}",
        f"    format: {'FORMAT_NHWC' if channels_last else 'FORMAT_NCHW'}",
        f"    dims: {dims}",
        "  }",
        "]",
        "output [",
        "  {",
        '    name: "logits"',
        f"    data_type: {_float(manifest)}",
        f"    dims: {[classes] if pooled else [classes, -1, -1]}",
        *(['    label_filename: "labels.txt"'] if pooled else []),
        "  }",
        "]",
        "dynamic_batching {",
        f"  preferred_batch_size: {preferred}",
        f"  max_queue_delay_microseconds: {QUEUE_DELAY_US}",
        "}",
    ]
    if engine:  # without the list an instance uses the first profile alone
        numbers = ", ".join(_quoted(str(index)) for index in range(len(profiles)))
        lines += ["instance_group [", "  {", "    kind: KIND_GPU", f"    profile: [{numbers}]", "  }", "]"]
    for key, value in (("architecture", manifest.spec.name), ("input", _input_words(manifest))):
        lines += ["parameters {", f"  key: {_quoted(key)}", f"  value {{ string_value: {_quoted(value)} }}", "}"]
    return "\n".join(lines) + "\n"


def _onnx_manifest(path: Path) -> Manifest:
    manifest = stored_manifest(load_graph(path), str(path))
    if manifest is None or manifest.head is None:
        raise ArtifactError(
            f"{path}: has no resnet-infer manifest, so its classes and input are not known; "
            "give a file that `resnet-infer export --to onnx` wrote"
        )
    if manifest.precision == "fp8":
        raise UsageError(f"{path}: Triton's onnxruntime does not run fp8; build an engine from it first")
    return manifest


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
    if manifest.input != "normalized":
        return f"RGB bytes, {manifest.input}; in the graph: {manifest.preprocessing.describe_values()}"
    return manifest.preprocessing.describe()


def _labels(manifest: Manifest) -> str:
    names = manifest.labels.names if manifest.labels else tuple(map(str, range(manifest.spec.classes)))
    return "".join(f"{' '.join(name.split())}\n" for name in names)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
