"""An ONNX file of another tool with its manifest written into a copy, so that it needs no flags from then on."""

from dataclasses import replace
from pathlib import Path

import onnx

from resnet_infer import __version__
from resnet_infer.backends.onnx_ends import GraphEnds
from resnet_infer.backends.onnx_file import (
    file_bytes,
    files_beside,
    graph_sha256,
    load_graph,
    manifest_of,
    model_sha256,
    stored_manifest,
)
from resnet_infer.errors import ArtifactError, GateError, UsageError
from resnet_infer.exporters.parity import Parity, check_parity
from resnet_infer.files import replacing
from resnet_infer.model.checkpoints import Checkpoint, Overrides
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing

TOLERANCE = 0.3
"""Largest difference of a logit over the largest logit, of int8 too: other weights differ by more."""
MAX_BYTES = 2**31 - 2**20
"""Of one ONNX file: protobuf's limit, less the manifest's own."""


def adopt(
    path: Path,
    target: Path,
    overrides: Overrides,
    *,
    like: Checkpoint | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> Manifest:
    """Write a copy of `path` with its manifest, from the graph, the flags, and the checkpoint that it is `like`.

    With a checkpoint its scores are compared with PyTorch's, in its preprocessing, on random images. Weights in other
    files are taken into the copy.

    Raises UsageError or ArtifactError for what cannot be used or is not known, GateError if scores differ: then nothing
    is written.
    """
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"{target}: the output's name must end in .onnx")
    data, proto = file_bytes(path), load_graph(path)
    if (stored := stored_manifest(proto, str(path), verify=overrides.verify)) is not None:
        raise UsageError(f"{path}: has a manifest already ({stored.spec.name}, {stored.source}); use it as it is")
    digest = model_sha256(data, files_beside(proto, path))
    if like:
        _check_alone(overrides)
    manifest = manifest_of(proto, path, overrides, like.manifest if like else None)
    manifest = replace(
        manifest,
        preprocessing=_sized(manifest.preprocessing, GraphEnds(proto, path).sides, path, resize, crop),
        source_sha256=digest,
        versions={"resnet-infer": __version__},
    )
    with replacing(target) as partial:
        whole = onnx.load(path)
        if whole.ByteSize() > MAX_BYTES:
            raise ArtifactError(f"{path}: its weights are too large for one ONNX file, which holds 2 GiB")
        _write(whole, manifest, partial)
        if like:
            parity = check_parity(like, partial, manifest)
            parity = replace(parity, tolerance=min(parity.tolerance, TOLERANCE))
            if not parity.passed:
                raise GateError(f"{target}: not written: {_difference(parity, like)}")
            manifest = replace(manifest, parity=parity.to_dict())
            _write(whole, manifest, partial)
    return manifest


def _check_alone(given: Overrides) -> None:
    """Raise UsageError for what a checkpoint says already."""
    for flag, said in (("--mean", given.mean), ("--std", given.std), ("--arch", given.arch)):
        if said:
            raise UsageError(f"{flag} and --like contradict each other: the checkpoint says it; leave one out")


def _sized(
    preprocessing: Preprocessing, sides: tuple[int, int] | None, path: Path, resize: int | None, crop: int | None
) -> Preprocessing:
    """With the sizes that were given; raises UsageError for a crop that the graph does not take."""
    if crop and sides and sides != (crop, crop):
        raise UsageError(f"{path}: takes {sides[1]}x{sides[0]} pixels only; --crop {crop} cannot change it")
    if crop and not resize:
        resize = round(crop * preprocessing.resize / preprocessing.crop)
    return replace(preprocessing, crop=crop or preprocessing.crop, resize=resize or preprocessing.resize)


def _difference(parity: Parity, like: Checkpoint) -> str:
    return (
        f"its scores are not those of {like.name}: {parity.describe()}; it has other weights, or takes another input "
        "than the checkpoint's preprocessing"
    )


def _write(proto: onnx.ModelProto, manifest: Manifest, path: Path) -> None:
    manifest = replace(manifest, weights_sha256=graph_sha256(proto))
    kept = {prop.key: prop.value for prop in proto.metadata_props}
    onnx.helper.set_model_props(proto, kept | {manifests.KEY: manifest.to_json()})
    onnx.save(proto, path)
