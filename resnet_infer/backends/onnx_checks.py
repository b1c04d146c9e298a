"""Whether a graph is an image classifier's and no larger than it looks, before a runtime allocates for it.

A manifest is no proof, so graphs with one are held to the same. A runtime allocates what a graph claims: a thousand
bytes can ask for a petabyte by doubling, repeating or padding, at loading already where the input is constant. So sizes
are computed first, from the graph without its weights.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import onnx
from onnx import AttributeProto, TensorProto, helper

from resnet_infer.errors import ArtifactError

# fmt: off
OPERATORS = frozenset((
    "Conv", "ConvInteger", "BatchNormalization", "Gemm", "MatMul", "MatMulInteger",
    "Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Softmax", "LogSoftmax",
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean",
    "Add", "Sub", "Mul", "Div", "Sqrt", "Min", "Max",
    "Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose",
    "Concat", "Split", "Slice", "Gather", "Pad", "Shape", "Constant", "ConstantOfShape",
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
))
# fmt: on
"""What classifiers are made of. No control flow, whose end nobody knows; nothing random, of text, or that repeats its
input (Expand, Tile, Range, Resize)."""
OPERATORS_OF_RUNTIME: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "QGemm": ("Gemm", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
}
"""Of com.microsoft: what ONNX Runtime's own quantiser writes; and the operator of ONNX that gives the same shape, of
which of their inputs."""
TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)
MAX_NODES = 100_000
MAX_BYTES = 4 * 2**30
"""Of weights."""
MAX_PIXELS = 2**27
"""Of a batch whose size is fixed; smaller ones are filled up to it."""
VALUES_PER_PIXEL = 4096
"""Of one tensor, for a pixel of input: ResNets have up to 64."""
SMALL = 1024
"""Values of constants that shapes may be computed from; larger ones are weights."""
BEFORE_MOVING = ("Cast", "Add", "Sub", "Mul", "Div", "Identity", "QuantizeLinear", "DequantizeLinear")
"""Operators of one value each, which a graph may begin with before it moves the channels."""
SIDE = 224
"""What sizes are computed at where the graph leaves them open."""


def check_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Raise ArtifactError, naming operator and node, for what no classifier has, or what would not fit a memory."""
    _check_operators(proto, path)
    _check_weights(proto, path)
    pixels = _check_ends(proto, path)
    try:
        shapes = value_types(proto, check=True)
    except Exception as error:  # both raise kinds of their own, and C++'s
        raise ArtifactError(f"{path}: no valid ONNX graph ({_short(error)}); export it again") from error
    for node in proto.graph.node:
        for name in filter(None, node.output):
            dims = shapes[name].tensor_type.shape.dim if name in shapes else ()
            known = name in shapes and shapes[name].tensor_type.HasField("shape")
            if not known or any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in dims):
                if node.op_type in ("BatchNormalization", "Dropout", "MaxPool") and name != node.output[0]:
                    continue
                raise ArtifactError(
                    f"{path}: {_named(node)}: how large its output is cannot be told from the graph; export it "
                    "with its shapes simplified"
                )
            if (count := math.prod(dim.dim_value for dim in dims)) > max(2**20, VALUES_PER_PIXEL * pixels):
                raise ArtifactError(f"{path}: {_named(node)} gives {count:.3g} values, which no classifier does")


def value_types(proto: onnx.ModelProto, *, check: bool = False) -> dict[str, onnx.TypeProto]:
    """Type and shape of every value at one image of 224x224, or of the graph's own fixed sizes, by inference.

    With `check` it raises what onnx.checker does.
    """
    bare = _without_weights(proto)
    if check:
        onnx.checker.check_model(bare)
    sized = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    return {value.name: value.type for value in (*sized.input, *sized.value_info, *sized.output)}


