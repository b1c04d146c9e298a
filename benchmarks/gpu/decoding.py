"""Part of step `correctness`: what the device decodes beside a busy stream is what it decodes when idle, bit for bit.

A decoder that writes on a stream of its own may write over freed blocks that queued kernels still read, or have its
pixels written over by such kernels: the allocator orders what is on one stream only (pytorch/vision#9606). So blocks of
the images' sizes are filled, read behind products of large matrices and dropped at once; then images are decoded, and
their tiles read late and dropped at once, too.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.gpu.context import Context
from resnet_infer.data.source import Source
from resnet_infer.errors import ImageError, ResnetInferError
from resnet_infer.pipeline.loader import load
from resnet_infer.pipeline.packing import Rendered
from resnet_infer.pipeline.transfer import Upload
from resnet_infer.spec.protocols import Protocol, Size, multi_scale, single_crop

PART = 16
"""Images that are decoded behind the same products."""
SIDE, PRODUCTS = 8192, 32
"""Of the matrices: 50 ms of an H100 in bf16, more than reading and decoding a part takes."""
FILL = 7


def beside_a_busy_stream(context: Context, source: Source) -> None:
    """How many images differ, and how many freed blocks were written over, under the tiles of either head."""
    for protocol in (single_crop(), multi_scale(context.plan.scales or multi_scale().scales)):
        what = f"{protocol.name}, decoded beside a busy stream"
        try:
            sizes, expected = idle(context, source, protocol)
            said, overwritten = busy(context, source, protocol, sizes)
        except (ResnetInferError, RuntimeError) as error:
            context.check(what, error=" ".join(str(error).split())[:300])
            continue
        differ = sum(not all(map(torch.equal, *images)) for images in zip(expected, said, strict=True))
        note = f"{len(said)} images{'' if context.cuda else '; a CPU has no streams'}"
        context.check(f"{what}: images that differ", differ, 0, at_most=True, note=note)
        context.check(f"{what}: freed blocks written over while read", overwritten, 0, at_most=True, note=note)


def idle(context: Context, source: Source, protocol: Protocol) -> tuple[list[Size], list[list[Tensor]]]:
    """Every image's (height, width) and its tiles, with nothing queued while any is decoded."""
    sizes, tiles = [], []
    for part in parts(source):
        for image in decoded(context, source, protocol, part):
            sizes.append(image.size)
            tiles.append([tile.cpu() for tile in image.tiles])
            context.finish()
    return sizes, tiles


def busy(context: Context, source: Source, protocol: Protocol, sizes: Sequence[Size]) -> tuple[list[list[Tensor]], int]:
    """Every image's tiles, read late; and how many blocks did not hold what they were filled with when read."""
    side, dtype = (SIDE, torch.bfloat16) if context.cuda else (64, torch.float32)
    x = torch.randn(side, side, device=context.device).to(dtype)
    product, kept, wrong = torch.empty_like(x), [], []
    for part in parts(source):
        blocks = [torch.full((3, *sizes[at]), FILL, dtype=torch.uint8, device=context.device) for at in part]
        for _ in range(PRODUCTS):
            torch.mm(x, x, out=product)
        wrong += [(block != FILL).any() for block in blocks]
        del blocks
        for image in decoded(context, source, protocol, part):
            kept.append([tile.clone() for tile in image.tiles])
            del image
    context.finish()
    return [[tile.cpu() for tile in tiles] for tiles in kept], int(torch.stack(wrong).sum())


def decoded(context: Context, source: Source, protocol: Protocol, part: Sequence[int]) -> Iterator[Rendered]:
    """These images on the device, as `score` gets them."""
    upload = Upload(context.device)
    for image in load(source, [protocol], part, workers=0, offload="decoding", upload=upload):
        if image.error:
            raise ImageError(f"{source.samples[image.index].name}: {image.error}")
        yield image


def parts(source: Source) -> Iterator[range]:
    """Positions in the source, PART at a time."""
    count = len(source.samples)
    return (range(at, min(count, at + PART)) for at in range(0, count, PART))
