"""The architecture read off tensors, and a state dict that is exactly that architecture's."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_infer.errors import CheckpointError, UsageError
from resnet_infer.model.layouts import NO_CLASSIFIER, StateDict
from resnet_infer.model.resnet import INPUT_OFFSET
from resnet_infer.spec.architecture_record import MAX_BLOCKS_PER_STAGE, Shortcut, Stem
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import canonical

_BLOCK = re.compile(r"layer([0-9]+)\.([0-9]+)\.")


def read_architecture(tensors: Mapping[str, Tensor], where: str) -> ModelSpec:
    """The architecture these tensors belong to; what they do not tell (`untold.untold`) is taken for what is usual.

    Raises CheckpointError naming what is missing, or what no network of the family has.
    """
    fc = _classifier(tensors, where)
    stem, stem_convs = _stem(tensors, where)
    if "conv1.bias" in tensors or "layer1.0.conv1.bias" in tensors:
        raise CheckpointError(
            f"{where}: its convolutions have biases, as where batch norm was folded into them; give the weights from "
            "before that"
        )
    stages = _stages(tensors, where)
    _check_regular(tensors, stages, where)
    bottleneck = "layer1.0.conv3.weight" in tensors
    first, middle, last = (
        [_conv(tensors, f"layer{stage}.0.{name}.weight", where) for stage in stages]
        for name in ("conv1", "conv2", "conv3" if bottleneck else "conv2")
    )
    widths = tuple(conv.shape[0] for conv in (middle if bottleneck else first))
    projections = _projections(tensors, stages)
    pre = any(_norm(tensors, s) == conv.shape[1] != conv.shape[0] for s, conv in zip(stages, first, strict=True))
    linears = _linears(tensors)
    try:
        return canonical(
            ModelSpec(
                name="read from tensors",
                block="bottleneck" if bottleneck else "basic",
                depths=tuple(stages.values()),
                widths=widths,
                outputs=tuple(conv.shape[0] for conv in last),
                shortcut=_option(projections),
                stride_in="3x3",
                stem=stem,
                stem_channels=tuple(conv.shape[0] for conv in stem_convs),
                classes=fc.shape[0],
                groups=max(1, first[0].shape[0] // max(1, middle[0].shape[1])) if bottleneck else 1,
                narrowing=max(1, widths[0] // max(1, first[0].shape[0])) if bottleneck else 1,
                pool="conv" if "maxpool.0.weight" in tensors else "",
                shortcut_pool=any(name.endswith("downsample.1.weight") for name in projections),
                shortcut_kernel=max((conv.shape[2] for conv in projections.values()), default=1),
                **_attention(tensors, stages),
                norm="batch" if _running(tensors) else "group",
                preactivation="activated" if pre else "none",
                stem_norm="bn1.weight" in tensors,
                final_norm="bn.weight" in tensors,
                hidden=tuple(tensors[name].shape[0] for name in linears[:-1]),
                bias=f"{linears[-1].removesuffix('weight')}bias" in tensors,
                channels=stem_convs[0].shape[1],
            )
        )
    except UsageError as error:
        raise CheckpointError(f"{where}: not a ResNet that this release runs: {error}") from error


def _stem(tensors: Mapping[str, Tensor], where: str) -> tuple[Stem, list[Tensor]]:
    """The stem's kind and its convolutions' weights."""
    deep = [tensors[name] for name in ("conv1.0.weight", "conv1.3.weight", "conv1.6.weight") if name in tensors]
    if len(deep) == 3 and all(conv.ndim == 4 and conv.shape[2:] == (3, 3) for conv in deep):
        return "deep", deep
    conv = _conv(tensors, "conv1.weight", where)
    kinds: dict[tuple[int, ...], Stem] = {(7, 7): "imagenet", (3, 3): "cifar"}
    if tuple(conv.shape[2:]) not in kinds:
        raise CheckpointError(
            f"{where}: its first convolution is {_shape(conv)}; a stem is one 7x7 or 3x3 convolution, or three 3x3"
        )
    return kinds[tuple(conv.shape[2:])], [conv]


def _projections(tensors: Mapping[str, Tensor], stages: Mapping[int, int]) -> dict[str, Tensor]:
    """Weights of the shortcuts' convolutions by name."""
    places = (f"layer{s}.{i}.downsample.{n}.weight" for s in stages for i in range(stages[s]) for n in (0, 1))
    return {name: tensors[name] for name in places if name in tensors and tensors[name].ndim == 4}


def _option(projections: Mapping[str, Tensor]) -> Shortcut:
    if not projections:
        return "A"
    needed = (".0.downsample" in name and conv.shape[0] != conv.shape[1] for name, conv in projections.items())
    return "B" if all(needed) else "C"


def _classifier(tensors: Mapping[str, Tensor], where: str) -> Tensor:
    names = _linears(tensors)
    if not names:
        raise CheckpointError(f"{where}: {NO_CLASSIFIER.format('fc.weight')}")
    if any(tensors[name].ndim != 2 for name in names):
        raise CheckpointError(
            f"{where}: its classifier {names[0]} is no linear layer; a hidden head is linear layers and ReLU"
        )
    return tensors[names[-1]]


