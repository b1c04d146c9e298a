"""Step `correctness`: does the GPU say what the CPU says in fp32? Logits, pixels, the way there and back, scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.context import Context
from benchmarks.gpu.decoding import beside_a_busy_stream
from benchmarks.gpu.pictures import ready, spread
from benchmarks.peers.materials import checkpoint
from benchmarks.peers.ours import by_name
from resnet_infer.backends.load import Model
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.source import Source
from resnet_infer.errors import ResnetInferError
from resnet_infer.exporters.parity import TOLERANCE
from resnet_infer.pipeline.loader import load
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.packing import Offload
from resnet_infer.pipeline.transfer import Upload, fetch
from resnet_infer.spec.protocols import Protocol, multi_scale, single_crop, ten_crop

REFERENCE = "reference.pt"
"""Tiles and the CPU's fp32 logits, of the tiles and of their mirror images, for later steps."""
WAYS: Sequence[tuple[str, dict[str, Any]]] = (
    ("fp32", {}), ("bf16", {}), ("fp16", {}), ("tf32", {}), ("bf16", {"autocast": True}), ("fp16", {"autocast": True}),
    ("bf16", {"compile": "cuda-graphs"}), ("bf16", {"compile": "default"}), ("fp32", {"compile": "default"}),
    ("fp16", {"compile": "default"}), ("bf16", {"compile": "default", "autocast": True}),
)  # fmt: skip
AGREE = 0.95
"""Share of pictures with the same best class; half precision may tip a few that are nearly even."""
HALF_OFF = 0.1
"""Of a probability, in half precision: crops and whole images are run by other kernels there."""
EAGER = 7
"""So many of them compile nothing."""
COMPILING_S = 20.0
OFFLOADS: Sequence[tuple[Offload, str]] = (("rendering", "render on device"), ("decoding", "decode on device"))


def correctness(context: Context) -> None:
    """Everything that has to hold before a speed means anything."""
    source = ready(context)
    reference = model_of(context, "cpu", "fp32")
    given = reference_logits(context, spread(source, context.plan.checked), reference)
    transfers(context)
    for precision, how in WAYS[:EAGER]:
        network(context, precision, how, given)
    own = model_of(context, str(context.device), "fp32")
    few = spread(source, context.plan.dense_checked)
    for protocol in (single_crop(), ten_crop(), multi_scale(context.plan.scales or multi_scale().scales)):
        path(context, protocol, few, reference, own)
    half = model_of(context, str(context.device), context.plan.precision)
    for protocol in (ten_crop(), multi_scale(context.plan.scales or multi_scale().scales)):
        path(context, protocol, few, reference, half, HALF_OFF)
    half.backend.close()
    for offload, said in OFFLOADS:
        pixels(context, spread(source, context.plan.checked), own, offload, said)
    own.backend.close()
    beside_a_busy_stream(context, spread(source, context.plan.checked))
    for precision, how in WAYS[EAGER:]:
        if context.has(COMPILING_S, f"logits of {precision}, {', '.join(map(str, how.values()))}"):
            torch._dynamo.reset()
            network(context, precision, how, given)


def model_of(context: Context, device: str, precision: str, **how: Any) -> Model:
    """The network on a device."""
    own = checkpoint(context.scratch, context.plan.network)
    backend = TorchBackend(own, device, precision, **how)  # type: ignore[arg-type]
    return Model(name=own.name, manifest=own.manifest, backend=backend)


@dataclass(frozen=True, slots=True)
class Reference:
    """Single crops, uint8 (B, 3, H, W), and the CPU's fp32 logits (B, K) of them and of their mirror images."""

    tiles: Tensor
    logits: Tensor
    mirrored: Tensor

    def turns(self) -> list[tuple[Tensor, Tensor]]:
        """Batches that follow each other and what is said of them: another one has another image at every place."""
        return [(self.tiles, self.logits), (self.tiles.flip(0, 3), self.mirrored.flip(0))] * 2

    def first(self, count: int) -> "Reference":
        """Of so many tiles at most."""
        return Reference(self.tiles[:count], self.logits[:count], self.mirrored[:count])


def reference_logits(context: Context, source: Source, model: Model) -> Reference:
    """Made on the CPU, and kept for later steps."""
    images = load(source, [single_crop()], range(len(source.samples)), workers=0)
    x_BCHW = torch.stack([image.tiles[0] for image in images]).permute(0, 3, 1, 2)
    both = [
        torch.cat([model.backend.run(part, "pooled").flatten(1) for part in torch.split(each_BCHW, 16)])
        for each_BCHW in (x_BCHW, x_BCHW.flip(3))
    ]
    torch.save([x_BCHW, *both], context.scratch / REFERENCE)
    return Reference(x_BCHW, *both)


def kept_reference(context: Context) -> Reference:
    """What `reference_logits` made; raises FileNotFoundError."""
    return Reference(*torch.load(context.scratch / REFERENCE, weights_only=True))


