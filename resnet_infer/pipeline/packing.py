"""A chunk of images as one block of bytes: what a worker sends, and what travels to the device in one copy.

What is in the block depends on what is left to the device: regions of resized images, decoded images, or JPEG files.

Shapes: B images, C is 3, H and W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from resnet_infer.data.source import Pixels, content_hash
from resnet_infer.errors import DataError, ImageError, UsageError
from resnet_infer.pipeline.decode import decode_jpegs, decode_noting, jpeg_header
from resnet_infer.pipeline.render import check_pixels, distinct_tiles, layouts, regions, render
from resnet_infer.pipeline.transfer import Upload
from resnet_infer.spec.protocols import Protocol, Size

Offload = Literal["nothing", "rendering", "decoding"]
"""What is left to the device: nothing; resizing and cropping; decoding of JPEG as well."""
Form = Literal["regions", "image", "jpeg"]
TOGETHER = 2**26
"""Pixels of images that are rendered in one go at most; a larger image goes alone. Resizing on a GPU is in floats."""


def check_rendered(protocols: Sequence[Protocol], offload: Offload) -> None:
    """Raise UsageError if the device is to render what it cannot."""
    if offload != "nothing" and any(protocol.interpolation == "lanczos" for protocol in protocols):
        raise UsageError(
            "lanczos resizing is done on the CPU alone; leave out --render device and --decode device, or give "
            "--interpolation bicubic, which is another function"
        )


class How(NamedTuple):
    """What is made of every image of a pass."""

    protocols: tuple[Protocol, ...]
    offload: Offload = "nothing"
    hashed: bool = False
    """Whether a hash of its bytes is taken, too."""
    strict: bool = False
    """Whether an image that the decoder warns of is unreadable."""


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
class Group:
    """Images of a chunk whose tiles lie alike: each tile of all of them is one tensor."""

    numbers: Sequence[int]
    """Positions in the chunk."""
    indices: Sequence[int]
    """Positions in the source."""
    size: Size
    """(height, width) in pixels of the first; the others have the same views of tiles of the same size."""
    tiles: tuple[Tensor, ...]
    """uint8, (B, height, width, 3), in the order of `distinct_tiles`; on the device that the block was sent to."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What a worker says of one image whose bytes lie in the block."""

    index: int
    size: Size = (0, 0)
    form: Form = "image"
    length: int = 0
    """Bytes in the block."""
    start: int = 0
    """Of its first byte there."""
    error: str = ""
    content: str = ""
    """`content_hash` of the image's bytes, where it was asked for."""
    warning: str = ""
    """What the decoder found wrong with an image that it decoded all the same; a GPU's says nothing."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image as a worker leaves it: a record and its parts, each uint8."""

    record: ImageRecord
    parts: Sequence[Tensor] = ()


def prepare(index: int, read: Callable[[], bytes | Pixels], how: How) -> Prepared:
    """Do a worker's share of the work on one image; with no protocols, decode it to see whether that can be done."""
    protocols, offload = how.protocols, how.offload
    content = ""
    try:
        data = read()
        if how.hashed:
            content = content_hash(data)
        if offload == "decoding" and isinstance(data, bytes) and protocols and (size := jpeg_header(data)):
            check_pixels(distinct_tiles(protocols, *size), size)
            part = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return Prepared(ImageRecord(index, size, "jpeg", len(data), content=content), (part,))
        x_CHW, warning = decode_noting(data)
        if warning and how.strict:
            raise ImageError(f"damaged ({warning})")
        height, width = x_CHW.shape[1:]
        parts = [x_CHW.permute(1, 2, 0)] if protocols else []
        form: Form = "image"
        if offload == "nothing":
            form, parts = "regions", render(x_CHW, regions(distinct_tiles(protocols, height, width)))
        else:
            check_pixels(distinct_tiles(protocols, height, width), (height, width))
    except OSError as error:
        return Prepared(ImageRecord(index, error=error.strerror or str(error)))
    except DataError as error:
        return Prepared(ImageRecord(index, error=str(error)))
    length = sum(part.numel() for part in parts)
    return Prepared(ImageRecord(index, (height, width), form, length, content=content, warning=warning), parts)


def weight(record: ImageRecord, protocols: tuple[Protocol, ...]) -> int:
    """Bytes that an image's largest form takes: as it travels, decoded, or rendered."""
    if not record.length or record.form == "regions":
        return record.length
    return max(record.length, 3 * record.size[0] * record.size[1], layouts(protocols)(*record.size).length)


