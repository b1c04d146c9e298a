"""`resnet-infer info`: what an artifact is."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from resnet_infer.cli import options
from resnet_infer.cli.groups import with_flags
from resnet_infer.cli.model_options import Checkpoint
from resnet_infer.console import emit, say, visible
from resnet_infer.report import text
from resnet_infer.spec.precisions import Layer, summary

if TYPE_CHECKING:
    from resnet_infer.model.checkpoints import Overrides
    from resnet_infer.spec.manifest import Manifest


@with_flags
def info(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="A checkpoint's key or file, an .onnx or an .engine.")
    ],
    said: Checkpoint,
    format_name: Annotated[Literal["table", "json"], typer.Option("--format", help="Form of the output.")] = "table",
    verbose: options.Verbose = False,
) -> None:
    """Show an artifact's architecture, preprocessing, classes, origin, shapes and the types of its layers."""
    asked = said.asked(artifact)
    artifact = asked.model
    manifest, layers, extra = _read(artifact, asked.overrides)
    counted = summary(layers)
    if format_name == "json":
        emit(text.as_json(manifest.to_dict() | extra | {"layers": counted}))
    else:
        say(_table(artifact, visible(manifest), counted, visible(extra)))
    if manifest.head:  # an exported file claims a precision; everyone should see it proven, or refuted
        from resnet_infer.backends.onnx_file import check_precision

        check_precision(manifest, layers, artifact)


def _read(artifact: str, given: "Overrides") -> tuple["Manifest", Sequence[Layer], dict[str, Any]]:
    """The manifest, the layers, and what is to be said besides: the input, and of an engine what it needs."""
    path = Path(artifact)
    if path.suffix.lower() == ".onnx":
        from resnet_infer.backends.onnx_file import input_shape, load_graph, manifest_of
        from resnet_infer.backends.onnx_layers import read_layers

        proto = load_graph(path)
        return manifest_of(proto, path, given), read_layers(proto), {"shape": input_shape(proto)}
    if path.suffix.lower() in (".engine", ".plan"):
        from resnet_infer.backends.engine_file import read_engine
        from resnet_infer.backends.tensorrt_api import this_host
        from resnet_infer.spec.engine_manifest import misfits

        record, _ = read_engine(path)
        needs = {
            "shape": "; ".join(profile.describe(record.manifest.input_channels) for profile in record.profiles),
            "engine": f"{record.flavour.replace('_', '-')} {record.version}, "
            f"compute capability {', '.join(f'{major}.{minor}' for major, minor in record.capabilities)}",
            "runs here": "; ".join(misfits(record, this_host(record.flavour))) or "yes",
        }
        return given.applied_to(record.manifest, artifact), record.layers, needs
    from resnet_infer.model.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(artifact, given)
    layers = [
        Layer(name=name, operator="Conv" if tensor.ndim == 4 else "Linear", type="fp32", parameters=tensor.numel())
        for name, tensor in checkpoint.state_dict.items()
        if tensor.ndim in (2, 4)
    ]
    channels = checkpoint.manifest.preprocessing.channels
    return checkpoint.manifest, layers, {"shape": f"batch x {channels} x height x width"}


def _table(artifact: str, manifest: "Manifest", layers: list[dict[str, Any]], extra: dict[str, Any]) -> str:
    spec, labels = manifest.spec, manifest.labels
    some = ", ".join(labels.names[:3]) + ", ..." if labels else "not known"
    lines: list[tuple[str, Any]] = [
        ("artifact", visible(artifact)),
        (
            "architecture",
            f"{spec.name}: {spec.params:,} parameters, {spec.macs() / 1e9:.3f} GMACs at {spec.native_size}",
        ),
        ("classes", f"{spec.classes} ({some})"),
        ("head", manifest.head or "pooled and dense"),
        ("precision", manifest.precision),
        ("input", f"{'bytes, ' if manifest.input.startswith('uint8') else ''}{extra['shape']}".replace("; ", "\n")),
        ("output", _output(manifest)),
        ("preprocessing", "\n".join(manifest.preprocessing.describe().split("; "))),
        ("source", f"{manifest.source} (sha256 {manifest.source_sha256[:16] or 'not known'})"),
    ]
    lines += [(key, value.replace("; ", "\n")) for key, value in extra.items() if key != "shape"]
    if manifest.versions:
        lines.append(("made with", "\n".join(f"{name} {version}" for name, version in manifest.versions.items())))
    if manifest.parity:
        difference = _number(manifest.parity.get("relative_diff"))
        reference = manifest.parity.get("reference", "PyTorch")
        lines.append(("parity", f"largest difference {difference:.1e} of the largest logit from {reference}"))
    if found := manifest.quantization:
        lines.append(
            ("ranges", "{} of {} images, arranged for {}".format(*map(found.get, ("method", "images", "arrangement"))))
        )
    if gate := manifest.gate:
        agree = f"{100 * _number(gate.get('top1_agreement')):.2f} % of {gate.get('images')} images agree"
        lines.append(("gate", f"passed on {gate.get('data')}: {agree}"))
    width = max(len(name) for name, _ in lines)
    types = [[row["operator"], row["type"], str(row["layers"]), f"{row['parameters']:,}"] for row in layers]
    return "\n".join(
        [
            *(f"{name.ljust(width)}  {_wrapped(str(value), width + 2)}" for name, value in lines),
            "",
            text.as_table(["layer", "computes in", "layers", "parameters"], types, right=(2, 3)),
        ]
    )


def _output(manifest: "Manifest") -> str:
    """What the scores are, and the output that has them where there are several."""
    name = f" ({manifest.output_name})" if manifest.output_name else ""
    return f"{manifest.output}{name}{'' if manifest.output == 'logits' else '; ends in softmax: not applied again'}"


def _number(value: Any) -> float:
    """A number of a manifest's free part, where anything may stand."""
    return float(value) if isinstance(value, float) else math.nan


def _wrapped(value: str, indent: int) -> str:
    """Lines of a value that end before column 80, those after the first indented."""
    lines = [part for line in value.split("\n") for part in textwrap.wrap(line, 80 - indent) or [""]]
    return ("\n" + " " * indent).join(lines)
