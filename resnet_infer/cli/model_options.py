"""Flags that say what a model is and how it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from resnet_infer.cli.graph_options import GraphOutput
from resnet_infer.cli.options import DeviceName
from resnet_infer.errors import UsageError
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import Triple

if TYPE_CHECKING:
    from resnet_infer.backends.load import Model
    from resnet_infer.model.checkpoints import Overrides


@dataclass(frozen=True, kw_only=True)
class Input(GraphOutput):
    """What the user says of a model's input and classes."""

    PANEL: ClassVar = "Model"
    mean: Annotated[str | None, typer.Option(help="Input mean in 0..1, as 0.485,0.456,0.406.", metavar="R,G,B")] = None
    std: Annotated[
        str | None, typer.Option(help="Input standard deviation in 0..1, as 0.229,0.224,0.225.", metavar="R,G,B")
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Class names in order, one a line, or id<TAB>name.", metavar="FILE"),
    ] = None
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Use the model though checksums in its file are wrong.")
    ] = False

    def overrides(self) -> "Overrides":
        """What goes over the model's file; raises UsageError."""
        from resnet_infer.model.checkpoints import Overrides
        from resnet_infer.spec.labels import labels_from_file

        return Overrides(
            arch=getattr(self, "arch", None),
            mean=_triple("--mean", self.mean),
            std=_triple("--std", self.std),
            labels=labels_from_file(self.labels) if self.labels else None,
            scores=self.scores,
            output_name=self.output_name,
            verify=not self.no_verify,
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Input):
    """And of its architecture."""

    arch: Annotated[
        str | None,
        typer.Option(help="Architecture, if the file does not determine it: resnet50-v1, plain20.", metavar="NAME"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ComparedModel(Input):
    """A model that runs as its file is made for."""

    device: DeviceName = "auto"

    def open(self, model: str, *, dense: bool, device: str | None = None) -> "Model":
        """The model; raises what opening does."""
        from resnet_infer.backends.load import open_model

        return open_model(model, device=device or self.device, overrides=self.overrides())


@dataclass(frozen=True, kw_only=True)
class RunModel(Checkpoint, ComparedModel):
    """A model and the way to run it."""

    backend: Annotated[
        Literal["torch", "onnxruntime", "tensorrt", "auto"] | None,
        typer.Option(help="Default: the one that the file is for; auto measures which is fastest."),
    ] = None
    precision: Annotated[
        Precision | None, typer.Option(help="On torch fp32, tf32, bf16 or fp16; an exported file has its own.")
    ] = None
    provider: Annotated[
        Literal["cpu", "cuda", "tensorrt"] | None,
        typer.Option("--provider", help="ONNX Runtime's execution provider; default: the device's."),
    ] = None
    prefer_nhwc: Annotated[
        bool, typer.Option("--prefer-nhwc", help="ONNX Runtime on CUDA: channels-last convolutions.")
    ] = False
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Exported files on a GPU: replay recorded launches; for small batches.")
    ] = False
    compile: Annotated[
        Literal["default", "max-autotune", "cuda-graphs"] | None,
        typer.Option(help="torch: the first two compile (a minute); cuda-graphs replays crops, for small batches."),
    ] = None
    autocast: Annotated[
        bool, typer.Option("--autocast", help="torch in bf16 or fp16: keep fp32 weights and autocast each operation.")
    ] = False

    def open(self, model: str, *, dense: bool, device: str | None = None) -> "Model":
        """The model on the backend asked for, `auto` among them; raises what opening does."""
        from resnet_infer.backends.base import RunOptions
        from resnet_infer.backends.load import open_model

        options = RunOptions(
            provider=self.provider,
            prefer_nhwc=self.prefer_nhwc,
            cuda_graph=self.cuda_graph,
            compile=self.compile,
            autocast=self.autocast,
        )
        where, overrides = device or self.device, self.overrides()
        if self.backend != "auto":
            return open_model(
                model,
                backend=self.backend,
                device=where,
                precision=self.precision,
                overrides=overrides,
                options=options,
            )
        if options != RunOptions():
            raise UsageError(
                "--backend auto chooses how to run; leave out --compile, --autocast, --provider and the like"
            )
        from resnet_infer.bench.fastest import open_fastest

        return open_fastest(model, dense=dense, device=where, precision=self.precision, overrides=overrides)


def _triple(flag: str, text: str | None) -> Triple | None:
    if text is None:
        return None
    try:
        r, g, b = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} needs three numbers with commas, as 0.485,0.456,0.406; got '{text}'") from error
    return r, g, b
