"""`resnet-infer demo`: the whole road on real images, offline, in about a minute."""

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli import options


def demo(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep the files there; by default a temporary folder.")
    ] = None,
    verbose: options.Verbose = False,
) -> None:
    """Fit a resnet20 on scikit-learn's digits, test it by every protocol, export it, compare the backends."""
    from resnet_infer.demo import run

    run(output)