def pack(images: Sequence[Prepared], allocate: Callable[[int], Tensor]) -> tuple[Tensor, list[ImageRecord]]:
    """All parts in one block of `allocate(bytes)`: every block sent costs a file descriptor.

    Images of one size lie side by side, so that their tiles can be cut at once; the records keep the images' order.
    """
    block = allocate(sum(image.record.length for image in images))
    records = [image.record for image in images]
    offset = 0
    for number in sorted(range(len(images)), key=lambda number: records[number].size):
        records[number] = replace(records[number], start=offset)
        for part in images[number].parts:  # straight from the resized image into the block: the only copy on this side
            block[offset : offset + part.numel()].view(part.shape).copy_(part)
            offset += part.numel()
    return block, records


@dataclass(frozen=True, slots=True)
class Chunk:
    """The images of a block on the device."""

    records: Sequence[ImageRecord]
    groups: Sequence[Group]
    errors: Mapping[int, str]
    """Why there is no image, by position in the chunk."""

    def images(self) -> Iterator[Rendered]:
        """One by one, in order."""
        found = {number: (group, place) for group in self.groups for place, number in enumerate(group.numbers)}
        for number, record in enumerate(self.records):
            tiles: tuple[Tensor, ...] = ()
            if number in found:
                group, place = found[number]
                tiles = tuple(tile_BHWC[place] for tile_BHWC in group.tiles)
            yield Rendered(index=record.index, size=record.size, tiles=tiles, error=self.errors.get(number, ""))


def unpack(
    parts: Sequence[tuple[Tensor, Sequence[ImageRecord]]], protocols: tuple[Protocol, ...], upload: Upload
) -> Chunk:
    """The images' tiles on the device; `upload` takes each part's block there.

    Images of one size are rendered together, and JPEG files are decoded in one call, both on a stream beside the
    device's current one, which waits for them.
    """
    records = [record for _, some in parts for record in some]
    errors = {number: record.error for number, record in enumerate(records) if record.error}
    groups: list[Group] = []
    rendered: dict[int, Tensor] = {}
    files: dict[int, Tensor] = {}
    number = 0
    with ExitStack() as stack:
        hand_over = None
        if any(record.length and record.form != "regions" for record in records):
            hand_over = stack.enter_context(upload.aside())
        for block, some in parts:
            sent = upload(block) if any(record.length and record.form != "jpeg" for record in some) else block
            groups += _cut_regions(sent, some, number, protocols)
            for record in some:
                span = slice(record.start, record.start + record.length)
                if record.length and record.form == "jpeg":
                    files[number] = block[span]
                elif record.length and record.form == "image":
                    rendered[number] = sent[span].view(*record.size, 3).permute(2, 0, 1)
                number += 1
        if hand_over:
            for number, found in zip(files, decode_jpegs(list(files.values()), upload.device), strict=True):
                if isinstance(found, str):
                    errors[number] = found
                else:
                    rendered[number] = found
            groups += _render_by_size(rendered, records, protocols, errors, hand_over)
    return Chunk(records, groups, errors)


def _render_by_size(
    images: dict[int, Tensor],
    records: Sequence[ImageRecord],
    protocols: tuple[Protocol, ...],
    errors: dict[int, str],
    hand_over: Callable[[Sequence[Tensor]], None],
) -> Iterator[Group]:
    """The tiles of decoded images, those of one size together; notes in `errors` what cannot be rendered."""
    by_size: dict[Size, list[int]] = {}
    for number, x_CHW in images.items():
        by_size.setdefault((x_CHW.shape[1], x_CHW.shape[2]), []).append(number)
    for size, alike in by_size.items():
        room = max(1, TOGETHER // max(size[0] * size[1], layouts(protocols)(*size).length // 3))
        for numbers in (alike[at : at + room] for at in range(0, len(alike), room)):
            x_BHWC = torch.stack([images[number].permute(1, 2, 0) for number in numbers])  # channels stay innermost
            try:
                tiles = render(x_BHWC.permute(0, 3, 1, 2), distinct_tiles(protocols, *size))
            except DataError as error:
                errors.update(dict.fromkeys(numbers, str(error)))
                continue
            hand_over(tiles)
            yield Group(numbers, [records[number].index for number in numbers], size, tuple(tiles))


def _cut_regions(
    sent: Tensor, records: Sequence[ImageRecord], first: int, protocols: tuple[Protocol, ...]
) -> Iterator[Group]:
    """The tiles of images out of their regions, those of neighbours that lie alike together: views, not copies.

    `first` is the number of the first record in the chunk.
    """
    layout_of = layouts(protocols)
    numbers = [number for number, record in enumerate(records) if record.length and record.form == "regions"]
    numbers.sort(key=lambda number: records[number].start)
    for layout, alike in groupby(numbers, lambda number: layout_of(*records[number].size)):
        together = list(alike)
        record = records[together[0]]
        start = sent.storage_offset() + record.start
        yield Group(
            [first + number for number in together],
            [records[number].index for number in together],
            record.size,
            tuple(
                sent.as_strided((len(together), height, width, 3), (layout.length, stride, 3, 1), start + offset)
                for offset, stride, height, width in layout.tiles
            ),
        )
