"""Which architecture an ONNX graph is, by its weighted layers: their shapes, strides and where the last map ends.

A name says how a score map grows with the image, what the network costs and which classes are usual. So a name that
does not fit is refused, and one that fits alone is taken. What runs is the graph, whatever it is called.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import onnx
from onnx import NodeProto

from resnet_infer.backends.onnx_checks import SIDE
from resnet_infer.backends.onnx_ends import GraphEnds
from resnet_infer.backends.onnx_layers import WEIGHTED, constant_behind
from resnet_infer.errors import UsageError
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.catalogue import architecture_names, family_names, spec_from_name
from resnet_infer.spec.preprocessing import CHANNELS

SUFFIXES = ("", "-v1", "-A", "-B", "-C")
"""Of names, where an architecture has such forms."""
CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")


@dataclass(frozen=True, slots=True)
class Weighted:
    """One weighted layer: (out, in a group, height, width) of its weights and its stride; (classes, in, 1, 1) and 1 of
    a classifier."""

    shape: tuple[int, ...]
    stride: int

    def describe(self) -> str:
        """`3x3 convolution 64 to 128, stride 2`."""
        out, into, height, width = self.shape
        return f"{height}x{width} convolution {into} to {out}, stride {self.stride}"


@dataclass(frozen=True, slots=True)
class Network:
    """What can be read off a graph."""

    layers: tuple[Weighted, ...]
    """In order; depthwise ones, which blur, are none."""
    blurs: bool
    """Whether there are depthwise ones. They stride instead of others, so that strides are not compared."""
    map_size: tuple[int, int] | None
    """Height and width of the last feature map."""
    side: tuple[int, int]
    """Of the image that it was taken at, in pixels."""

    @property
    def parameters(self) -> int:
        """Weights without biases and batch norm, which may be folded."""
        return sum(math.prod(layer.shape) for layer in self.layers)

    def misfit(self, spec: ModelSpec) -> str:
        """What differs from this architecture, in words; nothing if it fits."""
        wanted = expected(spec)
        if len(wanted) != len(self.layers):
            parameters = sum(math.prod(layer.shape) for layer in wanted)
            return (
                f"the graph has {len(self.layers)} weighted layers of {self.parameters:,} weights, and {spec.name} "
                f"has {len(wanted)} of {parameters:,}"
            )
        if self.blurs != (spec.antialias == "blur"):
            return f"the graph {'blurs' if self.blurs else 'does not blur'} before it strides, unlike {spec.name}"
        if self.blurs:
            graphs, names = (Counter(layer.shape for layer in layers) for layers in (self.layers, wanted))
            if graphs != names:
                return f"the shapes of {(graphs - names).total()} of its weights are not those of {spec.name}"
        elif more := Counter(self.layers) - Counter(wanted):
            layer = next(layer for layer in self.layers if layer in more)
            missing = next(other for other in wanted if other in Counter(wanted) - Counter(self.layers))
            return f"the graph has a {layer.describe()}, and {spec.name} a {missing.describe()}"
        if self.map_size and (theirs := tuple(map(spec.map_size, self.side))) != self.map_size:
            height, width = self.side
            return (
                f"at {width}x{height} pixels its last feature map is {self.map_size[1]}x{self.map_size[0]}, and that "
                f"of {spec.name} {theirs[1]}x{theirs[0]}"
            )
        return ""


def expected(spec: ModelSpec) -> list[Weighted]:
    """The weighted layers of an architecture, its classifier last."""
    layers = [
        Weighted((conv.out_channels, conv.in_channels // conv.groups, conv.kernel, conv.kernel), conv.stride)
        for conv in spec.convs()
    ]
    layers += [Weighted(shape, 1) for name, shape in spec.attention_shapes() if name.endswith("weight")]
    return [*layers, *(Weighted((wide, given, 1, 1), 1) for _, given, wide in spec.linears())]


def read_network(proto: onnx.ModelProto, path: Path, output: str) -> Network | None:
    """The weighted layers that this output comes from; None where weights are computed, so that they cannot be told."""
    return _Reader(proto, path).network(output)


def named(name: str, network: Network | None, classes: int) -> ModelSpec:
    """The architecture of this name for as many input channels as the graph has; raises UsageError."""
    spec = spec_from_name(name, classes)
    channels = network.layers[0].shape[1] if network else 3
    return replace(spec, channels=channels) if channels in CHANNELS else spec


def fitting(network: Network, classes: int) -> list[str]:
    """The names of the architectures that a graph's layers fit, plain names first."""
    found: list[ModelSpec] = []
    names = [f"{name}{suffix}" for suffix, name in product(SUFFIXES, architecture_names())]
    for name in (*names, *family_names()):
        try:
            spec = named(name, network, classes)
        except UsageError:
            continue
        if spec not in found and not network.misfit(spec):
            found.append(spec)
    return [spec.name for spec in found]


