"""Our sides: the package's own backends and its own `evaluate`, as its commands use them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.materials import OVERRIDES, photos, tiles
from benchmarks.peers.sides import Running, Side
from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.sources import Source, open_source
from resnet_infer.evaluate import evaluate
from resnet_infer.protocols import Protocol, multi_scale, single_crop, ten_crop
from resnet_infer.score import score

PROTOCOLS: Mapping[str, Callable[[], Protocol]] = {
    "single-crop": single_crop,
    "ten-crop": ten_crop,
    "multiscale": multi_scale,
}


def opened(folder: Path, file: str, precision: str | None) -> Model:
    """A material as a model on the CPU; what `--device cpu` of the commands gives."""
    overrides = OVERRIDES if file.endswith(".pth") else None
    return open_model(str(folder / file), device="cpu", precision=precision, overrides=overrides)


def network(folder: Path, *, file: str, batch: int, images: int, precision: str | None = None) -> Running:
    """`backend.run` on batches of uint8 photos; normalisation is within the time."""
    model = opened(folder, file, precision)
    x_BCHW = tiles(folder).permute(0, 3, 1, 2)
    batch_BCHW = x_BCHW.repeat(-(-batch // len(x_BCHW)), 1, 1, 1)[:batch].contiguous(memory_format=torch.channels_last)

    def work() -> Mapping[str, Any]:
        for _ in range(images // batch):
            model.backend.run(batch_BCHW, "pooled")
        return {}

    return Running(
        outputs=lambda: model.backend.run(x_BCHW, "pooled").flatten(1), work=work, versions=model.backend.info.versions
    )


def evaluation(
    folder: Path,
    *,
    file: str,
    protocol: str,
    images: int,
    batch: int | None = None,
    workers: int | None = None,
    precision: str | None = None,
) -> Running:
    """`evaluate` of labelled files, as `resnet-infer eval` runs it."""
    model = opened(folder, file, precision)
    source, chosen = open_source(photos(folder, images)), PROTOCOLS[protocol]()

    def work() -> Mapping[str, Any]:
        (row,) = evaluate(model, [chosen], source, batch_size=batch, workers=workers)
        return {"top1_errors": row.top1_errors}

    return Running(
        outputs=lambda: by_name(model, chosen, source, batch, workers), work=work, versions=model.backend.info.versions
    )


def by_name(model: Model, protocol: Protocol, source: Source, batch: int | None, workers: int | None) -> Tensor:
    """(N, K) probabilities in the order of the files' names."""
    found: dict[str, Tensor] = {}
    for scored in score(model, [protocol], source, batch_size=batch, workers=workers):
        assert scored.probs_PK is not None, scored.error
        found[source.samples[scored.index].name] = scored.probs_PK[0]
    return torch.stack([found[name] for name in sorted(found)])


def network_sides(
    arch: str, images: int, batches: Sequence[int] = (8,), *, extra: Mapping[str, Any] | None = None
) -> tuple[Side, ...]:
    """Our fp32 backends without files: the torch backend and our ONNX file."""
    return tuple(
        Side(
            name=f"ours: {backend}, batch {batch}",
            start=network,
            settings={"file": file, "batch": batch, "images": images, **(extra or {})},
            keep_freed_memory=True,
        )
        for batch in batches
        for backend, file in (("onnxruntime", f"{arch}-pooled-fp32.onnx"), ("torch", f"{arch}.pth"))
    )


def evaluation_sides(
    arch: str, protocol: str, images: int, workers: Sequence[int | None] = (None, 1)
) -> tuple[Side, ...]:
    """Our fp32 evaluation: either backend, at its default number of worker processes and at others."""
    head = "dense" if protocol == "multiscale" else "pooled"
    sides = [
        Side(
            name=f"ours: {backend}",
            start=evaluation,
            settings={"file": file, "protocol": protocol, "images": images, "workers": None},
            keep_freed_memory=True,
        )
        for backend, file in (("onnxruntime", f"{arch}-{head}-fp32.onnx"), ("torch", f"{arch}.pth"))
    ]
    return tuple(
        side
        if count is None
        else replace(side, name=f"{side.name}, workers {count}", settings={**side.settings, "workers": count})
        for count in workers
        for side in sides
    )
