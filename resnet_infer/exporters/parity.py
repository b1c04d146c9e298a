"""Does an exported file give PyTorch's scores? Compared through both backends, at several shapes.

Shapes: B images, C is 3, H and W pixels, K classes, h and w positions of the score map.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from resnet_infer.backends.base import Backend
from resnet_infer.backends.devices import torch_device
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError
from resnet_infer.exporters.emulation import emulated
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.pipeline.decode import decode
from resnet_infer.pipeline.render import render
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.manifest import Manifest, Scores
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.protocols import Size, Tile
from resnet_infer.spec.shapes import ShapeRange

TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.5e-1, "int8": 1.0, "fp8": 1.0}
"""Largest difference of a logit over the largest logit. fp32 differs by the order of sums, fp16 by its 11 bits, bf16 by
its 8. For int8 and fp8 this only finds a graph that is wrong: their accuracy is judged on held-out images."""
IMAGES = 3
SMALLEST_LOG = -10.0
"""Of a probability that is compared: below it, rounding leaves too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far an exported file's logits are from PyTorch's in fp32."""

    images: str
    """What was compared on: random, or the name of the data."""
    shapes: Sequence[tuple[int, int, int]]
    """(batch, height, width) of every comparison."""
    max_diff: float
    """Largest absolute difference of a logit."""
    relative_diff: float
    """The same over the largest absolute logit."""
    tolerance: float
    top1_agreement: float
    """Share of score vectors with the same best class, 0..1."""
    reference: str = "PyTorch"
    """What it was compared with."""
    overflow: str = ""
    """What gave scores that are no numbers, in words."""

    @property
    def passed(self) -> bool:
        """Whether the difference is within tolerance; a difference that is not a number is not."""
        return not self.overflow and self.relative_diff <= self.tolerance

    def describe(self) -> str:
        """One line in plain words."""
        if self.overflow:
            return self.overflow
        sizes = ", ".join(f"{b}x3x{h}x{w}" for b, h, w in self.shapes)
        return (
            f"largest difference from {self.reference} {self.max_diff:.2g}, {self.relative_diff:.2g} of the largest "
            f"logit (tolerance {self.tolerance:.0e}); best class agrees on {100 * self.top1_agreement:.1f} %; "
            f"{self.images} images at {sizes}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest, as they come back from one."""
        values = asdict(self) | {"shapes": [list(shape) for shape in self.shapes]}
        del values["overflow"]
        return values


def check_parity(checkpoint: Checkpoint, path: Path, manifest: Manifest, source: Source | None = None) -> Parity:
    """Run the same uint8 images through the checkpoint in PyTorch and the file in ONNX Runtime, on the CPU."""
    reference = TorchBackend(checkpoint, device="cpu", fold=False)  # as it was trained: the file is folded
    return compare_with(reference, "PyTorch", path, manifest, source)


def compare_with(reference: Backend, name: str, path: Path, manifest: Manifest, source: Source | None = None) -> Parity:
    """Run the same uint8 images through a reference of this name and the file in ONNX Runtime, on the CPU."""
    head = manifest.head or "pooled"
    shapes, differences, largest, agreeing, overflow = [], [0.0], [0.0], [], ""
    with checking_backend(path, manifest, "cpu") as candidate:
        for x_BCHW in _accepted(candidate.shapes, manifest, source):
            a_BKhw, b_BKhw = reference.run(x_BCHW, head), candidate.run(x_BCHW, head)
            a_BKhw, b_BKhw = (_comparable(scores, manifest.output) for scores in (a_BKhw, b_BKhw))
            batch, _, height, width = x_BCHW.shape
            overflow = overflow or _overflow(a_BKhw, b_BKhw, name, manifest.precision)
            shapes.append((batch, height, width))
            differences.append(float((a_BKhw - b_BKhw).abs().max().nan_to_num(torch.inf)))
            largest.append(float(a_BKhw.abs().max()))
            agreeing.append((a_BKhw.argmax(1) == b_BKhw.argmax(1)).flatten())
    return Parity(
        images=source.name if source else "random",
        shapes=shapes,
        max_diff=max(differences),
        relative_diff=max(differences) / max(max(largest), 1e-30),
        tolerance=TOLERANCE[manifest.precision],
        top1_agreement=float(torch.cat(agreeing).float().mean()),
        overflow=overflow,
        reference=name,
    )


