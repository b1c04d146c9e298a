"""Foreign weights to ours: unwrapping, key layouts, and the architecture read off the tensors.

Layouts read: torchvision and timm (`conv1 bn1 layerX.Y... fc`), akamaster's CIFAR nets (`linear`, `shortcut`),
any of them wrapped by a trainer (`state_dict`, `model`, EMA) or by DataParallel (`module.`).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.model.resnet import INPUT_OFFSET
from resnet_infer.spec.architectures import MAX_BLOCKS_PER_STAGE, BlockKind, ModelSpec, Shortcut, Stem, canonical

StateDict = dict[str, Tensor]

WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")
RENAMED = ((re.compile(r"^linear\."), "fc."), (re.compile(r"\.shortcut\."), ".downsample."))
MAX_WRAPPINGS = 8
"""Wrappings or prefixes around one another; a pickle may even hold itself."""
_BLOCK = re.compile(r"layer([0-9]+)\.([0-9]+)\.")


def unwrap(loaded: object, where: str) -> StateDict:
    """The state dict inside what a training script saved, with key prefixes and foreign names gone.

    Averaged (EMA) weights are preferred where both are stored. Raises CheckpointError if there are no tensors.
    """
    for _ in range(MAX_WRAPPINGS):
        if isinstance(loaded, Mapping) and (inner := [loaded[w] for w in WRAPPINGS if _holds_mapping(loaded, w)]):
            loaded = inner[0]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{where}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict() instead"
        )
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        keys = ", ".join(k[:40] for k in list(loaded)[:6] if isinstance(k, str)) or "nothing"
        raise CheckpointError(f"{where}: no tensors in it (top-level keys: {keys}); save model.state_dict() instead")
    for _ in range(MAX_WRAPPINGS):
        if prefix := next((p for p in PREFIXES if all(k.startswith(p) or k == "n_averaged" for k in tensors)), None):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k != "n_averaged"}
    return {_rename(key): tensor for key, tensor in tensors.items()}


def _holds_mapping(loaded: Mapping[Any, Any], key: str) -> bool:
    return isinstance(loaded.get(key), Mapping)


def _rename(key: str) -> str:
    for pattern, name in RENAMED:
        key = pattern.sub(name, key)
    return key


def read_architecture(tensors: Mapping[str, Tensor], where: str) -> ModelSpec:
    """The architecture these tensors belong to: block, depths, widths, shortcut option, stem and classes.

    Two things no tensor tells: A and plain nets are alike (A is assumed), and so are the two stride positions
    (the 3x3 is assumed); `--arch` decides otherwise. Raises CheckpointError naming what no ResNet has.
    """
    conv1, fc = tensors.get("conv1.weight"), tensors.get("fc.weight")
    if conv1 is None or fc is None or conv1.ndim != 4 or fc.ndim != 2:
        raise CheckpointError(
            f"{where}: not a ResNet: needs conv1.weight (4-D) and fc.weight (2-D), has {_some(tensors)}"
        )
    stems: dict[tuple[int, ...], Stem] = {(3, 7, 7): "imagenet", (3, 3, 3): "cifar"}
    stem = stems.get(tuple(conv1.shape[1:]))
    if stem is None:
        raise CheckpointError(
            f"{where}: not a ResNet of the paper: conv1.weight is {_shape(conv1)}; the stem is one 7x7 or 3x3 "
            "convolution of 3 channels (deep stems and grey inputs are other networks)"
        )
    stages = _stages(tensors, where)
    block: BlockKind = "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"
    widths = []
    for stage in sorted(stages):
        width = tensors.get(f"layer{stage}.0.conv2.weight")
        if width is None or width.ndim != 4:
            raise CheckpointError(f"{where}: not a ResNet: layer{stage}.0.conv2.weight is missing")
        widths.append(width.shape[0])
    projections = sum(f"layer{s}.{i}.downsample.0.weight" in tensors for s in stages for i in range(stages[s]))
    option: Shortcut = "A" if not projections else "C" if projections == sum(stages.values()) else "B"
    try:
        return canonical(
            ModelSpec(
                name="read from tensors",
                block=block,
                depths=tuple(stages[s] for s in sorted(stages)),
                widths=tuple(widths),
                shortcut=option,
                stride_in="3x3",
                stem=stem,
                classes=fc.shape[0],
            )
        )
    except UsageError as error:
        raise CheckpointError(f"{where}: not a ResNet: {error}") from error


def _stages(tensors: Mapping[str, Tensor], where: str) -> dict[int, int]:
    """Blocks of every stage, none missing; a file that names block 10^9 has it refused, not counted up to."""
    found: dict[int, set[int]] = {}
    for key in tensors:
        if match := _BLOCK.match(key):
            if max(len(match[1]), len(match[2])) > len(str(MAX_BLOCKS_PER_STAGE)):
                raise CheckpointError(f"{where}: not a ResNet: it has a tensor {key[:60]}")
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    if not found or max(found) != len(found) or 0 in found:
        raise CheckpointError(f"{where}: not a ResNet: stages {_some(sorted(found))} instead of layer1, layer2, ...")
    for stage, blocks in found.items():
        if max(blocks) != len(blocks) - 1:
            gap = min(set(range(len(blocks))) - blocks)
            raise CheckpointError(f"{where}: not a ResNet: has layer{stage}.{max(blocks)} and no layer{stage}.{gap}")
    return {stage: len(blocks) for stage, blocks in found.items()}


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in this architecture's state dict, batch counters aside."""
    shapes: dict[str, tuple[int, ...]] = {}
    for c in spec.convs():
        shapes[f"{c.name}.weight"] = (c.out_channels, c.in_channels, c.kernel, c.kernel)
        norm = c.name[:-1] + "1" if c.name.endswith("downsample.0") else c.name.replace("conv", "bn")
        shapes |= {f"{norm}.{part}": (c.out_channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"fc.weight": (spec.classes, spec.features), "fc.bias": (spec.classes,)}


def conform(tensors: StateDict, spec: ModelSpec, where: str) -> StateDict:
    """Exactly this architecture's state dict, in fp32.

    Raises CheckpointError naming the tensors that are missing, extra or of another shape.
    """
    shapes = expected_shapes(spec)
    if (offset := tensors.get(INPUT_OFFSET)) is not None:
        shapes[INPUT_OFFSET] = (3, *offset.shape[1:3])
    counters = {k: () for k in tensors if k.endswith(".num_batches_tracked")}
    missing = [k for k in shapes if k not in tensors]
    extra = [k for k in tensors if k not in shapes and k not in counters]
    wrong = [k for k, shape in (shapes | counters).items() if k in tensors and tuple(tensors[k].shape) != shape]
    if missing or extra or wrong:
        details = [
            f"{len(keys)} {what} ({_some(keys)})" for what, keys in (("missing", missing), ("extra", extra)) if keys
        ]
        details += [f"{k} is {_shape(tensors[k])} instead of {_shape_of(shapes.get(k, ()))}" for k in wrong[:2]]
        raise CheckpointError(
            f"{where}: its tensors do not make a {spec.name}: {'; '.join(details)}. Give the right network with "
            "--arch (`resnet-infer models` lists them)"
        )
    if odd := [
        k for k in shapes if tensors[k].layout is not torch.strided or tensors[k].is_complex() or tensors[k].is_meta
    ]:
        raise CheckpointError(f"{where}: {_some(odd)} cannot be used: sparse, complex or without data; save it dense")
    held = {tensors[k].untyped_storage().data_ptr(): tensors[k].untyped_storage().nbytes() for k in shapes}
    claimed = sum(tensors[k].numel() * tensors[k].element_size() for k in shapes)
    if claimed > sum(held.values()):  # tensors that repeat one number, or share what they hold, cost no file anything
        raise CheckpointError(
            f"{where}: its tensors claim {claimed:,} bytes of values and hold {sum(held.values()):,}; save it anew"
        )
    state = {k: tensors[k].to(torch.float32) for k in shapes}
    if bad := [k for k, v in state.items() if not bool(torch.isfinite(v).all())]:
        raise CheckpointError(f"{where}: {len(bad)} tensors hold NaN or infinity ({_some(bad)}); the file is damaged")
    norms = [k.removesuffix(".running_mean") for k in shapes if k.endswith(".running_mean")]
    zero: Any = torch.zeros((), dtype=torch.long)
    return state | {f"{n}.num_batches_tracked": tensors.get(f"{n}.num_batches_tracked", zero) for n in norms}


def _shape(tensor: Tensor) -> str:
    return _shape_of(tuple(tensor.shape))


def _shape_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _some(keys: Any, most: int = 4) -> str:
    keys = list(keys)
    return ", ".join(str(key)[:60] for key in keys[:most]) + (f", ... {len(keys)} in all" if len(keys) > most else "")
