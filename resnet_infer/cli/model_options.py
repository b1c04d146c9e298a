"""Flags that say what a model is and how it runs."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from resnet_infer.cli.graph_options import GraphOutput
from resnet_infer.cli.options import DeviceName
from resnet_infer.errors import UsageError
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import ChannelOrder, ChannelValues, InputRange, Interpolation, channel_values

if TYPE_CHECKING:
    from resnet_infer.backends.described import Asked
    from resnet_infer.backends.load import Model
    from resnet_infer.model.checkpoints import Overrides

MODEL_HELP = "Checkpoint key or file; what differs from the flags may follow, as 'FILE?arch=resnet18&precision=bf16'."


@dataclass(frozen=True, kw_only=True)
class Input(GraphOutput):
    """What the user says of a model's input and classes."""

    PANEL: ClassVar = "Model"
    mean: Annotated[
        str | None,
        typer.Option(
            help="Input mean in 0..1, as 0.485,0.456,0.406, in the order of the network's channels.", metavar="R,G,B"
        ),
    ] = None
    std: Annotated[
        str | None, typer.Option(help="Input standard deviation in 0..1, as 0.229,0.224,0.225.", metavar="R,G,B")
    ] = None
    interpolation: Annotated[
        Interpolation | None, typer.Option("--interpolation", help="How images are resized, antialiased.")
    ] = None
    channel_order: Annotated[
        ChannelOrder | None, typer.Option("--channel-order", help="Of the network's input; mean and std are in it.")
    ] = None
    input_range: Annotated[
        InputRange | None,
        typer.Option("--input-range", help="Of pixels before the mean is subtracted; mean and std are of it."),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="Class names: lines in order, id<TAB>name, JSON, or a config.json.",
            metavar="FILE",
        ),
    ] = None
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Use the model though checksums in its file are wrong.")
    ] = False

    def given(self) -> dict[str, str]:
        """The flags that were given, by name, as they were written."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: "true" if value is True else str(value) for name, value in given.items() if value}

    def overrides(self) -> "Overrides":
        """What goes over the model's file; raises UsageError."""
        from resnet_infer.model.checkpoints import Overrides
        from resnet_infer.spec.label_files import labels_from_file

        return Overrides(
            arch=getattr(self, "arch", None),
            mean=_values("--mean", self.mean),
            std=_values("--std", self.std),
            interpolation=self.interpolation,
            channel_order=self.channel_order,
            input_range=self.input_range,
            labels=labels_from_file(self.labels) if self.labels else None,
            head_from=getattr(self, "head_from", None),
            scores=self.scores,
            output_name=self.output_name,
            verify=not self.no_verify,
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Input):
    """And of its architecture."""

    arch: Annotated[
        str | None,
        typer.Option(
            help="Architecture, if the file does not determine it: resnet50-v1, resnet18-cifar,pool=max, stride=first.",
            metavar="NAME",
        ),
    ] = None
    head_from: Annotated[
        Path | None, typer.Option("--head-from", help="File with the classifier, for weights without.", metavar="FILE")
    ] = None

    def asked(self, model: str) -> "Asked":
        """The model with what stands behind its name over these flags, for commands that run nothing."""
        from resnet_infer.backends.described import Asked, described

        asked = described(Asked(model=model, overrides=self.overrides()))
        if asked.settings:
            raise UsageError(f"{model}: {', '.join(asked.settings)} is for commands that run a model")
        return asked


@dataclass(frozen=True, kw_only=True)
class RunModel(Checkpoint):
    """A model and the way to run it: the flags of predict, eval and compare."""

    device: DeviceName = "auto"
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
        from resnet_infer.backends.described import Asked, described
        from resnet_infer.backends.load import as_asked, open_asked

        options = RunOptions(
            provider=self.provider,
            prefer_nhwc=self.prefer_nhwc,
            cuda_graph=self.cuda_graph,
            compile=self.compile,
            autocast=self.autocast,
        )
        asked = described(
            Asked(
                model=model,
                backend=self.backend,
                precision=self.precision,
                overrides=self.overrides(),
                options=options,
            )
        )
        where = device or self.device
        if asked.backend != "auto":
            return open_asked(asked, where)
        if asked.options != RunOptions():
            raise UsageError(
                "--backend auto chooses how to run; leave out --compile, --autocast, --provider and the like"
            )
        from resnet_infer.bench.fastest import open_fastest

        opened = open_fastest(
            asked.model, dense=dense, device=where, precision=asked.precision, overrides=asked.overrides
        )
        return as_asked(opened, asked)


def _values(flag: str, text: str | None) -> ChannelValues | None:
    if text is None:
        return None
    try:
        return channel_values(text)
    except UsageError as error:
        raise UsageError(f"{flag} {error}") from error
