"""Hugging Face transformers' ResNet: its tensors under torchvision's names, and what its `config.json` says.

Its blocks are torchvision's, with two choices of its own: where a bottleneck strides, and whether the first stage does.
Inside a block its activation is always ReLU; `hidden_act` is that of the stem and of the blocks' outputs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resnet_infer.errors import UsageError
from resnet_infer.spec.architecture_record import BlockKind, Stride
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import canonical

MARK = "embedder.embedder.convolution.weight"
REDUCTION = 4
"""A bottleneck's output channels over its inner ones."""
MAX_STAGES = 8
_KEY = re.compile(
    r"(?:resnet\.)?(?:"
    r"(?P<stem>embedder\.embedder)"
    r"|encoder\.stages\.(?P<stage>[0-9]{1,3})\.layers\.(?P<block>[0-9]{1,4})"
    r"\.(?:layer\.(?P<conv>[0-9])|(?P<shortcut>shortcut|downsample))"
    r")\.(?P<part>convolution|normalization)\.(?P<leaf>[a-z_]{1,30})"
)
_CLASSIFIER = re.compile(r"classifier\.1\.(weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersFacts:
    """What `config.json` of a transformers ResNet says of its architecture."""

    block: BlockKind
    depths: tuple[int, ...]
    """Blocks per stage."""
    outputs: tuple[int, ...]
    """Output channels of every stage's blocks (`hidden_sizes`)."""
    widths: tuple[int, ...]
    """Channels of the 3x3 convolutions per stage: the outputs, or a quarter of them in bottlenecks."""
    stem_channels: int
    stride_in: Stride
    first_stage_strides: bool
    activation: str
    """Of the stem and of the blocks' outputs; inside a block it is always ReLU."""
    channels: int
    """Of the input image."""
    classes: int | None
    """None where the file does not say: transformers then builds two."""


def is_transformers(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are a transformers ResNet's tensors."""
    return MARK in tensors or f"resnet.{MARK}" in tensors


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under torchvision's names (`conv1 bn1 layerX.Y... fc`); other keys stay as they are."""
    return {_renamed(key): tensor for key, tensor in tensors.items()}


def _renamed(key: str) -> str:
    if match := _CLASSIFIER.fullmatch(key):
        return f"fc.{match[1]}"
    match = _KEY.fullmatch(key)
    if not match:
        return key
    convolution, leaf = match["part"] == "convolution", match["leaf"]
    if match["stem"]:
        return f"{'conv1' if convolution else 'bn1'}.{leaf}"
    block = f"layer{int(match['stage']) + 1}.{int(match['block'])}"
    if match["shortcut"]:
        return f"{block}.downsample.{0 if convolution else 1}.{leaf}"
    return f"{block}.{'conv' if convolution else 'bn'}{int(match['conv']) + 1}.{leaf}"


def facts_of_transformers(config: Mapping[str, Any]) -> TransformersFacts:
    """What a `config.json` of model_type "resnet" says; what it leaves out is transformers' default.

    Raises UsageError for values that no such network has.
    """
    layer = config.get("layer_type", "bottleneck")
    if layer not in ("basic", "bottleneck"):
        raise UsageError(f"layer_type is {layer!r}; transformers' ResNets have basic or bottleneck")
    depths = _whole(config, "depths", [3, 4, 6, 3])
    outputs = _whole(config, "hidden_sizes", [256, 512, 1024, 2048])
    if len(depths) != len(outputs) or not 1 <= len(depths) <= MAX_STAGES:
        raise UsageError(f"it has {len(depths)} depths and {len(outputs)} hidden_sizes; one of each per stage, 1 to 8")
    activation = config.get("hidden_act", "relu")
    if not isinstance(activation, str):
        raise UsageError("hidden_act is no text")
    return TransformersFacts(
        block=layer,
        depths=depths,
        outputs=outputs,
        widths=outputs if layer == "basic" else tuple(size // REDUCTION for size in outputs),
        stem_channels=_whole({"": [config.get("embedding_size", 64)]}, "", [])[0],
        stride_in="first" if layer == "bottleneck" and _flag(config, "downsample_in_bottleneck") else "3x3",
        first_stage_strides=_flag(config, "downsample_in_first_stage"),
        activation=activation,
        channels=_whole({"": [config.get("num_channels", 3)]}, "", [])[0],
        classes=_classes(config),
    )


def spec_of_transformers(facts: TransformersFacts, classes: int) -> ModelSpec:
    """The network of these facts; raises UsageError naming what this package's networks do not have."""
    if facts.activation != "relu":
        raise UsageError(f"hidden_act is {facts.activation[:30]!r}; networks here have relu")
    if facts.first_stage_strides:
        raise UsageError("downsample_in_first_stage is true; networks here do not stride in their first stage")
    if facts.block == "bottleneck" and any(size % REDUCTION for size in facts.outputs):
        raise UsageError(f"hidden_sizes {list(facts.outputs)} are not multiples of {REDUCTION}")
    return canonical(
        ModelSpec(
            name="",
            block=facts.block,
            depths=facts.depths,
            widths=facts.widths,
            shortcut="B",
            stride_in=facts.stride_in,
            stem="imagenet",
            stem_channels=(facts.stem_channels,),
            classes=classes,
            channels=facts.channels,
        )
    )


def _whole(values: Mapping[str, Any], key: str, default: list[int]) -> tuple[int, ...]:
    found = values.get(key, default)
    if not isinstance(found, list) or not all(type(value) is int and 1 <= value <= 10**6 for value in found):
        raise UsageError(f"{key or 'embedding_size or num_channels'} is not made of whole numbers from 1 on")
    return tuple(found)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"{key} is neither true nor false")
    return value


def _classes(config: Mapping[str, Any]) -> int | None:
    names = config.get("id2label")
    if isinstance(names, dict):
        return len(names)
    number = config.get("num_labels")
    return number if type(number) is int else None
