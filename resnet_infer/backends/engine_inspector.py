"""What TensorRT says that an engine's layers compute in: the proof that the builder kept the graph's types.

Reads the JSON of IEngineInspector, which an engine built with detailed verbosity gives on a machine with a GPU. Its
layers are fused kernels, so they are counted by the type of their first input, not matched to the graph's one by one.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from resnet_infer.errors import GateError
from resnet_infer.spec.precisions import Precision

TYPES = (
    (re.compile(r"fp8|e4m3", re.IGNORECASE), "fp8"),
    (re.compile(r"int8", re.IGNORECASE), "int8"),
    (re.compile(r"bf16|bfloat", re.IGNORECASE), "bf16"),
    (re.compile(r"half|fp16", re.IGNORECASE), "fp16"),
    (re.compile(r"float|fp32", re.IGNORECASE), "fp32"),
)

AROUND = (
    "constant",
    "identity",
    "noop",
    "pointwise",
    "quantize",
    "dequantize",
    "reformat",
    "scale",
    "shuffle",
    "slice",
)
"""Layer types, in lower case, that do not convolve whatever their name says."""


def kernel_types(information: str) -> Mapping[str, int]:
    """How many convolution kernels read each type; empty if the engine gives no such detail."""
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    counted: dict[str, int] = {}
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and _convolves(layer) and (kind := _type_of(layer)):
            counted[kind] = counted.get(kind, 0) + 1
    return counted


def check_kernels(claim: Precision, kernels: Mapping[str, int], where: str) -> None:
    """Raise GateError if convolutions were inspected and most of them compute in another type than claimed."""
    wanted = "fp32" if claim == "tf32" else claim
    if kernels and kernels.get(wanted, 0) * 2 < sum(kernels.values()):
        found = ", ".join(f"{count} in {kind}" for kind, count in kernels.items())
        raise GateError(f"{where}: claims {claim}, but TensorRT runs its convolutions otherwise: {found}; not written")


def _convolves(layer: Mapping[str, Any]) -> bool:
    """A kernel named after a convolution, but not the copies and roundings around it, which are named after it too."""
    kind = str(layer.get("LayerType", "")).lower()
    return "conv" in kind or ("conv" in str(layer.get("Name", "")).lower() and kind not in AROUND)


def _type_of(layer: Mapping[str, Any]) -> str:
    inputs = layer.get("Inputs")
    first = inputs[0] if isinstance(inputs, list) and inputs else None
    format_name = str(first.get("Format/Datatype", "")) if isinstance(first, dict) else ""
    return next((name for pattern, name in TYPES if pattern.search(format_name)), "")
