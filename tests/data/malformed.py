"""A generator of malformed images and archives, each with the name it should be known by."""

import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

Entry = tuple[str, bytes]
FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    "png": ("PNG", {}),
    "palette.png": ("PNG", {"mode": "P"}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "gray.jpg": ("JPEG", {"mode": "L"}),
    "cmyk.jpg": ("JPEG", {"mode": "CMYK"}),
    "webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {"mode": "P"}),
    "bmp": ("BMP", {}),
    "tif": ("TIFF", {"compression": "tiff_lzw"}),
    "jp2": ("JPEG2000", {}),
    "ppm": ("PPM", {}),
    "tga": ("TGA", {"compression": "tga_rle"}),
    "avif": ("AVIF", {}),
}


def picture(seed: int = 0) -> Image.Image:
    """A small noisy picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(format: str, mode: str = "RGB", **options: object) -> bytes:
    """The picture in a format."""
    file = io.BytesIO()
    picture().convert(mode).save(file, format, **options)
    return file.getvalue()


def png_claiming(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of a stated size with other data in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose header states another size than its data has."""
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def broken_images() -> Iterator[Entry]:
    """Images that no decoder may accept: empty, cut short at every length, of impossible size, or no image at all."""
    jpeg = encoded("JPEG")
    yield from ((f"cut/{length:05}.jpg", jpeg[:length]) for length in range(len(jpeg) - 2))
    for name, (format, options) in FORMATS.items():
        data = encoded(format, **options)  # type: ignore[arg-type]
        yield from ((f"half/{length:05}.{name}", data[:length]) for length in range(0, len(data) // 3, 7))
    for width, height in ((65_500, 65_500), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (0, 5), (5, 0), (20_000, 20_000)):
        yield f"size/{width}x{height}.png", png_claiming(width, height, b"\0" * 1000)
    for width, height in ((65_500, 65_500), (65_535, 65_535), (65_500, 3000), (0, 10)):
        yield f"size/{width}x{height}.jpg", jpeg_claiming(width, height)
    yield "bomb/header.png", png_claiming(11_000, 12_000, b"\0" * 2**24)  # 16 MB of zeros, and 396 MB claimed
    for name, data in (
        ("text.jpg", b"no image but text\n" * 9),
        ("page.png", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("script.gif", b"#!/bin/sh\nexit 1\n"),
        ("postscript.tif", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
        ("vector.webp", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("archive.png", zipped([("a.png", encoded("PNG"))])),
        ("zeros.jpg", bytes(5000)),
        ("ones.png", b"\xff" * 5000),
        ("magic.jpg", b"\xff\xd8\xff"),
        ("magic.png", b"\x89PNG\r\n\x1a\n"),
        ("magic.webp", b"RIFF\xff\xff\xff\xffWEBPVP8 "),
        ("magic.gif", b"GIF89a\xff\xff\xff\xff"),
        ("empty.bmp", b""),
    ):
        yield f"kind/{name}", data


def damaged_images(count: int, seed: int = 2015) -> Iterator[Entry]:
    """Images with bytes changed, left out, doubled or swapped: a decoder may take them or not, but may not fall."""
    rng = random.Random(seed)
    wholes = [(name, encoded(format, **options)) for name, (format, options) in FORMATS.items()]  # type: ignore[arg-type]
    for number in range(count):
        name, data = rng.choice(wholes)
        yield f"damaged/{number:05}.{name}", damage(data, rng)


def damage(data: bytes, rng: random.Random) -> bytes:
    """One or several accidents."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        at = rng.randrange(len(changed)) if changed else 0
        length = rng.randint(1, 16)
        kind = rng.randrange(5)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            changed[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + 64 * length]
        else:
            changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)))
    return bytes(changed)


def zipped(members: list[Entry], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: list[Entry], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def damaged_archives(count: int, seed: int = 2015) -> Iterator[Entry]:
    """Archives of three images, plain, nested and as shards, with accidents."""
    rng = random.Random(seed)
    members = [(f"{folder}/{'long' * 40 * (folder == 'b')}{n}.png", encoded("PNG")) for n, folder in enumerate("aab")]
    shard = [part for n in range(3) for part in ((f"{n}.png", encoded("PNG")), (f"{n}.cls", b"%d" % n))]
    makers: list[Callable[[], Entry]] = [
        lambda: ("deflated.zip", zipped(members)),
        lambda: ("stored.zip", zipped(members, zipfile.ZIP_STORED)),
        lambda: ("bzip2.zip", zipped(members, zipfile.ZIP_BZIP2)),
        lambda: ("lzma.zip", zipped(members, zipfile.ZIP_LZMA)),
        lambda: ("nested.zip", zipped([("x.zip", zipped(members)), ("y.tar", tarred(members))])),
        lambda: ("pax.tar", tarred(members)),
        lambda: ("gnu.tar", tarred(members, tarfile.GNU_FORMAT)),
        lambda: ("nested.tar", tarred([("x.zip", zipped(members)), ("y.tar", tarred(members))])),
        lambda: ("shard.tar", tarred(shard)),
    ]
    wholes = [make() for make in makers]
    for number in range(count):
        name, data = wholes[number % len(wholes)]
        yield f"{number:05}.{name}", damage(data, rng) if number % 3 else data[: rng.randrange(len(data))]
