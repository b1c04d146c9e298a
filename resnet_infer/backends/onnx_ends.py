"""What an ONNX graph takes and gives, read off the graph: its input's form, and the output that has the scores.

A graph may end in a softmax, and may give features besides its scores. Neither is visible from its shapes alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto

from resnet_infer.backends.onnx_checks import channels_last, usable_outputs, value_types
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.spec.manifest import Scores
from resnet_infer.spec.preprocessing import InputFormat

SOFTMAX: Mapping[str, Scores] = {"Softmax": "probabilities", "LogSoftmax": "log-probabilities"}
HANDED_ON = (
    "Identity", "Squeeze", "Unsqueeze", "Flatten", "Reshape", "Transpose", "Cast", "Dropout",
    "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
"""Operators behind which scores are still what they were."""
CLASSIFIERS = ("Gemm", "MatMul", "Conv", "QGemm", "QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger")
GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool", "ReduceMean")
BESIDE_A_CLASSIFIER = ("Add", "Mul")
"""Bias, and the scale of a quantised product."""


def image_input(proto: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input that is no constant."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    image: onnx.ValueInfoProto
    (image,) = (value for value in proto.graph.input if value.name not in constants)
    return image


@dataclass(frozen=True, slots=True)
class ScoresOutput:
    """An output that may be scores."""

    name: str
    shape: tuple[int, ...]
    """At one image of 224x224, or of the graph's own fixed sizes."""

    @property
    def classes(self) -> int:
        """Its second dimension."""
        return self.shape[1]

    def describe(self) -> str:
        """`logits (batch, 1000)`."""
        sizes = ["batch", str(self.classes), *(["height", "width"] if len(self.shape) == 4 else [])]
        return f"{self.name} ({', '.join(sizes)})"


