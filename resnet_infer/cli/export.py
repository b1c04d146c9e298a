"""`resnet-infer export`: a checkpoint to a file that other runtimes load."""

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli import options
from resnet_infer.errors import UsageError


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Checkpoint key or file; `resnet-infer models` lists keys.")
    ],
    to: Annotated[str, typer.Option("--to", help="onnx.", metavar="FORMAT")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default MODEL.onnx here.", metavar="PATH")
    ] = None,
    head: Annotated[str, typer.Option(help="pooled for crops; dense for multiscale.", metavar="NAME")] = "pooled",
    precision: Annotated[
        str, typer.Option(help="fp32 or fp16, of weights, activations and input.", metavar="TYPE")
    ] = "fp32",
    images: Annotated[
        str | None, typer.Option(help="Compare with PyTorch on these images instead of random ones.", metavar="DATA")
    ] = None,
    arch: options.Arch = None,
    mean: options.Mean = None,
    std: options.Std = None,
    labels: options.LabelFile = None,
    verbose: options.Verbose = False,
) -> None:
    """Export a checkpoint, compare the file with PyTorch, and keep it only if they agree (exit code 3 if not)."""
    if to != "onnx":
        raise UsageError(f"--to '{to}' is not one of: onnx")
    from resnet_infer.data.sources import open_source
    from resnet_infer.export.to_onnx import export_onnx
    from resnet_infer.model.checkpoints import is_checkpoint_file, load_checkpoint
    from resnet_infer.model.resnet import INPUT_OFFSET
    from resnet_infer.report.console import working

    checkpoint = load_checkpoint(model, options.overrides(arch, mean, std, labels))
    if INPUT_OFFSET in checkpoint.state_dict:
        raise UsageError(
            f"{model}: was trained with a per-pixel mean, which no export carries; train with --mean channel"
        )
    stem = Path(model).stem if is_checkpoint_file(model) else model
    suffix = "".join(f".{part}" for part, usual in ((head, "pooled"), (precision, "fp32")) if part != usual)
    path = output or Path(f"{stem}{suffix}.onnx")
    source = open_source(images) if images else None
    with working(f"exporting {model}"):
        manifest = export_onnx(checkpoint, path, head=head, precision=precision, images=source)  # type: ignore[arg-type]  # export_onnx checks it
    parity = manifest.parity
    print(f"{path}: {manifest.spec.name}, {head} head, {precision}, {path.stat().st_size / 2**20:.1f} MiB")
    print(
        f"checked against PyTorch: largest difference {parity['relative_diff']:.1e} of the largest logit "
        f"(tolerance {parity['tolerance']:.0e})"
    )
