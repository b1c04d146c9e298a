"""Pixels of every depth, packing and container, against the values that were written and against libvips.

PNG and TIFF are written here byte by byte, so that what is expected does not come from the library that decodes.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.errors import ImageError
from resnet_infer.pipeline.decode import decode

pyvips = pytest.importorskip("pyvips")
RNG = np.random.default_rng(16)


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode(data).permute(1, 2, 0))


def packed(values_HWC: NDArray[np.int64], depth: int) -> bytes:
    """PNG's rows: filter 0, samples big-endian, below 8 bits packed from the left."""
    rows = []
    for row in values_HWC.reshape(len(values_HWC), -1):
        if depth == 16:
            body = row.astype(">u2").tobytes()
        elif depth == 8:
            body = row.astype(np.uint8).tobytes()
        else:
            bits = "".join(format(value, f"0{depth}b") for value in row)
            bits += "0" * (-len(bits) % 8)
            body = int(bits, 2).to_bytes(len(bits) // 8, "big")
        rows.append(b"\0" + body)
    return b"".join(rows)


def png(values_HWC: NDArray[np.int64], depth: int, colour: int, key: tuple[int, ...] | None) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values_HWC.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    keyed = b"" if key is None else chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    data = chunk(b"IDAT", zlib.compress(packed(values_HWC, depth)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + keyed + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(("colour", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_png(colour: int, depth: int, keyed: bool) -> None:
    channels = 3 if colour == 2 else 1
    values = RNG.integers(0, 2**depth, (9, 13, channels))
    key = values[4, 5].copy()
    if depth == 16:  # one with the same high bytes is not transparent
        values[0, 0] = key ^ 1
    data = png(values, depth, colour, tuple(key.tolist()) if keyed else None)
    eight = values >> 8 if depth == 16 else values * 255 // (2**depth - 1)
    expected = np.broadcast_to(eight, (9, 13, 3)).astype(np.uint8).copy()
    if keyed:
        expected[(values == key).all(2)] = 255
    assert (pixels(data) == expected).all()


TYPES = {"u2": (16, 1), "i2": (16, 2), "u4": (32, 1), "i4": (32, 2), "f4": (32, 3), "u1": (8, 1)}


def tiff(values_HWC: NDArray[np.int64], kind: str, order: str, photometric: int, planar: int = 1) -> bytes:
    """Baseline TIFF 6.0 without compression, one strip a plane."""
    height, width, channels = values_HWC.shape
    bits, sample_format = TYPES[kind]
    ordered = values_HWC if planar == 1 else values_HWC.transpose(2, 0, 1)
    body = ordered.astype(order + kind).tobytes()
    strips = channels if planar == 2 else 1
    tags: list[tuple[int, int, list[int]]] = [
        (256, 3, [width]), (257, 3, [height]), (258, 3, [bits] * channels), (259, 3, [1]), (262, 3, [photometric]),
        (273, 4, [8 + len(body) // strips * at for at in range(strips)]), (277, 3, [channels]), (278, 3, [height]),
        (279, 4, [len(body) // strips] * strips), (284, 3, [planar]), (339, 3, [sample_format] * channels),
    ]  # fmt: skip
    start = 8 + len(body)
    extra = start + 2 + 12 * len(tags) + 4
    directory, tail = struct.pack(order + "H", len(tags)), b""
    for tag, code, numbers in tags:
        value = struct.pack(f"{order}{len(numbers)}{'H' if code == 3 else 'I'}", *numbers)
        if len(value) > 4:
            value, tail = struct.pack(order + "I", extra + len(tail)), tail + value
        directory += struct.pack(order + "HHI", tag, code, len(numbers)) + value.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HI", 42, start) + body + directory + b"\0" * 4 + tail


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_grey_tiff(kind: str, order: str, photometric: int) -> None:
    bits = TYPES[kind][0]
    values = RNG.integers(0, 2**bits, (7, 11, 1))
    shown = values if photometric else 2**bits - 1 - values  # 0 is WhiteIsZero
    expected = np.broadcast_to(shown >> (bits - 8), (7, 11, 3))
    if (kind, order, photometric) == ("u2", ">", 0):  # Pillow has no reader for it
        with pytest.raises(ImageError, match="16 bits and photometric interpretation 0 is not read"):
            decode(tiff(values, kind, order, photometric))
        return
    assert (pixels(tiff(values, kind, order, photometric)) == expected).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "planar"), [("u1", 1), ("u1", 2), ("u2", 1)])
def test_colour_tiff(kind: str, order: str, planar: int) -> None:
    bits = TYPES[kind][0]
    values = RNG.integers(0, 2**bits, (7, 11, 3))
    assert (pixels(tiff(values, kind, order, 2, planar)) == values >> (bits - 8)).all()


@pytest.mark.parametrize(
    ("kind", "channels", "planar", "reason"),
    [
        ("i4", 1, 1, "no agreed range"),
        ("u4", 1, 1, "no agreed range|is not read"),
        ("i2", 1, 1, "no agreed range"),
        ("f4", 1, 1, "no agreed range"),
        ("u2", 3, 2, "separate planes is not read"),
    ],
)
def test_tiff_without_an_agreed_meaning_is_refused_by_name(kind: str, channels: int, planar: int, reason: str) -> None:
    values = RNG.integers(0, 100, (7, 11, channels))
    with pytest.raises(ImageError, match=reason):
        decode(tiff(values, kind, "<", 1 if channels == 1 else 2, planar))


def written(mode: str, form: str, **options: object) -> bytes:
    smooth = np.linspace(0, 255, 24 * 16 * 4).reshape(16, 24, 4).astype(np.uint8)
    image = Image.fromarray(smooth[..., :3] if mode in ("RGB", "L", "P", "CMYK", "1") else smooth, None).convert(mode)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


CELLS = [
    *(("PNG", mode, {}, 0) for mode in ("1", "L", "P", "RGB")),
    *(("PNG", mode, {}, 1) for mode in ("LA", "RGBA")),
    *(("TIFF", mode, {"compression": how}, 0) for mode in ("L", "RGB") for how in (None, "tiff_lzw", "tiff_deflate")),
    ("WEBP", "RGB", {"lossless": True}, 0), ("WEBP", "RGBA", {"lossless": True, "exact": True}, 1),
    ("WEBP", "RGB", {"quality": 80}, 1), ("GIF", "P", {}, 0),
    *(("JPEG", "RGB", {"quality": 90, "subsampling": how, "progressive": way}, 2)
      for how in (0, 1, 2) for way in (False, True)),
    ("JPEG", "L", {"quality": 90}, 1),
]  # fmt: skip
"""Format, mode, options, and by how many levels two right decoders may differ: rounding of alpha and of the DCT."""


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(map(str, cell[:3])))
def test_as_libvips_decodes(cell: tuple[str, str, dict[str, object], int]) -> None:
    form, mode, options, levels = cell
    data = written(mode, form, **options)
    image = pyvips.Image.new_from_buffer(data, "")
    if image.hasalpha():
        image = image.flatten(background=255)
    expected = image.colourspace("srgb").cast("uchar").numpy()
    expected = np.broadcast_to(expected.reshape(*expected.shape[:2], -1), (*expected.shape[:2], 3))
    assert np.abs(pixels(data).astype(int) - expected).max() <= levels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_as_libvips_turns_them(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = written("RGB", "JPEG", quality=95, subsampling=0, exif=exif)
    assert np.abs(pixels(data).astype(int) - pyvips.Image.new_from_buffer(data, "").autorot().numpy()).max() <= 2


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_damaged_exif_beside_good_pixels(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    good = written("RGB", form, **options)
    bad = written("RGB", form, exif=b"Exif\0\0II*\0\xff\xff\xff\xff damaged", **options)
    assert (pixels(bad) == pixels(good)).all()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (written("RGB", "JPEG")[:-200], "the file ends before the image does"),
        (b"%PDF-1.7 ...", "PDF is not read; JPEG, PNG"),
        (b"not an image at all", "not an image of a known format"),
    ],
)
def test_reasons_have_no_path_of_a_build(data: bytes, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert said in str(caught.value)
    assert ".cpp" not in str(caught.value)


@pytest.mark.parametrize(("package", "form"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_formats_of_plugins(package: str, form: str) -> None:
    plugin = pytest.importorskip(package)
    if form == "HEIF":
        plugin.register_heif_opener()
    values = np.full((16, 24, 3), (200, 90, 30), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, form, quality=95)
    assert np.abs(pixels(file.getvalue()).astype(int) - values).max() <= 4
