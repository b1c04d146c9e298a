"""The manifest of an ONNX file: its own, or, for a file from elsewhere, the one the user's flags make."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from resnet_infer.backends.onnx_checks import check_graph
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.files import sha256_of
from resnet_infer.model.checkpoints import Overrides
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.architectures import spec_from_name
from resnet_infer.spec.labels import default_labels
from resnet_infer.spec.manifest import Manifest


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


def manifest_of(proto: onnx.ModelProto, path: Path, overrides: Overrides) -> Manifest:
    """The manifest of the graph read from `path`, or one made of `--arch`, `--mean` and `--std` if it has none.

    Raises ArtifactError naming the flags that are missing.
    """
    stored = stored_manifest(proto, str(path), verify=overrides.verify)
    if stored:
        if overrides.verify:
            check_checksum(proto, stored, str(path))
        if overrides.arch and overrides.arch != stored.spec.name:
            raise UsageError(f"{path}: its manifest says {stored.spec.name}; --arch {overrides.arch} cannot change it")
        return overrides.applied_to(stored, str(path))
    if not (overrides.arch and overrides.mean and overrides.std):
        raise ArtifactError(
            f"{path}: has no resnet-infer manifest, so its preprocessing is not known; give --arch, --mean and --std "
            "(and --labels for class names), or export it with resnet-infer"
        )
    dims = proto.graph.output[0].type.tensor_type.shape.dim
    classes = dims[1].dim_value if len(dims) > 1 and dims[1].HasField("dim_value") else 0
    if not classes and overrides.labels:
        classes = len(overrides.labels.names)
    spec = spec_from_name(overrides.arch, classes=classes or None)
    made = Manifest(
        spec=spec,
        preprocessing=overrides.native(spec, str(path)),
        labels=default_labels(spec.classes, spec.stem),
        source=path.name,
    )
    return overrides.applied_to(made, str(path))


def input_shape(proto: onnx.ModelProto) -> str:
    """The shape of the graph's input, a number where it is fixed, as `batch x 3 x height x width`."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    return " x ".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
