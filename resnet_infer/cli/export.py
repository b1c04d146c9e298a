"""`resnet-infer export`: a checkpoint to a file that other runtimes load, checked before it is kept."""

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli import options
from resnet_infer.cli.export_options import Flags
from resnet_infer.cli.groups import with_flags
from resnet_infer.cli.model_options import Checkpoint
from resnet_infer.console import say
from resnet_infer.errors import UsageError

FORMATS = {"onnx": ".onnx", "tensorrt": ".engine", "triton": ""}
ALIASES = {"engine": "tensorrt", "trt": "tensorrt"}


@with_flags
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Checkpoint key, file or hf-hub:OWNER/NAME; .onnx to tensorrt, triton and int8, .engine to triton.",
        ),
    ],
    given: Flags,
    said: Checkpoint,
    to: Annotated[str, typer.Option("--to", help="onnx, tensorrt or triton.", metavar="FORMAT")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write, or Triton's repository; by default MODEL.onnx here.", metavar="PATH"
        ),
    ] = None,
    verbose: options.Verbose = False,
) -> None:
    """Export a checkpoint, check the file, and keep it only if it holds what it claims (exit code 3 if not)."""
    to = ALIASES.get(to, to)
    if to not in FORMATS:
        raise UsageError(f"--to '{to}' is not one of {', '.join(FORMATS)}")
    asked = said.asked(model)
    model = asked.model
    own = Path(model).suffix.lower()
    given.check_concerned(to, own)
    if own == ".onnx" and to == "onnx" and given.precision != "int8":
        raise UsageError(
            f"{model}: is an ONNX file already, of which only --precision int8 makes another; for anything else give "
            "the checkpoint that it came from"
        )
    if own in (".engine", ".plan") and to != "triton":
        raise UsageError(f"{model}: is an engine already; only --to triton takes one")
    from resnet_infer.cli import export_run
    from resnet_infer.model.checkpoints import is_checkpoint_file
    from resnet_infer.model.hub import short_name

    request = export_run.ExportRequest(model=model, to=to, overrides=asked.overrides, given=given)
    suffixes = [
        part
        for part, usual in ((given.head or "pooled", "pooled"), (given.precision or "fp32", "fp32"))
        if part != usual
    ]
    stem = Path(model).stem if own in (".onnx", ".engine", ".plan") or is_checkpoint_file(model) else short_name(model)
    default = Path("model_repository") if to == "triton" else Path(".".join([stem, *suffixes]) + FORMATS[to])
    for line in export_run.run(request, output or default):
        say(line)
