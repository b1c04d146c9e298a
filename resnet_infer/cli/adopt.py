"""`resnet-infer adopt`: the manifest of another tool's ONNX file, written into a copy."""

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli import options
from resnet_infer.cli.groups import with_flags
from resnet_infer.cli.model_options import Checkpoint
from resnet_infer.console import say


@with_flags
def adopt(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="An ONNX file of another tool.")],
    said: Checkpoint,
    output: Annotated[Path, typer.Option("--output", "-o", help="The copy to write.", metavar="OUT.onnx")],
    like: Annotated[
        str | None,
        typer.Option(help="Checkpoint that it was made from: says all flags, and must score alike.", metavar="MODEL"),
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Shorter side in pixels of the single crop's image.", min=1, metavar="N")
    ] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the single crop in pixels.", min=1, metavar="N")] = None,
    verbose: options.Verbose = False,
) -> None:
    """Write what a file is and takes into a copy, which then needs no flags: in eval, compare, benchmark and export.

    Layout, element type, architecture, classes and a softmax are read off the graph. The file itself is left as it is.
    With --like the copy is only written if its scores are the checkpoint's (exit code 3 if not).
    """
    from resnet_infer.console import working
    from resnet_infer.exporters.adopt import adopt as run
    from resnet_infer.model.checkpoints import load_checkpoint
    from resnet_infer.report.export_text import describe

    checkpoint = load_checkpoint(like) if like else None
    with working(f"adopting {file}"):
        made = run(file, output, said.overrides(), like=checkpoint, resize=resize, crop=crop)
    for line in describe(made, output):
        say(line)
