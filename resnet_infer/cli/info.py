"""`resnet-infer info`: what an artifact is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_infer.cli import options
from resnet_infer.report import rows

if TYPE_CHECKING:
    from resnet_infer.manifest import Manifest


def info(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A checkpoint's key or file, or an .onnx file.")],
    format_name: Annotated[str, typer.Option("--format", help="table or json.", metavar="F")] = "table",
    arch: options.Arch = None,
    mean: options.Mean = None,
    std: options.Std = None,
    labels: options.LabelFile = None,
    verbose: options.Verbose = False,
) -> None:
    """Show an artifact's architecture, preprocessing, classes, origin, shapes and the types of its layers."""
    form = rows.check_format(format_name)
    given = options.overrides(arch, mean, std, labels)
    layers: list[tuple[str, str, int, int]]
    if artifact.lower().endswith(".onnx"):
        from resnet_infer.backends.onnx_file import input_shape, layer_types, load_graph, manifest_of

        proto = load_graph(Path(artifact))
        manifest = manifest_of(proto, Path(artifact), given)
        layers, shape = layer_types(proto), input_shape(proto)
    else:
        from resnet_infer.model.checkpoints import load_checkpoint

        checkpoint = load_checkpoint(artifact, given)
        manifest = checkpoint.manifest
        tensors = checkpoint.state_dict.values()
        layers = [
            (kind, "float", len(sizes), sum(sizes))
            for kind, rank in (("Conv", 4), ("Linear", 2))
            if (sizes := [tensor.numel() for tensor in tensors if tensor.ndim == rank])
        ]
        shape = "batch x 3 x height x width"
    if form == "json":
        names = ("operator", "weights", "layers", "parameters")
        described = manifest.to_dict() | {
            "input": shape,
            "layers": [dict(zip(names, row, strict=True)) for row in layers],
        }
        print(rows.as_json(described))
    else:
        print(_table(artifact, manifest, layers, shape))


def _table(artifact: str, manifest: "Manifest", layers: list[tuple[str, str, int, int]], shape: str) -> str:
    spec, labels = manifest.spec, manifest.labels
    some = ", ".join(labels.names[:3]) + ", ..." if labels else "not known"
    lines: list[tuple[str, Any]] = [
        ("artifact", artifact),
        (
            "architecture",
            f"{spec.name}: {spec.params:,} parameters, {spec.macs() / 1e9:.3f} GMACs at {spec.native_size}",
        ),
        ("classes", f"{spec.classes} ({some})"),
        ("head", manifest.head or "pooled and dense"),
        ("precision", manifest.precision),
        ("input", shape),
        ("preprocessing", "\n".join(manifest.preprocessing.describe().split("; "))),
        ("source", f"{manifest.source} (sha256 {manifest.source_sha256[:16] or 'not known'})"),
    ]
    if manifest.versions:
        lines.append(("made with", "\n".join(f"{name} {version}" for name, version in manifest.versions.items())))
    if manifest.parity:
        difference = manifest.parity.get("relative_diff", float("nan"))
        lines.append(("parity", f"largest difference {difference:.1e} of the largest logit from PyTorch"))
    width = max(len(name) for name, _ in lines)
    types = [[operator, kind, str(count), f"{parameters:,}"] for operator, kind, count, parameters in layers]
    return "\n".join(
        [
            *(f"{name.ljust(width)}  {value}".replace("\n", "\n" + " " * (width + 2)) for name, value in lines),
            "",
            rows.as_table(["layer", "weights", "layers", "parameters"], types, right=(2, 3)),
        ]
    )