def _overflow(expected_BKhw: Tensor, scores_BKhw: Tensor, name: str, precision: Precision) -> str:
    """Why scores are no numbers; nothing where all are."""
    if not expected_BKhw.isfinite().all():
        return f"{name} itself gives scores that are no numbers in fp32: the weights are damaged, or training diverged"
    if scores_BKhw.isfinite().all():
        return ""
    largest = {"fp16": 65504, "bf16": 3.39e38}.get(precision)
    if largest is None:
        return f"gives scores that are no numbers in {precision}, where {name} gives numbers in fp32"
    other = "bf16 or fp32" if precision == "fp16" else "fp32"
    return (
        f"overflows in {precision}, whose largest number is {largest:g}: scores are no numbers where {name} gives "
        f"numbers in fp32; export with --precision {other}"
    )


@contextlib.contextmanager
def checking_backend(path: Path, manifest: Manifest, device: str = "auto") -> Iterator[OrtBackend]:
    """The file in ONNX Runtime, to be checked; one of half precision on a CPU, which does not compute in it, as its
    emulation."""
    with tempfile.TemporaryDirectory(prefix="resnet-infer-check-") as folder:
        half = manifest.precision in ("bf16", "fp16") and torch_device(device).type == "cpu"
        if half:
            graph, path = emulated(onnx.load(path)), Path(folder) / path.name
            onnx.save(graph, path)
        running = OrtBackend(path, manifest, device)
        if half:
            running.info = replace(running.info, name="emulated in fp32 on onnxruntime")
        try:
            yield running
        finally:
            running.close()


def _comparable(logits_BKhw: Tensor, output: Scores) -> Tensor:
    """The scores themselves; of a graph that ends in a softmax, what that leaves of them."""
    if output == "logits" or not logits_BKhw.isfinite().all():
        return logits_BKhw
    logs_BKhw = logits_BKhw.log_softmax(1)
    return logs_BKhw.clamp(min=SMALLEST_LOG) if output == "probabilities" else logs_BKhw


def _accepted(shapes: Sequence[ShapeRange], manifest: Manifest, source: Source | None) -> Iterator[Tensor]:
    """The batches that a graph of these input shapes takes; at its own size if that is none of theirs."""
    served = [
        (batch, size)
        for batch, size in _shapes(manifest.spec)
        if any(shape.accepts(*size) and batch <= shape.max[0] for shape in shapes)
    ]
    for batch, size in served or [(1, shapes[0].opt[1:])]:
        yield _random(batch, size) if source is None else _real(batch, size, source)


def _shapes(spec: ModelSpec) -> Sequence[tuple[int, Size]]:
    """One and three images at the native size, and larger rectangles of odd sides."""
    side = spec.native_size
    larger = (side + side // 4 + 1, side + side // 2 + 3)
    return ((1, (side, side)), (IMAGES, (side, side)), (2, larger), (1, (larger[1], larger[0])))


def _random(batch: int, size: Size) -> Tensor:
    """Images with structure at every scale, like photographs: a sum of noise from coarse to fine."""
    generator = torch.Generator().manual_seed(2015)
    x_BCHW = torch.zeros(batch, 3, *size)
    for cells in (2, 5, 11, 23):
        noise = torch.randn(batch, 3, cells, cells, generator=generator)
        x_BCHW += torch.nn.functional.interpolate(noise, size, mode="bilinear") * 64 / cells**0.5
    return (x_BCHW + 128).clamp(0, 255).to(torch.uint8)


def _real(batch: int, size: Size, source: Source) -> Tensor:
    """The source's first images, stretched to this size."""
    tile = Tile(size, 0, 0, *size)
    tiles = []
    for sample in source.samples[:batch]:
        try:
            tiles += render(decode(source.read(sample)), [tile])
        except (OSError, DataError) as error:
            raise DataError(f"{sample.name}: {error}") from error
    return torch.stack(tiles).permute(0, 3, 1, 2)
