"""What an evaluation is made with: the model's file, its settings, the protocols and the listing of the data."""

from collections.abc import Sequence
from dataclasses import asdict

from resnet_infer import __version__
from resnet_infer.backends.load import Model
from resnet_infer.data.source import Source
from resnet_infer.errors import UsageError
from resnet_infer.pipeline.loading import Loading
from resnet_infer.predictions.listing import Listing
from resnet_infer.predictions.records import Identity
from resnet_infer.spec.protocols import Protocol


def identity_of(
    model: Model,
    protocols: Sequence[Protocol],
    source: Source,
    listing: Listing,
    *,
    loading: Loading,
    probabilities: bool,
) -> Identity:
    """The identity of the records that this evaluation makes; UsageError for a model that is in no file."""
    if not model.sha256:
        raise UsageError(f"{model.name}: is in memory only, so nothing can prove later that it is the same; save it")
    manifest, info = model.manifest, model.backend.info
    return Identity(
        release=__version__,
        model=model.name,
        model_sha256=model.sha256,
        architecture=manifest.spec.name,
        preprocessing=manifest.preprocessing.to_dict(),
        classes=manifest.spec.classes,
        labels=list(manifest.labels.names) if manifest.labels else None,
        backend=info.name,
        device=info.device.partition(":")[0],
        precision=info.precision,
        runtime=dict(info.versions),
        offload=loading.offload,
        strict_decode=loading.strict_decode,
        protocols=[asdict(protocol) for protocol in protocols],
        data=source.name,
        data_sha256=listing.sha256,
        images=len(source.samples),
        probabilities=probabilities,
    )