def usable_outputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The outputs that may be scores: (batch, classes), or a map of them."""
    return [output for output in proto.graph.output if len(output.type.tensor_type.shape.dim) in (2, 4)]


def channels_last(proto: onnx.ModelProto) -> bool:
    """Whether the image's channels are its last dimension: by its sizes, or, where those are open, by what reads it.

    A convolution takes channels first, so a graph that takes them last begins by moving them.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    (image,) = (value for value in proto.graph.input if value.name not in constants)
    dims = image.type.tensor_type.shape.dim
    fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    if fixed[1] is not None or fixed[3] is not None:
        return fixed[3] == 3 and fixed[1] != 3
    reads, name = {source: node for node in reversed(proto.graph.node) for source in node.input}, image.name
    while (node := reads.get(name)) is not None and node.op_type in BEFORE_MOVING:
        name = node.output[0]
    if node is None or node.op_type != "Transpose":
        return False
    return [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"] == [[0, 3, 1, 2]]


def _check_operators(proto: onnx.ModelProto, path: Path) -> None:
    graph = proto.graph
    if proto.functions or graph.sparse_initializer or proto.training_info:
        raise ArtifactError(f"{path}: has functions, sparse weights or training in it; a classifier's graph is plain")
    if len(graph.node) > MAX_NODES:
        raise ArtifactError(f"{path}: has {len(graph.node):,} nodes; at most {MAX_NODES:,} are read")
    for node in graph.node:
        allowed = {"": OPERATORS, "ai.onnx": OPERATORS, "com.microsoft": OPERATORS_OF_RUNTIME}.get(node.domain, ())
        if node.op_type not in allowed:
            raise ArtifactError(f"{path}: {_named(node)}: not an operator of image classifiers, so it is not run")
        for attribute in node.attribute:
            kind = AttributeProto.AttributeType
            if attribute.HasField("g") or attribute.graphs or attribute.type in (kind.GRAPH, kind.GRAPHS):
                raise ArtifactError(f"{path}: {_named(node)}: has a graph inside of it, so it is not run")


def _check_weights(proto: onnx.ModelProto, path: Path) -> None:
    """Constants claim what the file, or files beside it, hold; and no part of those twice."""
    taken: dict[Path, int] = defaultdict(int)
    total = 0
    for tensor, outside in _tensors(proto):
        name = f"{path}: constant '{tensor.name[:60]}'"
        if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type in (0, TensorProto.STRING):
            raise ArtifactError(f"{name} is of no type that weights have")
        if any(dim < 0 for dim in tensor.dims):
            raise ArtifactError(f"{name} has a negative size")
        count = math.prod(tensor.dims)
        bits = _bits(tensor.data_type)
        needed = -(-count * bits // 8)
        total += needed
        if total > MAX_BYTES:
            raise ArtifactError(f"{name}: the weights are over {MAX_BYTES:,} bytes, which no ResNet has")
        if tensor.data_location == TensorProto.EXTERNAL:
            if not outside:
                raise ArtifactError(f"{name} of a node lies in another file; only weights may")
            file, held = _external(tensor, path, name)
            taken[file] += held
            if taken[file] > file.stat().st_size:
                raise ArtifactError(f"{name}: weights share bytes of {file.name}; export it again")
        else:
            held = len(tensor.raw_data) or _listed(tensor) * (8 if bits < 8 else bits) // 8
        if held < needed:
            raise ArtifactError(f"{name} claims {needed:,} bytes and has {held:,}; export or copy it again")


def _tensors(proto: onnx.ModelProto) -> Iterator[tuple[TensorProto, bool]]:
    """Every constant, and whether it may lie outside of the file."""
    for tensor in proto.graph.initializer:
        yield tensor, True
    for node in proto.graph.node:
        for attribute in node.attribute:
            for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
                yield tensor, False


def _bits(data_type: int) -> int:
    """Of one value; types of 4 bits lie two to a byte."""
    name = TensorProto.DataType.Name(data_type)
    return 4 if name.endswith(("INT4", "4E2M1")) else 2 if name.endswith("INT2") else _itemsize(data_type) * 8


def _itemsize(data_type: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _listed(tensor: TensorProto) -> int:
    """Values given one by one; complex numbers are two each, and no weights."""
    return max(
        len(tensor.float_data),
        len(tensor.int32_data),
        len(tensor.int64_data),
        len(tensor.double_data),
        len(tensor.uint64_data),
    )


def _external(tensor: TensorProto, path: Path, name: str) -> tuple[Path, int]:
    """The file beside the graph that holds a tensor, and how many bytes of it; never one elsewhere."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(said.get("location", "").replace("\\", "/"))
    if location.is_absolute() or ".." in location.parts or not location.parts or ":" in location.parts[0]:
        raise ArtifactError(f"{name} lies at '{str(location)[:60]}'; weights must be in a file beside the graph")
    file = path.parent / location
    homes = (path.parent.resolve(), path.resolve().parent)  # a cache may link both to where they lie together
    if not file.is_file():
        raise ArtifactError(f"{name} lies in '{str(location)[:60]}', which is not beside the graph; copy it there")
    if not any(file.resolve().is_relative_to(home) for home in homes):
        raise ArtifactError(f"{name} lies in '{location}', a link to a file elsewhere; copy that beside the graph")
    size = file.stat().st_size
    offset, length = (said.get(key, "") for key in ("offset", "length"))
    if not all(text == "" or (text.isascii() and text.isdecimal() and len(text) < 20) for text in (offset, length)):
        raise ArtifactError(f"{name}: its place in '{location}' is not a number of bytes")
    begin = int(offset or 0)
    held = int(length) if length else size - begin
    if held < 0 or begin + held > size:
        raise ArtifactError(f"{name}: '{location}' ends at {size:,} bytes, before {begin + held:,}; copy it again")
    return file, held


def _check_ends(proto: onnx.ModelProto, path: Path) -> int:
    """One image input and scores of a known shape; gives the pixels of a batch, one image where that is open."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ArtifactError(f"{path}: has {len(inputs)} inputs; a classifier takes one, a batch of images")
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in TYPES or len(kind.shape.dim) != 4:
        raise ArtifactError(
            f"{path}: its input is no batch of images; a classifier takes float or bytes (batch, 3, height, width)"
        )
    fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    if any(size is not None and size < 1 for size in fixed):
        raise ArtifactError(
            f"{path}: its input has a size of {min(s for s in fixed if s is not None)}; export it again"
        )
    last = channels_last(proto)
    batch, height, width = (fixed[at] for at in ((0, 1, 2) if last else (0, 2, 3)))
    if (channels := fixed[3] if last else fixed[1]) not in (1, 3, 4, None):
        raise ArtifactError(f"{path}: its input has {channels} channels; a classifier takes grey, RGB or RGBA")
    pixels = (batch or 1) * (height or SIDE) * (width or SIDE)
    if pixels > MAX_PIXELS or max(height or 1, width or 1) > 8192:
        raise ArtifactError(
            f"{path}: takes batches of {batch or 'any number of'} images of {width or 'any'}x{height or 'any'} pixels; "
            f"a fixed batch may have {MAX_PIXELS:,}: export it with a free batch"
        )
    if not proto.graph.output:
        raise ArtifactError(f"{path}: has no output; a classifier gives (batch, classes)")
    if not usable_outputs(proto):
        sizes = len(proto.graph.output[0].type.tensor_type.shape.dim)
        raise ArtifactError(
            f"{path}: its output has {sizes or 'no'} sizes; a classifier gives (batch, classes), or a "
            "map of them: export it with its shapes"
        )
    for output in usable_outputs(proto):
        if any(dim.HasField("dim_value") and dim.dim_value < 1 for dim in output.type.tensor_type.shape.dim):
            raise ArtifactError(f"{path}: its output has a size below 1; export it again")
    return pixels


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large constants as inputs, one size of image, and no word of its own on other sizes."""
    bare = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
    bare.opset_import.extend(proto.opset_import)
    graph = bare.graph
    graph.name = proto.graph.name or "graph"
    graph.node.extend(_of_onnx(node) for node in proto.graph.node)
    constants = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name not in constants:
            graph.input.append(value)
            dims = graph.input[-1].type.tensor_type.shape.dim
            fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
            usual = (1, SIDE, SIDE, 3) if channels_last(proto) else (1, 3, SIDE, SIDE)
            for dim, size, assumed in zip(dims, fixed, usual, strict=True):
                dim.dim_value = size or assumed
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) > SMALL or tensor.data_location == TensorProto.EXTERNAL:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            graph.initializer.append(tensor)
    for output in usable_outputs(proto):
        kind = output.type.tensor_type
        graph.output.append(helper.make_tensor_value_info(output.name, kind.elem_type, [None] * len(kind.shape.dim)))
    return bare


def _of_onnx(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, or one of ONNX's own operators that gives the same shape: inference knows no others."""
    last = any(attribute.name == "channels_last" and attribute.i for attribute in node.attribute)
    if node.domain != "com.microsoft" or node.op_type not in OPERATORS_OF_RUNTIME or last:
        return node
    operator, inputs = OPERATORS_OF_RUNTIME[node.op_type]
    if len(node.input) <= max(inputs):
        return node
    alike = helper.make_node(operator, [node.input[at] for at in inputs], list(node.output), name=node.name)
    alike.attribute.extend(a for a in node.attribute if a.name != "channels_last")
    return alike


def _named(node: onnx.NodeProto) -> str:
    domain = f"{node.domain[:40]}." if node.domain else ""
    return f"{domain}{node.op_type[:40]} '{(node.name or ''.join(node.output[:1]))[:60]}'"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