def network(context: Context, precision: str, how: dict[str, Any], given: Reference) -> None:
    """One way to run the network, on tiles that are rendered already."""
    name = " ".join([precision, *(f"compile={v}" if k == "compile" else k for k, v in how.items())])
    try:
        model = model_of(context, str(context.device), precision, **how)
    except ResnetInferError as error:
        context.check(f"logits, torch {name}", skipped=str(error))
        return
    try:
        compare(context, f"torch {name}", precision, model, given)
    except (ResnetInferError, RuntimeError) as error:
        context.check(f"logits, torch {name}", error=" ".join(str(error).split())[:300])
    finally:
        model.backend.close()


def compare(context: Context, name: str, precision: str, model: Model, given: Reference) -> None:
    """A model's logits against the CPU's: tiles and their mirror images in turns, twice, and read when all have run.

    So a recorded graph that reads an old input, or writes over an output that was given away, is found out.
    """
    turns = [(x_BCHW.to(context.device), logits_BK) for x_BCHW, logits_BK in given.turns()]
    said = [(model.backend.run(x_BCHW, "pooled"), logits_BK) for x_BCHW, logits_BK in turns]
    off, same = 0.0, 1.0
    for said_BKhw, logits_BK in said:
        said_BK = said_BKhw.flatten(1).cpu()
        off = max(off, float((said_BK - logits_BK).abs().nan_to_num(torch.inf).max() / logits_BK.abs().max()))
        same = min(same, float((said_BK.argmax(1) == logits_BK.argmax(1)).double().mean()))
    bound = 1e-2 if precision == "tf32" else TOLERANCE[precision]  # type: ignore[index]
    context.check(f"logits, {name}: largest difference over largest logit", off, bound, at_most=True)
    context.check(f"logits, {name}: same best class", same, 1.0 if precision == "fp32" else AGREE)


def transfers(context: Context) -> None:
    """Blocks up and back over pinned memory while the device is busy: every byte, many sizes."""
    upload, generator = Upload(context.device), torch.Generator().manual_seed(0)
    busy = torch.randn(1024, 1024, device=context.device)
    wrong, waiting = 0, []
    for number in range(64):
        length = int(torch.randint(1, 2**20, (1,), generator=generator)) * (8 if number % 7 == 0 else 1)
        block = torch.randint(0, 256, (length,), dtype=torch.uint8, generator=generator)
        busy = torch.tanh(busy @ busy)
        waiting.append((block.clone(), fetch(upload(block) ^ 255)))
        block.zero_()  # the caller's again once the call returns: what travels must be a copy
        if len(waiting) > 2:
            sent, arrive = waiting.pop(0)
            wrong += int((arrive() != sent ^ 255).sum())
    wrong += sum(int((arrive() != sent ^ 255).sum()) for sent, arrive in waiting)
    if context.cuda:
        context.check("bytes that changed on their way to the device and back", wrong, 0, at_most=True)
    else:
        context.check("bytes that changed on their way to the device and back", skipped="nothing travels on a CPU")


def path(
    context: Context, protocol: Protocol, source: Source, reference: Model, own: Model, bound: float = 1e-3
) -> None:
    """`score` on the device against `score` on the CPU, whatever the batch and the workers."""
    expected_NK = by_name(reference, protocol, source, Loading(workers=0))
    for words, loading in (
        ("workers 0", Loading(workers=0)),
        ("workers 2, batch_size 4", Loading(workers=2, batch_size=4)),
    ):
        said_NK = by_name(own, protocol, source, loading)
        off = float((said_NK - expected_NK).abs().max())
        what = f"scores, {own.backend.info.precision}, {protocol.name}, {words}: largest difference to the CPU"
        context.check(what, off, bound, at_most=True)


def pixels(context: Context, source: Source, own: Model, offload: Offload, said: str) -> None:
    """Pixels that the device makes against the CPU's, and the best classes that they change."""
    note = "" if context.cuda or offload == "rendering" else "on a CPU libjpeg-turbo decodes, too"
    upload = Upload(context.device)
    indices = range(len(source.samples))
    worst, beyond, count = 0, 0, 0
    host = load(source, [single_crop()], indices, workers=0)
    device = load(source, [single_crop()], indices, workers=0, offload=offload, upload=upload)
    for ours, theirs in zip(host, device, strict=True):
        if theirs.error:
            context.check(f"{said}: {source.samples[theirs.index].name}", error=theirs.error)
            return
        off_HWC = (ours.tiles[0].int() - theirs.tiles[0].cpu().int()).abs()
        worst, beyond, count = (
            max(worst, int(off_HWC.max())),
            beyond + int((off_HWC > 1).sum()),
            count + off_HWC.numel(),
        )
    bound = 1 if offload == "rendering" else None
    context.check(f"{said}: largest pixel difference, levels", worst, bound, at_most=True, note=note)
    context.check(f"{said}: share of values more than a level off", beyond / count)
    expected_N = by_name(own, single_crop(), source, Loading(workers=0)).argmax(1)
    said_N = by_name(own, single_crop(), source, Loading(workers=0, offload=offload)).argmax(1)
    flips = float((expected_N != said_N).double().mean())
    context.check(f"{said}: best classes that change", flips, 0.02, at_most=True)
