"""What a user says of a model, over what its file says."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_infer.console import note
from resnet_infer.errors import UsageError
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest, Scores
from resnet_infer.spec.preprocessing import (
    ChannelOrder,
    ChannelValues,
    InputRange,
    Interpolation,
    Preprocessing,
    changed,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the user says of a model over what its file says; None leaves the file's word."""

    arch: str | None = None
    mean: ChannelValues | None = None
    std: ChannelValues | None = None
    interpolation: Interpolation | None = None
    channel_order: ChannelOrder | None = None
    input_range: InputRange | None = None
    labels: Labels | None = None
    head_from: Path | None = None
    """A file with the classifier, for weights without one."""
    scores: Scores | None = None
    """Of an ONNX graph: what its output's values are."""
    output_name: str | None = None
    """Of an ONNX graph: the output that has the scores."""
    verify: bool = True
    """Whether checksums in the file must be right."""

    @property
    def input(self) -> dict[str, Any]:
        """What was said of the input, by the names of Preprocessing's fields."""
        names = ("mean", "std", "interpolation", "channel_order", "input_range")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def native(self, spec: ModelSpec, where: str, **usual: Any) -> Preprocessing:
        """The network's usual test input with what was said over `usual`, mean and std in one; raises UsageError."""
        try:
            return native_preprocessing(spec, **usual | self.input)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error

    def check_no_weights(self, where: str) -> None:
        """Raise UsageError for another file's classifier, as `where` has one of its own."""
        if self.head_from:
            raise UsageError(f"{where}: has its own classifier; --head-from is for weights files without; leave it out")

    def check_no_graph(self, where: str) -> None:
        """Raise UsageError for what is said of an ONNX graph's output, as `where` is something else."""
        if self.scores or self.output_name:
            raise UsageError(f"{where}: --scores and --output-name are for .onnx files from elsewhere; leave them out")

    def applied_to(self, manifest: Manifest, where: str) -> Manifest:
        """The manifest with these values; raises UsageError if they do not fit it, or are no preprocessing."""
        classes = manifest.spec.classes
        if self.labels and len(self.labels.names) != classes:
            raise UsageError(f"--labels has {len(self.labels.names)} names, but {where} has {classes} classes")
        inside = [n for n in self.input if n != "interpolation" and not (manifest.adopted and n == "channel_order")]
        if manifest.input.startswith("uint8") and inside:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in inside)
            raise UsageError(f"{where}: normalises inside its graph, which {flags} cannot change; export it again")
        try:
            preprocessing = changed(manifest.preprocessing, self.input, manifest.spec.channels)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        if preprocessing.channels == 4:
            note(f"{where} takes alpha as well: images are laid over white as ever, and alpha is opaque everywhere")
        return replace(manifest, preprocessing=preprocessing, labels=self.labels or manifest.labels)


def native_preprocessing(spec: ModelSpec, mean: ChannelValues, std: ChannelValues, **said: Any) -> Preprocessing:
    """The usual test input of an architecture: 224 of 256 pixels on ImageNet, the whole 32x32 image on CIFAR.

    `said` are more fields of Preprocessing.
    """
    side = spec.native_size
    return Preprocessing(mean=mean, std=std, resize=side if spec.small else 256, crop=side, **said)
