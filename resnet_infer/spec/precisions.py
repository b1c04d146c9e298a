"""The types a network computes in, by the names users give them, and what makes such a claim true.

A file's precision is read off its layers, never taken from its name: TensorRT 11 builds an fp32 graph without a word
where fp16 was wished for, and a quantised graph whose branches were left in float runs, and is slow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnet_infer.errors import GateError, UsageError

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
"""tf32 is no type of a file: it is fp32 whose matrix products round their inputs to 10 bits, as the run decides."""
FloatLayer = Literal["stem", "classifier"]
"""The first and the last weighted layer, which a quantised network may keep in float."""
FLOAT_LAYERS: tuple[FloatLayer, ...] = ("stem", "classifier")
QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer as it was read back from a graph or an engine."""

    name: str
    operator: str
    """Conv, Gemm, ... as ONNX calls it; Add is a residual addition."""
    type: str
    """What it computes in: fp32, fp16, bf16, int8, fp8."""
    parameters: int = 0
    """Weights without bias; 0 for an Add."""


def check_claim(claim: Precision, layers: Sequence[Layer], kept: Sequence[FloatLayer], where: str) -> None:
    """Raise GateError unless the layers compute in what the file claims.

    All weighted layers must, but for the first or last of a quantised network where `kept` names them; there, every
    residual addition must have two quantised inputs, or the whole branch would run in float.
    """
    wanted = "fp32" if claim == "tf32" else claim
    weighted = [layer for layer in layers if layer.parameters]
    if not weighted:
        raise GateError(f"{where}: claims {claim}, and has no layer with weights to prove it by")
    excused = {id(weighted[0])} if "stem" in kept else set()
    excused |= {id(weighted[-1])} if "classifier" in kept else set()
    checked = [layer for layer in layers if id(layer) not in excused] if claim in QUANTIZED else weighted
    if wrong := [layer for layer in checked if layer.type != wanted]:
        some = ", ".join(f"{layer.name} is {layer.type}" for layer in wrong[:3])
        raise GateError(
            f"{where}: claims {claim}, but {len(wrong)} of its {len(checked)} layers compute in another type "
            f"({some}{', ...' if len(wrong) > 3 else ''}); do not use it, export it again"
        )


def summary(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """One record for every operator and type: {"operator", "type", "layers", "parameters"}, in order of appearance."""
    counted: dict[tuple[str, str], list[int]] = {}
    for layer in layers:
        totals = counted.setdefault((layer.operator, layer.type), [0, 0])
        totals[0] += 1
        totals[1] += layer.parameters
    return [
        {"operator": operator, "type": kind, "layers": count, "parameters": parameters}
        for (operator, kind), (count, parameters) in counted.items()
    ]


def float_layers(text: str) -> tuple[FloatLayer, ...]:
    """`stem`, `classifier`, `stem,classifier` or `none`, as --keep-float takes it; raises UsageError."""
    names = [] if text == "none" else text.split(",")
    chosen = tuple(known for known in FLOAT_LAYERS if known in names)
    if set(names) - set(chosen):
        raise UsageError(f"--keep-float '{text}' is not none, stem, classifier or stem,classifier")
    return chosen