class GraphEnds:
    """The ends of one graph that `check_graph` has let pass."""

    def __init__(self, proto: onnx.ModelProto, path: Path) -> None:
        self._proto = proto
        self._path = path
        self._makers = {output: node for node in proto.graph.node for output in node.output}

    @property
    def input(self) -> InputFormat:
        """Its layout and type."""
        image = image_input(self._proto)
        of_bytes = image.type.tensor_type.elem_type == TensorProto.UINT8
        if channels_last(self._proto):
            return "uint8-nhwc" if of_bytes else "normalized-nhwc"
        return "uint8-nchw" if of_bytes else "normalized"

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width in pixels where both are fixed."""
        image = image_input(self._proto)
        dims = image.type.tensor_type.shape.dim
        height, width = (dims[1], dims[2]) if channels_last(self._proto) else (dims[2], dims[3])
        return (height.dim_value, width.dim_value) if height.dim_value and width.dim_value else None

    @cached_property
    def types(self) -> dict[str, onnx.TypeProto]:
        """See `value_types`."""
        return value_types(self._proto)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a value, at one image."""
        return tuple(dim.dim_value for dim in self.types[name].tensor_type.shape.dim)

    @cached_property
    def outputs(self) -> tuple[ScoresOutput, ...]:
        """Those that may be scores, in the graph's order."""
        return tuple(ScoresOutput(output.name, self.shape(output.name)) for output in usable_outputs(self._proto))

    def scores(self, wanted: str | None = None, classes: int | None = None) -> tuple[ScoresOutput, str]:
        """The output with the scores, and what is to be said of the choice; nothing where there was none.

        Of several it is the one that is `wanted`; or has as many `classes`; or, where that is not known, comes out of a
        classifier. Raises UsageError where that does not leave one, as the others may be features.
        """
        names = [output.name for output in self.outputs]
        if wanted is not None:
            if wanted not in names:
                raise UsageError(
                    f"{self._path}: has no output '{wanted}' of scores; it has "
                    f"{', '.join(output.describe() for output in self.outputs)}"
                )
            return self.outputs[names.index(wanted)], ""
        if len(self.outputs) == 1:
            return self.outputs[0], ""
        if classes is not None:
            reason = f"the one of {classes} classes"
            fit = [output for output in self.outputs if output.classes == classes]
        else:
            reason = "the one that a classifier gives"
            fit = [output for output in self.outputs if self._classified(output.name)]
        fit = self._without_softmax(fit)
        if len(fit) == 1:
            others = ", ".join(output.describe() for output in self.outputs if output is not fit[0])
            return fit[0], f"scores are {fit[0].describe()}, {reason}; not {others} (--output-name changes it)"
        raise UsageError(
            f"{self._path}: has several outputs that may be scores: "
            f"{', '.join(output.describe() for output in self.outputs)}; say which with --output-name NAME"
        )

    def pooled(self, output: ScoresOutput) -> bool:
        """Whether an image has one vector of scores, whatever its size; a map of 1x1 is one behind a global pool."""
        node = None if len(output.shape) == 2 else self._maker(output.name)
        while node is not None and node.op_type in (*CLASSIFIERS, *SOFTMAX, *BESIDE_A_CLASSIFIER):
            if node.op_type == "Conv" and len(self.shape(node.output[0])) == 4 and self.shape(node.output[0])[2] > 1:
                return False
            node = self._maker(node.input[0])
        return len(output.shape) == 2 or (node is not None and node.op_type in GLOBAL_POOLS)

    def kind(self, output: ScoresOutput) -> Scores:
        """What its values are; raises ArtifactError for those of a softmax over anything but classes, or a sigmoid."""
        maker = self._maker(output.name)
        if maker is None or maker.op_type not in (*SOFTMAX, "Sigmoid", "HardSigmoid"):
            return "logits"
        if maker.op_type not in SOFTMAX:
            raise ArtifactError(
                f"{self._path}: its output '{output.name}' ends in {maker.op_type}, scores of classes that do not "
                "exclude each other; export it without, or give --scores logits to have a softmax of them"
            )
        shape = self.shape(maker.input[0])
        axis = next((a.i for a in maker.attribute if a.name == "axis"), 1 if self._opset < 13 else -1) % len(shape)
        if shape[axis] != output.classes:
            raise ArtifactError(
                f"{self._path}: its last {maker.op_type} is over axis {axis}, of size {shape[axis]}, and not over the "
                f"{output.classes} classes, so that its scores mean nothing; export it with softmax over dimension 1"
            )
        return SOFTMAX[maker.op_type]

    @property
    def ends_in_softmax(self) -> bool:
        """Whether every output does."""
        makers = [self._maker(output.name) for output in self._proto.graph.output]
        return all(maker is not None and maker.op_type in SOFTMAX for maker in makers)

    @property
    def _opset(self) -> int:
        return max((entry.version for entry in self._proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)

    def _maker(self, name: str) -> NodeProto | None:
        """The node whose result this is, behind those that hand numbers on."""
        while (node := self._makers.get(name)) is not None and node.op_type in HANDED_ON and node.input:
            name = node.input[0]
        return node

    def _classified(self, name: str) -> bool:
        """Whether this comes out of a weighted layer, maybe through a bias and a softmax."""
        node = self._maker(name)
        if node is not None and node.op_type in SOFTMAX:
            node = self._maker(node.input[0])
        if node is not None and node.op_type in BESIDE_A_CLASSIFIER:
            makers = [maker for source in node.input if (maker := self._maker(source)) is not None]
            node = makers[0] if len(makers) == 1 else None  # of two it is a residual addition
        return node is not None and node.op_type in CLASSIFIERS

    def _without_softmax(self, outputs: Sequence[ScoresOutput]) -> list[ScoresOutput]:
        """Without those that are the softmax of another of them, which says the same."""
        names = {output.name for output in outputs}
        return [output for output in outputs if not (self._above(output.name) & (names - {output.name}))]

    def _above(self, name: str) -> set[str]:
        """The values that an output is a softmax of, or the same as."""
        found, softened = set[str](), False
        while (node := self._makers.get(name)) is not None and node.input:
            if node.op_type in SOFTMAX and not softened:
                softened = True
            elif node.op_type not in HANDED_ON:
                break
            name = node.input[0]
            found.add(name)
        return found
