"""`resnet-infer verify`: whether files are still what was written."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from resnet_infer.cli import options
from resnet_infer.report import text


def verify(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Weights, .onnx, .engine, predictions, a benchmark's .json, or a run's folder."
        ),
    ],
    format_name: Annotated[Literal["table", "json"], typer.Option("--format", help="Form of the output.")] = "table",
    verbose: options.Verbose = False,
) -> None:
    """Check checksums, manifests against what the files hold, and proofs of precision. Nothing is run.

    Exit code 3 if a file is not what was written.
    """
    from resnet_infer.console import emit, say, visible
    from resnet_infer.errors import GateError
    from resnet_infer.verify import verify as run

    found = [run(path) for path in files]
    if format_name == "json":
        emit(
            text.as_json(
                [
                    {"path": str(one.path), "kind": one.kind, "checked": one.checked, "problem": one.problem}
                    for one in found
                ]
            )
        )
    else:
        for one in found:
            say(f"{'FAILED' if one.problem else 'ok':6}  {visible(str(one.path))} ({one.kind})")
            for line in [one.problem] if one.problem else one.checked:
                say(f"        {visible(line)}")
    failed = sum(bool(one.problem) for one in found)
    if failed:
        raise GateError(f"{failed} of {len(found)} are not what was written (listed above)")
