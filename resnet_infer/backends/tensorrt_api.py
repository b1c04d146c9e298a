"""TensorRT's two flavours behind one import: `tensorrt` (data-centre and RTX GPUs) and `tensorrt_rtx` (RTX GPUs only,
but it builds engines on a machine without a GPU). Their Python API is the same.

Source: docs.nvidia.com/deeplearning/tensorrt, Python API 10.13 to 11.4, and /tensorrt-rtx 1.7.
"""

import importlib
import importlib.util
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch

from resnet_infer.errors import BackendError
from resnet_infer.spec.engine_manifest import Flavour, Host
from resnet_infer.spec.precisions import Layer

OLDEST = (10, 13)
"""Of `tensorrt`: the first release whose strongly typed networks do all that is needed here."""
TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}


def load_flavour(flavour: Flavour) -> Any:
    """The TensorRT module of this flavour; raises BackendError with the command that installs it."""
    package = flavour.replace("_", "-")
    try:
        module = importlib.import_module(flavour)
    except Exception as error:  # a missing library makes it raise many kinds
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise BackendError(
            f"{package} cannot be used{reason}; install it: pip install 'resnet-infer[{package}]'"
        ) from error
    if flavour == "tensorrt" and tuple(int(part) for part in module.__version__.split(".")[:2]) < OLDEST:
        raise BackendError(f"tensorrt {module.__version__} is too old; pip install 'tensorrt>=10.13'")
    return module


def find_flavour(wanted: Flavour | None = None) -> Flavour:
    """The flavour to build with: the one wanted, or the one that is installed, `tensorrt` before `tensorrt_rtx`."""
    if wanted:
        load_flavour(wanted)
        return wanted
    for flavour in get_args(Flavour):
        if importlib.util.find_spec(flavour):
            load_flavour(flavour)
            return flavour  # type: ignore[no-any-return]
    raise BackendError(
        "no TensorRT is installed: pip install 'resnet-infer[tensorrt]' (data-centre GPUs; builds where the GPU is) or "
        "'resnet-infer[tensorrt-rtx]' (RTX GPUs; builds anywhere)"
    )


def this_host(flavour: Flavour, device: int = 0) -> Host:
    """What this machine offers an engine of this flavour."""
    try:
        versions: dict[str, str] = {flavour: str(load_flavour(flavour).__version__)}
    except BackendError:
        versions = {}
    gpu, capability = "", None
    if torch.cuda.is_available():
        gpu, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return Host(versions=versions, gpu=gpu, capability=capability, platform=this_platform())


def this_platform() -> str:
    """`linux-x86_64`, `windows-amd64`, ... : engines do not cross it."""
    return f"{platform.system()}-{platform.machine()}".lower()


def make_log(trt: Any) -> Any:
    """A TensorRT logger that prints nothing and keeps warnings and errors, for our own messages."""

    class Log(trt.ILogger):  # type: ignore[misc]  # its base comes from the module at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.problems: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                self.problems.append(" ".join(message.split()))

        def last(self, fallback: str) -> str:
            """The first error, which names the cause; those after it are its echoes."""
            return self.problems[0][:300] if self.problems else fallback

    return Log()


def read_network(trt: Any, network: Any) -> tuple[Layer, ...]:
    """Weighted layers and residual additions of a parsed network and the types they compute in.

    The network is strongly typed, so these are the types of the engine. A layer whose inputs come out of dequantisation
    computes in the quantised type: TensorRT fuses the two.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {layer.get_output(k).name: layer for layer in layers for k in range(layer.num_outputs)}
    made: dict[str, str] = {}  # output of a weighted layer -> its type
    found: list[Layer] = []
    for layer in layers:
        inputs = [tensor for k in range(layer.num_inputs) if (tensor := layer.get_input(k)) is not None][:2]
        output = layer.get_output(0)
        operator = _operator(trt, layer, inputs, producers)
        if not operator:
            continue
        sides = {made.get(tensor.name) or _type_behind(trt, tensor, producers) for tensor in inputs}
        kind = sides.pop() if len(sides) == 1 else _type_name(output)
        if operator != "Add":
            made[output.name] = kind
        found.append(Layer(name=layer.name, operator=operator, type=kind, parameters=_parameters(trt, layer, inputs)))
    return tuple(found)


def _operator(trt: Any, layer: Any, inputs: Sequence[Any], producers: Mapping[str, Any]) -> str:
    """Conv, MatMul, Add for a sum of two feature maps, or nothing for every other layer."""
    if layer.type == trt.LayerType.CONVOLUTION:
        return "Conv"
    if layer.type == trt.LayerType.MATRIX_MULTIPLY:
        return "MatMul"
    if layer.type == trt.LayerType.ELEMENTWISE:
        layer.__class__ = trt.IElementWiseLayer  # how its Python API casts
        constant = any(
            (maker := producers.get(tensor.name)) is not None and maker.type == trt.LayerType.CONSTANT
            for tensor in inputs
        )
        maps = all(len(tensor.shape) == 4 for tensor in inputs)
        return "Add" if layer.op == trt.ElementWiseOperation.SUM and maps and not constant else ""
    return ""


def _type_behind(trt: Any, tensor: Any, producers: Mapping[str, Any]) -> str:
    """Type of a tensor, or the quantised one it was dequantised from."""
    layer = producers.get(tensor.name)
    while layer is not None and layer.type == trt.LayerType.SHUFFLE:  # a change of shape alone
        tensor = layer.get_input(0)
        layer = producers.get(tensor.name)
    if layer is not None and layer.type == trt.LayerType.DEQUANTIZE:
        tensor = layer.get_input(0)
    return _type_name(tensor)


def _type_name(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return TYPES.get(name, name.lower())


def _parameters(trt: Any, layer: Any, inputs: Sequence[Any]) -> int:
    if layer.type == trt.LayerType.CONVOLUTION:
        layer.__class__ = trt.IConvolutionLayer
        return int(layer.num_output_maps * inputs[0].shape[1] * math.prod(layer.kernel_size_nd) // layer.num_groups)
    return math.prod(inputs[1].shape) if layer.type == trt.LayerType.MATRIX_MULTIPLY else 0
