"""A checkpoint to one ONNX file that says what it is and has been compared with PyTorch before anyone sees it.

Opset 18, input `input` (batch, 3, height, width), all three dynamic; output `logits`, (batch, classes) for the pooled
head and a map (batch, classes, h, w) for the dense one. The input is normalised RGB: the manifest in
`metadata_props` says with which mean and std. Exporter: torch.onnx (dynamo), which folds batch norm into convolutions.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import onnx
import torch

from resnet_infer import __version__
from resnet_infer import manifest as manifests
from resnet_infer.data.sources import Source
from resnet_infer.errors import GateError, UsageError
from resnet_infer.export.parity import compare
from resnet_infer.manifest import Manifest
from resnet_infer.model.checkpoints import Checkpoint, replacing
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import build
from resnet_infer.specs import Head

OPSET = 18
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
TOOLS = ("torch", "onnx", "onnxscript")


def export_onnx(
    checkpoint: Checkpoint,
    path: Path,
    *,
    head: Head = "pooled",
    precision: str = "fp32",
    images: Source | None = None,
) -> Manifest:
    """Write `path` and return the manifest inside it, with the outcome of the comparison.

    fp16 stores half-precision weights and takes and gives half-precision tensors. The comparison runs PyTorch in fp32
    against ONNX Runtime, both on the CPU, at several shapes and batch sizes, on `images` or on random ones.

    Raises UsageError for an unknown head or precision, GateError if the file is no valid ONNX model or its scores
    depart from PyTorch's: then nothing is written, and a file that was at `path` before is still there.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)} for ONNX")
    if head not in ("pooled", "dense"):
        raise UsageError(f"head '{head}' is not one of pooled, dense")
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path}: the output's name must end in .onnx")
    manifest = replace(
        checkpoint.manifest,
        source=checkpoint.manifest.source or checkpoint.name,
        head=head,
        precision=precision,
        versions={"resnet-infer": __version__} | {tool: metadata.version(tool) for tool in TOOLS},
    )
    proto = _graph(checkpoint, head, precision)
    with replacing(path) as partial:
        _write(proto, manifest, partial)
        try:
            onnx.checker.check_model(str(partial), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise GateError(f"{path}: not written: onnx.checker refuses the graph ({error})") from error
        parity = compare(checkpoint, partial, manifest, images)
        if not parity.passed:
            raise GateError(f"{path}: not written: {parity.describe()}")
        manifest = replace(manifest, parity=parity.to_dict())
        _write(proto, manifest, partial)
    return manifest


def _graph(checkpoint: Checkpoint, head: Head, precision: str) -> onnx.ModelProto:
    spec = checkpoint.manifest.spec
    net = with_head(build(spec, dict(checkpoint.state_dict)), head).to(PRECISIONS[precision]).eval()
    side = spec.native_size
    x_BCHW = torch.zeros(2, 3, side, side + 2, dtype=PRECISIONS[precision])  # no two equal: none is taken for constant
    with _silence():
        program = torch.onnx.export(
            net,
            (x_BCHW,),
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    _strip(proto)
    proto.graph.name = spec.name
    return proto


def _strip(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes: source paths and stack traces of this machine, which no runtime reads."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def _write(proto: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    onnx.helper.set_model_props(proto, {manifests.KEY: manifest.to_json()})
    onnx.save(proto, path)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress lines off stdout, which is for results."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
