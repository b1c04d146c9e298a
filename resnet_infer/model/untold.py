"""What tensors do not tell of an architecture: what is assumed, what a file's name says, and what the user does."""

import re
from dataclasses import replace
from pathlib import Path

from resnet_infer.errors import UsageError
from resnet_infer.model.adapters import expected_shapes
from resnet_infer.spec.architecture_record import NORM_GROUPS
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import spec_from_name, with_changes


def untold(spec: ModelSpec) -> str:
    """What the tensors of such a network do not tell, and `read_architecture` takes for what is usual."""
    said = []
    if spec.block == "bottleneck":
        said.append("stride in the 3x3" if spec.stride_in == "3x3" else "stride in the first 1x1")
    if spec.pooling != "conv":
        pools = {"max": "max pooling after the stem", "caffe": "Caffe's pooling after the stem"}
        said.append(pools.get(spec.pooling, "no pooling after the stem"))
    if spec.shortcut in ("A", "none"):
        said.append("shortcuts of option A" if spec.shortcut == "A" else "no shortcuts")
    if spec.preactivation == "none":
        blur = {"none": "no anti-aliasing", "blur": "blur pooling", "average": "average anti-aliasing"}
        said.append(blur[spec.antialias])
    else:
        said.append("projections of " + ("activated inputs" if spec.preactivation == "activated" else "raw inputs"))
    if spec.norm == "group":
        said.append(f"{NORM_GROUPS} groups of channels")
    if spec.hidden:
        said.append("ReLU between the classifier's layers")
    said.append({"relu": "ReLU", "silu": "SiLU", "gelu": "GELU", "leaky-relu": "leaky ReLU"}[spec.activation])
    return ", ".join(said)


def asked_for(arch: str, read: ModelSpec) -> ModelSpec:
    """The architecture called `arch`, or, for `field=value,...`, the one that was read with that changed.

    The classifier and the input's channels are the tensors'. Raises UsageError or UnknownNameError.
    """
    spec = with_changes(read, arch) if "=" in arch.partition(",")[0] else spec_from_name(arch)
    return replace(spec, classes=read.classes, hidden=read.hidden, bias=read.bias, channels=read.channels)


def named_by(file: str, read: ModelSpec) -> ModelSpec | None:
    """The architecture that a file's name begins with, as timm's and torchvision's do, if it has these very tensors."""
    parts = re.split(r"([-.])", Path(file).name)
    for end in range(len(parts), 0, -2):  # `resnet50-v1` before `resnet50`
        name = "".join(parts[:end])
        try:
            spec = asked_for(name, read)
        except UsageError:
            continue
        if expected_shapes(spec) == expected_shapes(read):
            return spec
    return None
