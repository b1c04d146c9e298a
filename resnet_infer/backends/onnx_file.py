"""The manifest of an ONNX file: its own, or, for a file from elsewhere, the one the user's flags make."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from resnet_infer.backends.onnx_checks import check_graph
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.model.checkpoints import Overrides, native_preprocessing
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.architectures import spec_from_name
from resnet_infer.spec.labels import default_labels
from resnet_infer.spec.manifest import Manifest


def load_graph(path: Path) -> onnx.ModelProto:
    """The model without its external data, if any.

    Raises UsageError without the file, ArtifactError if it is no ONNX file or what `check_graph` does not let pass.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not an ONNX file, or damaged; export or download it again") from error
    if not proto.graph.node:
        raise ArtifactError(f"{path}: not an ONNX file, or an empty one; export or download it again")
    check_graph(proto, path)
    return proto


def stored_manifest(proto: onnx.ModelProto, where: str) -> Manifest | None:
    """The manifest in `metadata_props`; None if there is none."""
    texts = [prop.value for prop in proto.metadata_props if prop.key == manifests.KEY]
    return Manifest.from_json(texts[0], where) if texts else None


def manifest_of(proto: onnx.ModelProto, path: Path, overrides: Overrides) -> Manifest:
    """The manifest of the graph read from `path`, or one made of `--arch`, `--mean` and `--std` if it has none.

    Raises ArtifactError naming the flags that are missing.
    """
    stored = stored_manifest(proto, str(path))
    if stored:
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
        preprocessing=native_preprocessing(spec, overrides.mean, overrides.std),
        labels=default_labels(spec.classes, spec.stem),
        source=path.name,
    )
    return overrides.applied_to(made, str(path))


def input_shape(proto: onnx.ModelProto) -> str:
    """The shape of the graph's input, a number where it is fixed, as `batch x 3 x height x width`."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    return " x ".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
