"""A chunk of images as one block of bytes: what a worker sends, and what travels to the device in one copy.

What is in the block depends on what is left to the device: regions of resized images, decoded images, or JPEG files.

Shapes: C is 3, H and W pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from resnet_infer.data.decode import decode, decode_jpegs, jpeg_header
from resnet_infer.data.render import cut, distinct_tiles, regions, render
from resnet_infer.data.sources import Pixels
from resnet_infer.data.transfer import Upload
from resnet_infer.errors import DataError
from resnet_infer.protocols import Protocol, Size

Offload = Literal["nothing", "rendering", "decoding"]
"""What is left to the device: nothing; resizing and cropping; decoding of JPEG as well."""
Form = Literal["regions", "image", "jpeg"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One image's tiles, or why there are none."""

    index: int
    """Position in the source."""
    size: Size = (0, 0)
    """(height, width) in pixels of the decoded image."""
    tiles: tuple[Tensor, ...] = ()
    """uint8, (height, width, 3), in the order of `distinct_tiles`; on the device that the block was sent to."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What a worker says of one image whose bytes lie in the block."""

    index: int
    size: Size = (0, 0)
    form: Form = "image"
    length: int = 0
    """Bytes in the block."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image as a worker leaves it: a record and its parts, each uint8."""

    record: Record
    parts: Sequence[Tensor] = ()


def prepare(
    index: int, read: Callable[[], bytes | Pixels], protocols: tuple[Protocol, ...], offload: Offload
) -> Prepared:
    """Do a worker's share of the work on one image; with no protocols, decode it to see whether that can be done."""
    try:
        data = read()
        if offload == "decoding" and isinstance(data, bytes) and protocols and (size := jpeg_header(data)):
            part = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return Prepared(Record(index, size, "jpeg", len(data)), (part,))
        x_CHW = decode(data)
        height, width = x_CHW.shape[1:]
        parts = [x_CHW.permute(1, 2, 0)] if protocols else []
        form: Form = "image"
        if offload == "nothing":
            form, parts = "regions", render(x_CHW, regions(distinct_tiles(protocols, height, width)))
    except OSError as error:
        return Prepared(Record(index, error=error.strerror or str(error)))
    except DataError as error:
        return Prepared(Record(index, error=str(error)))
    return Prepared(Record(index, (height, width), form, sum(part.numel() for part in parts)), parts)


def pack(images: Sequence[Prepared], allocate: Callable[[int], Tensor]) -> tuple[Tensor, list[Record]]:
    """All parts in one block of `allocate(bytes)`: every block sent costs a file descriptor."""
    block = allocate(sum(image.record.length for image in images))
    offset = 0
    for image in images:
        for part in image.parts:  # straight from the resized image into the block: the only copy on this side
            block[offset : offset + part.numel()].view(part.shape).copy_(part)
            offset += part.numel()
    return block, [image.record for image in images]


def unpack(
    parts: Sequence[tuple[Tensor, Sequence[Record]]], protocols: tuple[Protocol, ...], upload: Upload
) -> Iterator[Rendered]:
    """The images' tiles on the device, in order; `upload` takes each part's block there.

    Images of one size are rendered together, and JPEG files are decoded in one call, both on a stream beside the
    device's current one, which waits for them.
    """
    records = [record for _, some in parts for record in some]
    held = [each for block, some in parts for each in _sent(block, some, upload)]
    errors = {number: record.error for number, record in enumerate(records) if record.error}
    of_form: dict[Form, list[int]] = {"regions": [], "image": [], "jpeg": []}
    for number, record in enumerate(records):
        if record.length:
            of_form[record.form].append(number)
    tiles: dict[int, tuple[Tensor, ...]] = {}
    if of_form["image"] or of_form["jpeg"]:
        with upload.aside() as hand_over:
            images = {n: held[n].view(*records[n].size, 3).permute(2, 0, 1) for n in of_form["image"]}
            decoded = decode_jpegs([held[n] for n in of_form["jpeg"]], upload.device)
            for number, found in zip(of_form["jpeg"], decoded, strict=True):
                if isinstance(found, str):
                    errors[number] = found
                else:
                    images[number] = found
            tiles = _render_by_size(images, protocols, errors, hand_over)
    for number in of_form["regions"]:
        tiles[number] = tuple(_cut_regions(held[number], records[number].size, protocols))
    for number, record in enumerate(records):
        error = errors.get(number, "")
        yield Rendered(index=record.index, size=record.size, tiles=tiles.get(number, ()), error=error)


def _sent(block: Tensor, records: Sequence[Record], upload: Upload) -> Iterator[Tensor]:
    """Every image's bytes, on the device; JPEG files stay where they are, since their decoder reads them there."""
    ends = list(accumulate(record.length for record in records))
    travels = any(record.length and record.form != "jpeg" for record in records)
    sent = upload(block) if travels else block
    for record, end in zip(records, ends, strict=True):
        yield (block if record.form == "jpeg" else sent)[end - record.length : end]


def _render_by_size(
    images: dict[int, Tensor],
    protocols: tuple[Protocol, ...],
    errors: dict[int, str],
    hand_over: Callable[[Sequence[Tensor]], None],
) -> dict[int, tuple[Tensor, ...]]:
    """The tiles of decoded images, those of one size together; notes in `errors` what cannot be rendered."""
    by_size: dict[Size, list[int]] = {}
    for number, x_CHW in images.items():
        by_size.setdefault((x_CHW.shape[1], x_CHW.shape[2]), []).append(number)
    rendered: dict[int, tuple[Tensor, ...]] = {}
    for size, numbers in by_size.items():
        x_BHWC = torch.stack([images[number].permute(1, 2, 0) for number in numbers])  # channels stay innermost
        try:
            tiles = render(x_BHWC.permute(0, 3, 1, 2), distinct_tiles(protocols, *size))
        except DataError as error:
            errors.update(dict.fromkeys(numbers, str(error)))
            continue
        hand_over(tiles)
        for place, number in enumerate(numbers):
            rendered[number] = tuple(tile_BHWC[place] for tile_BHWC in tiles)
    return rendered


def _cut_regions(pixels: Tensor, size: Size, protocols: tuple[Protocol, ...]) -> list[Tensor]:
    """The tiles of one image out of its regions, which lie one after another."""
    tiles = distinct_tiles(protocols, *size)
    found = []
    offset = 0
    for region in regions(tiles):
        count = 3 * region.height * region.width
        found.append((region, pixels[offset : offset + count].view(region.height, region.width, 3)))
        offset += count
    return cut(found, tiles)
