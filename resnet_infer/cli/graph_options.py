"""Flags about the output of an ONNX graph from elsewhere."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import typer


@dataclass(frozen=True, kw_only=True)
class GraphOutput:
    """What the user says of a graph's scores."""

    PANEL: ClassVar = "Model"
    scores: Annotated[
        Literal["logits", "probabilities", "log-probabilities"] | None,
        typer.Option("--scores", help=".onnx from elsewhere: what it gives; default: by its last operator."),
    ] = None
    output_name: Annotated[
        str | None,
        typer.Option("--output-name", help=".onnx from elsewhere: its output with the scores.", metavar="NAME"),
    ] = None
