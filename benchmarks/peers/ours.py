"""Our sides: the package's own backends and its own `evaluate`, as its commands use them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.eager import finish
from benchmarks.peers.materials import BATCH, OVERRIDES, photos, tiles
from benchmarks.peers.sides import Running, Side
from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.load import Model, open_model
from resnet_infer.bench.fastest import open_fastest
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.packing import Offload
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.protocols import Protocol, multi_scale, single_crop, ten_crop

PROTOCOLS: Mapping[str, Callable[[], Protocol]] = {
    "single-crop": single_crop,
    "ten-crop": ten_crop,
    "multiscale": multi_scale,
}
NONE: Mapping[str, Any] = {}


def opened(folder: Path, file: str, precision: str | None, options: Mapping[str, Any], device: str = "cpu") -> Model:
    """A material as a model; what the commands open with `--device` and these options."""
    overrides = OVERRIDES if file.endswith(".pth") else None
    run = RunOptions(**options)
    return open_model(str(folder / file), device=device, precision=precision, overrides=overrides, options=run)


def network(
    folder: Path,
    *,
    file: str,
    batch: int,
    images: int,
    precision: str | None = None,
    options: Mapping[str, Any] = NONE,
    device: str = "cpu",
    cudnn_benchmark: bool = False,
) -> Running:
    """`backend.run` on batches of uint8 photos that are on the device; normalisation is within the time."""
    torch.backends.cudnn.benchmark = cudnn_benchmark
    model = opened(folder, file, precision, options, device)
    x_BCHW = tiles(folder).permute(0, 3, 1, 2).to(device)
    batch_BCHW = x_BCHW.repeat(-(-batch // len(x_BCHW)), 1, 1, 1)[:batch].contiguous(memory_format=torch.channels_last)

    def work() -> Mapping[str, Any]:
        for _ in range(images // batch):
            model.backend.run(batch_BCHW, "pooled")
        finish(device)
        return {}

    def outputs() -> Tensor:
        """Through the batch that is timed, where it is larger: a compiled network then has one shape."""
        return model.backend.run(batch_BCHW if batch > BATCH else x_BCHW, "pooled").flatten(1)[:BATCH].cpu()

    return Running(outputs=outputs, work=work, versions=model.backend.info.versions)


def evaluation(
    folder: Path,
    *,
    file: str,
    protocol: str,
    images: int,
    batch: int | None = None,
    workers: int | None = None,
    options: Mapping[str, Any] = NONE,
    auto: bool = False,
    device: str = "cpu",
    precision: str | None = None,
    offload: Offload = "nothing",
) -> Running:
    """`evaluate` of labelled files, as `resnet-infer eval` runs it; `auto` is its `--backend auto`."""
    source, chosen = open_source(photos(folder, images)), PROTOCOLS[protocol]()
    if auto:
        dense = chosen.head == "dense"
        model = open_fastest(str(folder / file), dense=dense, device=device, overrides=OVERRIDES)
    else:
        model = opened(folder, file, precision, options, device)
    loading = Loading(batch_size=batch, workers=workers, offload=offload)

    def work() -> Mapping[str, Any]:
        (row,) = evaluate([Member(model, (chosen,))], source, loading=loading)
        return {"top1_errors": row.top1_errors}

    return Running(
        outputs=lambda: by_name(model, chosen, source, loading), work=work, versions=model.backend.info.versions
    )


def by_name(model: Model, protocol: Protocol, source: Source, loading: Loading) -> Tensor:
    """(N, K) probabilities in the order of the files' names."""
    found: dict[str, Tensor] = {}
    for scored in score([Member(model, (protocol,))], source, loading=loading):
        assert scored.probs_PK is not None, scored.error
        found[source.samples[scored.index].name] = scored.probs_PK[0]
    return torch.stack([found[name] for name in sorted(found)])


def side(name: str, start: Callable[..., Running], **settings: Any) -> Side:
    """One of ours, with the allocator setting that our commands have."""
    compiled = bool(settings.get("options", NONE).get("compile"))
    return Side(name=f"ours: {name}", start=start, settings=settings, keep_freed_memory=True, compiled=compiled)


def network_sides(arch: str, images: int) -> tuple[Side, ...]:
    """Our fp32 backends without files: our ONNX file, and the torch backend as it is and compiled."""
    common: dict[str, Any] = {"batch": BATCH, "images": images}
    weights = f"{arch}.pth"
    return (
        side("onnxruntime", network, file=f"{arch}-pooled-fp32.onnx", **common),
        side("torch", network, file=weights, **common),
        side("torch, compile default", network, file=weights, options={"compile": "default"}, **common),
    )


def evaluation_sides(arch: str, protocol: str, images: int) -> tuple[Side, ...]:
    """Our fp32 evaluation by either backend, at its own number of worker processes and with one, and compiled."""
    common: dict[str, Any] = {"protocol": protocol, "images": images}
    weights = f"{arch}.pth"
    exported = f"{arch}-{'dense' if protocol == 'multiscale' else 'pooled'}-fp32.onnx"
    return (
        side("onnxruntime", evaluation, file=exported, **common),
        side("torch, compile default", evaluation, file=weights, options={"compile": "default"}, **common),
        side("onnxruntime, workers 1", evaluation, file=exported, workers=1, **common),
        side("torch", evaluation, file=weights, **common),
        side("backend auto", evaluation, file=weights, auto=True, **common),
    )
