"""Decoding: Pillow's pixels upright in RGB, and one kind of error for whatever is no image."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from resnet_infer.errors import ImageError
from resnet_infer.pipeline.decode import decode

Picture = Callable[..., NDArray[np.uint8]]
Encode = Callable[..., bytes]


def decoded(data: bytes | NDArray[np.uint8]) -> NDArray[np.int64]:
    """(height, width, 3)."""
    x_CHW = decode(data)
    assert x_CHW.dtype == torch.uint8
    assert x_CHW.permute(1, 2, 0).is_contiguous()  # channels innermost in memory
    return x_CHW.permute(1, 2, 0).numpy().astype(np.int64)


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG file by hand: header, further chunks, rows each led by a filter byte of 0."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + b"".join((header, *more, png_chunk(b"IDAT", zlib.compress(rows))))
        + png_chunk(b"IEND", b"")
    )


# JPEG


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (48, 40), (33, 61)])
def test_an_rgb_jpeg_is_pillows_to_the_bit(
    subsampling: str, progressive: bool, height: int, width: int, picture: Picture, encode: Encode
) -> None:
    data = encode(picture(height, width), "JPEG", subsampling=subsampling, progressive=progressive, quality=80)
    assert (decoded(data) == by_pillow(data)).all()


def test_an_rgb_jpeg_without_colour_transform_is_pillows_to_the_bit(picture: Picture, encode: Encode) -> None:
    data = encode(picture(40, 30), "JPEG", keep_rgb=True)
    assert (decoded(data) == by_pillow(data)).all()


def test_grey_and_cmyk_jpegs_become_rgb(picture: Picture, encode: Encode) -> None:
    image = Image.fromarray(picture(40, 30))
    grey = encode(image.convert("L"), "JPEG")
    level = np.asarray(Image.open(io.BytesIO(grey)))
    assert (decoded(grey) == level[:, :, None]).all()

    cmyk = encode(image.convert("CMYK"), "JPEG", quality=95)
    c, m, y, k = np.moveaxis(np.asarray(Image.open(io.BytesIO(cmyk))).astype(float), 2, 0) / 255
    expected = 255 * np.stack([(1 - c) * (1 - k), (1 - m) * (1 - k), (1 - y) * (1 - k)], 2)
    assert np.abs(decoded(cmyk) - expected).max() <= 1.01


def test_a_jpeg_with_a_preview_picture_gives_the_first(picture: Picture, encode: Encode) -> None:
    second = Image.fromarray(picture(20, 20, seed=1))
    data = encode(picture(40, 30), "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert (decoded(data) == by_pillow(data)).all()


# orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone_as_pillow_does(
    format: str, orientation: int, picture: Picture, encode: Encode
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(24, 35), format, exif=exif)
    image = Image.open(io.BytesIO(data))
    assert image.getexif()[0x0112] == orientation
    assert (decoded(data) == np.asarray(ImageOps.exif_transpose(image).convert("RGB"))).all()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(orientation: int, picture: Picture, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (decoded(encode(picture(24, 35), "PNG", exif=exif)) == picture(24, 35)).all()


# colour


def test_palettes_become_rgb(picture: Picture, encode: Encode) -> None:
    palette = Image.fromarray(picture(40, 30)).quantize(16)
    assert (decoded(encode(palette)) == np.asarray(palette.convert("RGB"))).all()


def test_transparency_is_laid_over_white(picture: Picture, encode: Encode) -> None:
    colour, alpha = picture(40, 30), picture(40, 30, seed=1)[:, :, :1]

    def over_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
        return 255 + (colour.astype(float) - 255) * (alpha / 255)

    for format in ("PNG", "WEBP", "TIFF"):
        rgba = encode(np.concatenate([colour, alpha], 2), format, **({"lossless": True} if format == "WEBP" else {}))
        stored = np.asarray(Image.open(io.BytesIO(rgba)).convert("RGBA"))
        assert np.abs(decoded(rgba) - over_white(stored[:, :, :3], stored[:, :, 3:])).max() <= 1
    grey = np.concatenate([colour[:, :, :1], alpha], 2)
    assert np.abs(decoded(encode(Image.fromarray(grey))) - over_white(colour[:, :, :1], alpha)).max() <= 1

    palette = Image.fromarray(colour).quantize(4)
    alphas = np.array([0, 100, 255, 200], np.uint8)
    data = encode(palette, transparency=alphas.tobytes())
    expected = over_white(np.asarray(palette.convert("RGB")), alphas[np.asarray(palette)][:, :, None])
    assert np.abs(decoded(data) - expected).max() <= 1


def test_a_transparent_colour_becomes_white() -> None:
    rows = b"\0" + bytes([10, 20, 30, 40, 50, 60])
    data = png(2, 1, 8, 2, rows, png_chunk(b"tRNS", struct.pack(">HHH", 10, 20, 30)))
    assert decoded(data).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_one_bit_and_sixteen_bit_values_keep_their_high_byte(picture: Picture, encode: Encode) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        assert (decoded(encode(Image.fromarray(values[:, :, 0]), format)) == values[:, :, :1] >> 8).all()
    rgb = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    assert (decoded(png(7, 9, 16, 2, rgb)) == values >> 8).all()
    bits = picture(40, 30)[:, :, 0] > 127
    assert (decoded(encode(Image.fromarray(bits))) == 255 * bits[:, :, None]).all()


def test_pixels_without_an_agreed_range_are_refused(encode: Encode) -> None:
    for values in (np.ones((4, 4), np.float32), np.full((4, 4), 70000, np.int32), np.full((4, 4), -1, np.int32)):
        with pytest.raises(ImageError, match="8 bits a channel"):
            decode(encode(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(("format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})])
def test_of_an_animation_the_first_frame_is_taken(format: str, options: dict[str, bool], encode: Encode) -> None:
    frames = [Image.new("RGB", (16, 12), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
    assert (decoded(data) == [255, 0, 0]).all()


def test_pixels_are_taken_as_they_are_and_copied(picture: Picture) -> None:
    pixels = picture(6, 5)
    x_CHW = decode(pixels)
    assert (x_CHW.permute(1, 2, 0).numpy() == pixels).all()
    x_CHW.zero_()
    assert pixels.any()


# no images


def prefixes(data: bytes, most: int = 250) -> Iterator[tuple[int, bytes]]:
    """Beginnings of the file, all of the last 40 among them."""
    tail = range(max(0, len(data) - 40), len(data))
    for length in sorted({*range(0, len(data), max(1, len(data) // most)), *tail}):
        yield length, data[:length]


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_cut_short_anywhere_is_an_image_error(format: str, picture: Picture, encode: Encode) -> None:
    data = encode(picture(40, 30), format)
    whole = decoded(data)
    for length, prefix in prefixes(data):
        try:
            pixels = decoded(prefix)
        except ImageError:
            continue
        assert format not in ("JPEG", "WEBP"), length
        assert (pixels == whole).all(), length


def test_a_png_cut_short_is_an_image_error_unless_all_its_pixels_are_there(picture: Picture, encode: Encode) -> None:
    data = encode(picture(40, 30), "PNG")
    after_pixels = data.rindex(b"IEND") - 4
    for length, prefix in prefixes(data):
        try:
            pixels = decoded(prefix)
        except ImageError:
            assert length < len(data)
            continue
        assert length > after_pixels - 16, length
        assert (pixels == picture(40, 30)).all()


@pytest.mark.parametrize("data", [b"", b"text\n", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"\0" * 1000])
def test_what_is_no_image_is_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data)


def test_a_small_file_that_claims_a_huge_picture_is_refused_unseen() -> None:
    for side in (12_000, 60_000):  # beyond our limit, and beyond Pillow's
        bomb = png(side, side, 8, 2, b"\0" * 100)
        with pytest.raises(ImageError, match=r"limit of .* not decoded"):
            decode(bomb)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_no_damaged_bytes_give_another_kind_of_exception(format: str, picture: Picture, encode: Encode) -> None:
    data = encode(picture(20, 16), format)
    place = st.one_of(st.integers(0, min(60, len(data) - 1)), st.integers(0, len(data) - 1))

    @settings(max_examples=300)
    @given(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=6))
    def damaged(changes: list[tuple[int, int]]) -> None:
        bad = bytearray(data)
        for at, value in changes:
            bad[at] = value
        try:
            decode(bytes(bad))
        except ImageError as error:
            assert str(error)  # noqa: PT017 - that nothing is raised is as good

    damaged()
