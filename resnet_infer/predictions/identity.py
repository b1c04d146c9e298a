"""What an evaluation is made with: the model's file, its settings, the protocols and the listing of the data."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from resnet_infer import __version__
from resnet_infer.backends.load import Model
from resnet_infer.data.source import Source
from resnet_infer.errors import UsageError
from resnet_infer.files import sha256_of
from resnet_infer.pipeline.packing import Offload
from resnet_infer.predictions.records import Identity
from resnet_infer.spec.protocols import Protocol


def identity_of(
    model: Model, protocols: Sequence[Protocol], source: Source, *, offload: Offload, probabilities: bool
) -> Identity:
    """The identity of the records that this evaluation makes; UsageError for a model that is in no file."""
    if model.file is None:
        raise UsageError(f"{model.name}: is in memory only, so nothing can prove later that it is the same; save it")
    manifest, info = model.manifest, model.backend.info
    return Identity(
        release=__version__,
        model=model.name,
        model_sha256=_model_sha256(model.file),
        architecture=manifest.spec.name,
        preprocessing=manifest.preprocessing.to_dict(),
        classes=manifest.spec.classes,
        labels=list(manifest.labels.names) if manifest.labels else None,
        backend=info.name,
        device=info.device.partition(":")[0],
        precision=info.precision,
        runtime=dict(info.versions),
        offload=offload,
        protocols=[asdict(protocol) for protocol in protocols],
        data=source.name,
        data_sha256=_data_sha256(source),
        images=len(source.samples),
        probabilities=probabilities,
    )


def _model_sha256(file: Path) -> str:
    """Of the file; of an ONNX file with its weights elsewhere, of those files too."""
    if file.suffix.lower() != ".onnx":
        return sha256_of(file)
    import onnx
    from onnx.external_data_helper import uses_external_data

    graph = onnx.load(file, load_external_data=False).graph
    beside = {
        entry.value
        for tensor in graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if not beside:
        return sha256_of(file)
    parts = [sha256_of(file), *(sha256_of(file.parent / name) for name in sorted(beside))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _data_sha256(source: Source) -> str:
    """Of names and classes in order; names below what the user gave, so that the data may lie elsewhere."""
    digest = hashlib.sha256()
    for sample in source.samples:
        name = sample.name.removeprefix(source.name).lstrip("/\\")
        digest.update(repr((name, sample.label)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
