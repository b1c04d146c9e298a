"""The manifest of an ONNX file: its own, or, for a file from elsewhere, the one the user's flags make."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from resnet_infer.backends.onnx_checks import check_graph
from resnet_infer.backends.onnx_ends import GraphEnds, ScoresOutput, image_input
from resnet_infer.backends.onnx_layers import file_precision, read_layers
from resnet_infer.backends.onnx_network import check_architecture, fitting, named, read_network
from resnet_infer.console import note
from resnet_infer.errors import ArtifactError, GateError, UsageError
from resnet_infer.files import sha256_of
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.labels import default_labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import Layer, check_claim
from resnet_infer.spec.preprocessing import Triple

NO_MEAN: Triple = (0.0, 0.0, 0.0)
NO_STD: Triple = (1.0, 1.0, 1.0)
"""Of a graph that takes bytes, and does all that is done to them itself."""


def load_graph(path: Path, data: bytes | None = None) -> onnx.ModelProto:
    """The model without its external data, if any; `data` are the file's bytes where they have been read.

    Raises UsageError without the file, ArtifactError if it is no ONNX file or what `check_graph` does not let pass.
    """
    try:
        proto = onnx.load_model_from_string(file_bytes(path) if data is None else data)
    except (DecodeError, ValueError) as error:
        raise ArtifactError(f"{path}: not an ONNX file, or damaged; export or download it again") from error
    if not proto.graph.node:
        raise ArtifactError(f"{path}: not an ONNX file, or an empty one; export or download it again")
    check_graph(proto, path)
    return proto


def file_bytes(path: Path) -> bytes:
    """Raises UsageError or ArtifactError if it cannot be read."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from error