def _linears(tensors: Mapping[str, Tensor]) -> list[str]:
    """Weights of the classifier's layers, in order."""
    numbered = sorted(
        (k for k in tensors if re.fullmatch(r"fc\.[0-9]{1,2}\.weight", k)), key=lambda k: int(k.split(".")[1])
    )
    return ["fc.weight"] if "fc.weight" in tensors else numbered


def _conv(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != 4:
        raise CheckpointError(f"{where}: not a ResNet: {name} is missing")
    return tensor


def _norm(tensors: Mapping[str, Tensor], stage: int) -> int:
    norm = tensors.get(f"layer{stage}.0.bn1.weight")
    return norm.shape[0] if norm is not None and norm.ndim else 0


def _running(tensors: Mapping[str, Tensor]) -> bool:
    return "layer1.0.bn1.running_mean" in tensors or "layer1.0.bn1.weight" not in tensors


def _check_regular(tensors: Mapping[str, Tensor], stages: Mapping[int, int], where: str) -> None:
    """Raise CheckpointError where the blocks of a stage are not alike, or those of stages not of one kind."""
    kinds = {f"layer{s}.{i}.conv3.weight" in tensors for s in stages for i in range(stages[s])}
    if len(kinds) > 1:
        raise CheckpointError(f"{where}: mixes basic and bottleneck blocks, which this release does not run")
    for stage, depth in stages.items():
        for conv in ("conv1", "conv2", "conv3"):
            found = {
                tensors[n].shape[0]
                for i in range(depth)
                if (n := f"layer{stage}.{i}.{conv}.weight") in tensors and tensors[n].ndim
            }
            if len(found) > 1:
                widths = ", ".join(map(str, sorted(found)))
                raise CheckpointError(
                    f"{where}: blocks of layer{stage} differ in width ({conv}: {widths}), as in pruned networks; "
                    "this release runs networks whose stages are regular"
                )


def _attention(tensors: Mapping[str, Tensor], stages: Mapping[int, int]) -> dict[str, Any]:
    for kind, name, axis in (("se", "se.fc1.weight", 0), ("eca", "se.conv.weight", 2)):
        found = [tensors.get(f"layer{stage}.0.{name}") for stage in stages]
        if all(tensor is not None and tensor.ndim > axis for tensor in found):
            return {"attention": kind, "squeezed": tuple(int(t.shape[axis]) for t in found if t is not None)}
    return {}


def _stages(tensors: Mapping[str, Tensor], where: str) -> dict[int, int]:
    """Blocks of every stage, none missing; a file that names block 10^9 has it refused, not counted up to."""
    found: dict[int, set[int]] = {}
    for key in tensors:
        if match := _BLOCK.match(key):
            if max(len(match[1]), len(match[2])) > len(str(MAX_BLOCKS_PER_STAGE)):
                raise CheckpointError(f"{where}: not a ResNet: it has a tensor {key[:60]}")
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    if 0 in found or not found:
        raise CheckpointError(f"{where}: not a ResNet: its stages are not layer1, layer2, ...")
    if max(found) != len(found):
        missing = next(n for n in range(1, len(found) + 2) if n not in found)
        raise CheckpointError(f"{where}: not a ResNet: layer{missing} is missing")
    for stage, blocks in found.items():
        if max(blocks) != len(blocks) - 1:
            gap = min(set(range(len(blocks))) - blocks)
            raise CheckpointError(f"{where}: not a ResNet: layer{stage}.{gap} is missing")
    return {stage: len(found[stage]) for stage in sorted(found)}


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in this architecture's state dict, batch counters aside."""
    shapes: dict[str, tuple[int, ...]] = {}
    norms = list(spec.leading_norms())
    for c in spec.convs():
        shapes[f"{c.name}.weight"] = (c.out_channels, c.in_channels // c.groups, c.kernel, c.kernel)
        norms += [(c.norm, c.out_channels)] if c.norm else []
    parts = ("weight", "bias", "running_mean", "running_var")[: 4 if spec.norm == "batch" else 2]
    shapes |= {f"{name}.{part}": (channels,) for name, channels in norms for part in parts}
    shapes |= dict(spec.attention_shapes())
    for index, (name, given, wide) in enumerate(spec.linears()):
        shapes[f"{name}.weight"] = (wide, given)
        if spec.bias or index < len(spec.hidden):
            shapes[f"{name}.bias"] = (wide,)
    return shapes


def conform(tensors: StateDict, spec: ModelSpec, where: str) -> StateDict:
    """Exactly this architecture's state dict, in fp32.

    Raises CheckpointError naming the tensors that are missing, extra or of another shape.
    """
    shapes = expected_shapes(spec)
    if (offset := tensors.get(INPUT_OFFSET)) is not None:
        shapes[INPUT_OFFSET] = (spec.channels, *offset.shape[1:3])
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