def check_architecture(network: Network | None, spec: ModelSpec, said: str, where: str) -> str:
    """Raise UsageError, naming what differs and the name that fits, if a graph is not of this architecture.

    `said` are the words that say that it is. Gives what is to be said where it could not be compared.
    """
    if network is None:
        return f"its weights cannot be read off the graph, so {said} is taken without a check"
    if not (problem := network.misfit(spec)):
        return ""
    others = fitting(network, network.layers[-1].shape[0])
    remedy = f"its layers are those of {others[0]}: give --arch {others[0]}" if others else "give its own --arch"
    raise UsageError(f"{where}: {said} does not fit: {problem}; {remedy}")


class _Reader:
    def __init__(self, proto: onnx.ModelProto, path: Path) -> None:
        self._proto = proto
        self._ends = GraphEnds(proto, path)
        self._constants = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}

    @cached_property
    def _makers(self) -> dict[str, NodeProto]:
        return {output: node for node in self._proto.graph.node for output in node.output}

    def network(self, output: str) -> Network | None:
        layers, blurs, spatial = [], False, None
        nodes = self._weighted_before(output)
        for node in nodes:
            shape = self._weights(node.input[WEIGHTED[node.op_type]])
            if shape is None:
                return None
            if node.op_type not in CONVOLUTIONS:
                layers.append(Weighted((*self._matrix(node, shape), 1, 1), 1))
            elif len(shape) != 4:
                return None
            elif _attribute(node, "group", [1]) == [shape[0]] and shape[0] > 1:
                blurs = True
            else:
                stride = max(_attribute(node, "strides", [1, 1]))
                layers.append(Weighted(shape, stride))
                spatial = node if node is not nodes[-1] else spatial
        if not layers:
            return None
        return Network(tuple(layers), blurs, self._map_size(spatial), self._side)

    def _weighted_before(self, output: str) -> list[NodeProto]:
        """The weighted nodes that an output is made from, in the graph's order."""
        needed = {output}
        found = []
        for node in reversed(self._proto.graph.node):
            if needed & set(node.output):
                needed.update(node.input)
                found += [node] if node.op_type in WEIGHTED else []
        return found[::-1]

    @property
    def _side(self) -> tuple[int, int]:
        return self._ends.sides or (SIDE, SIDE)

    def _map_size(self, last: NodeProto | None) -> tuple[int, int] | None:
        """Of the last convolution's output, which reads and gives a map of one size in every architecture here."""
        if last is None or last.output[0] not in self._ends.types:
            return None
        _, _, height, width = self._ends.shape(last.output[0])
        return height, width

    def _weights(self, name: str) -> tuple[int, ...] | None:
        if not constant_behind(name, self._constants, self._makers):
            return None
        if name in self._constants:
            return self._constants[name]
        shape = self._ends.shape(name) if name in self._ends.types else ()
        return shape if shape and all(shape) else None

    def _matrix(self, node: NodeProto, shape: tuple[int, ...]) -> tuple[int, int]:
        """(out, in) of a product with weights."""
        into, out = shape[-2:]
        return (into, out) if _attribute(node, "transB", [0]) == [1] else (out, into)


def _attribute(node: NodeProto, name: str, default: list[int]) -> list[int]:
    for attribute in node.attribute:
        if attribute.name == name:
            return list(attribute.ints) or [attribute.i]
    return default