def files_beside(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """The files that hold weights of the graph read from `path`, in order of their names."""
    names = {
        entry.value
        for tensor in proto.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / name for name in sorted(names)]


def model_sha256(data: bytes, beside: Sequence[Path]) -> str:
    """SHA-256, in hex, of an ONNX file's bytes; with weights in other files, of the hashes of all of them."""
    own = hashlib.sha256(data).hexdigest()
    try:
        others = [sha256_of(file) for file in beside]
    except OSError as error:
        raise ArtifactError(f"{error.filename}: cannot be read ({error.strerror or error})") from error
    return hashlib.sha256("".join((own, *others)).encode()).hexdigest() if others else own


def stored_manifest(proto: onnx.ModelProto, where: str, *, verify: bool = True) -> Manifest | None:
    """The manifest in `metadata_props`; None if there is none."""
    texts = [prop.value for prop in proto.metadata_props if prop.key == manifests.KEY]
    return Manifest.from_json(texts[0], where, verify=verify) if texts else None


def graph_sha256(proto: onnx.ModelProto) -> str:
    """SHA-256, in hex, of a model without its manifest, which holds this, a repeated export may change, and no runtime
    reads. Of weights in files beside it, only where they are is in it."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def check_checksum(proto: onnx.ModelProto, manifest: Manifest, where: str) -> None:
    """Raise ArtifactError if a graph is not the one that its manifest was written for."""
    if manifest.weights_sha256 and manifest.weights_sha256 != graph_sha256(proto):
        raise ArtifactError(
            f"{where}: its graph is not the one that it was written with (the checksum differs): damaged, or changed "
            f"by another tool; copy or export it again {manifests.UNVERIFIED}"
        )


def manifest_of(proto: onnx.ModelProto, path: Path, overrides: Overrides, like: Manifest | None = None) -> Manifest:
    """The manifest of the graph read from `path`, or, if it has none, one of what the graph and the flags say.

    `like` is a checkpoint's, whose network, preprocessing and classes the graph is said to have.

    Raises ArtifactError naming the flags that are missing, UsageError for those that contradict the graph.
    """
    stored = stored_manifest(proto, str(path), verify=overrides.verify)
    if stored is None:
        return _manifest_from_elsewhere(proto, path, overrides, like)
    if overrides.verify:
        check_checksum(proto, stored, str(path))
    for flag, given, said in (
        ("--arch", overrides.arch, stored.spec.name),
        ("--scores", overrides.scores, stored.output),
        ("--output-name", overrides.output_name, stored.output_name or proto.graph.output[0].name),
    ):
        if given and given != said:
            raise UsageError(f"{path}: its manifest says {said}; {flag} {given} cannot change it")
    if stored.output == "logits" and not stored.adopted and GraphEnds(proto, path).ends_in_softmax:
        raise ArtifactError(
            f"{path}: ends in a softmax, and its manifest says that it gives logits: changed by another tool; take its "
            "metadata out and adopt it, or export it again"
        )
    return overrides.applied_to(stored, str(path))


def _manifest_from_elsewhere(proto: onnx.ModelProto, path: Path, given: Overrides, like: Manifest | None) -> Manifest:
    ends = GraphEnds(proto, path)
    if not (like or ends.input.startswith("uint8") or (given.mean and given.std)):
        raise ArtifactError(
            f"{path}: has no resnet-infer manifest, so its preprocessing is not known; give --mean and --std "
            f"(and --labels for class names), or write them into a copy once: resnet-infer adopt {path.name} "
            "--mean R,G,B --std R,G,B -o COPY.onnx"
        )
    classes = like.spec.classes if like else len(given.labels.names) if given.labels else None
    output, choice = ends.scores(given.output_name, classes)
    kind = given.scores or ends.kind(output)
    spec, assumed = _architecture(proto, path, given, output, like.spec if like else None)
    if like:
        preprocessing = like.preprocessing
    else:
        usual = {"mean": NO_MEAN, "std": NO_STD} if ends.input.startswith("uint8") else {}
        preprocessing = given.native(spec, str(path), **usual)
    if (sides := ends.sides) and sides[0] == sides[1] != preprocessing.crop:
        side, resize = sides[0], round(sides[0] * preprocessing.resize / preprocessing.crop)
        preprocessing = replace(preprocessing, resize=resize, crop=side)
        assumed.append(f"takes {side}x{side} pixels, cropped from a shorter side of {resize} (--resize changes it)")
    if choice:
        assumed.append(choice)
    if kind != "logits":
        assumed.append(f"ends in softmax ({kind}): not applied again")
    for sentence in assumed:
        _say_once(path, sentence)
    made = Manifest(
        spec=spec,
        preprocessing=preprocessing,
        labels=like.labels if like else default_labels(spec.classes, spec.family),
        source=path.name,
        head="pooled" if ends.pooled(output) else "dense",
        precision=file_precision(read_layers(proto)),
        adopted=True,
        input=ends.input,
        output=kind,
        output_name=output.name,
    )
    return given.applied_to(made, str(path))


@cache
def _say_once(path: Path, sentence: str) -> None:
    note(f"{path.name}: {sentence}")


def _architecture(
    proto: onnx.ModelProto, path: Path, given: Overrides, output: ScoresOutput, like: ModelSpec | None
) -> tuple[ModelSpec, list[str]]:
    """The one that was named, if the graph is of it; else the one that its layers fit. And what was assumed."""
    network, classes = read_network(proto, path, output.name), output.classes
    if like or given.arch:
        spec = like or named(str(given.arch), network, classes)
        said = f"--like, a {spec.name}," if like else f"--arch {given.arch}"
        unchecked = check_architecture(network, spec, said, str(path))
        return spec, [unchecked] if unchecked else []
    names = fitting(network, classes) if network else []
    if not names:
        raise ArtifactError(
            f"{path}: has no resnet-infer manifest, and its layers are those of no architecture that is known here; "
            "give the nearest with --arch"
            if network is None
            else f"{path}: its {len(network.layers)} weighted layers of {network.parameters:,} weights are those of no "
            "architecture that `resnet-infer models` lists, so that it cannot be used"
        )
    return named(names[0], network, classes), [f"is {names[0]} by the shapes and strides of its layers"]


def check_precision(manifest: Manifest, layers: Sequence[Layer], where: str) -> None:
    """Raise GateError if a graph is not of the precision that its manifest says.

    Of another tool's, most weights must be; a file of unknown head claims nothing.
    """
    if manifest.adopted:
        if (found := file_precision(tuple(layers))) != manifest.precision:
            raise GateError(f"{where}: its manifest says {manifest.precision}, but most of its weights are {found}")
    elif manifest.head:
        check_claim(manifest.precision, layers, manifest.kept_float, where)


def input_shape(proto: onnx.ModelProto) -> str:
    """The shape of the graph's input, a number where it is fixed, as `batch x 3 x height x width`."""
    dims = image_input(proto).type.tensor_type.shape.dim
    return " x ".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
