"""Which image formats are read, by which file suffixes they go, and how a file's first bytes name its format."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ImageFormat:
    """One format that is read."""

    name: str
    pillow: tuple[str, ...]
    """What Pillow calls it and its relatives."""
    suffixes: tuple[str, ...]
    notes: str = ""
    package: str = ""
    """The package that reads it where Pillow alone does not; the extra `formats` installs it."""


FORMATS = (
    ImageFormat(
        "JPEG", ("JPEG", "MPO"), (".jpg", ".jpeg", ".jpe", ".jfif"), "8 bits; of an MPO file the first picture"
    ),
    ImageFormat("PNG", ("PNG",), (".png",), "1 to 16 bits; of APNG the default picture"),
    ImageFormat("WebP", ("WEBP",), (".webp",), "lossy and lossless; the first frame"),
    ImageFormat("GIF", ("GIF",), (".gif",), "the first frame"),
    ImageFormat("BMP", ("BMP", "DIB"), (".bmp", ".dib")),
    ImageFormat("TIFF", ("TIFF",), (".tif", ".tiff"), "unsigned integers of 1 to 16 bits; the first page"),
    ImageFormat("AVIF", ("AVIF",), (".avif",), "the first frame"),
    ImageFormat("PNM", ("PPM",), (".pbm", ".pgm", ".pnm", ".ppm")),
    ImageFormat("TGA", ("TGA",), (".tga",)),
    ImageFormat("JPEG 2000", ("JPEG2000",), (".jp2", ".j2k", ".jpx")),
    ImageFormat("ICO", ("ICO",), (".ico",), "the largest picture"),
    ImageFormat("ICNS", ("ICNS",), (".icns",), "the largest picture"),
    ImageFormat("PCX", ("PCX",), (".pcx",)),
    ImageFormat("QOI", ("QOI",), (".qoi",)),
    ImageFormat("DDS", ("DDS",), (".dds",), "the first surface"),
    ImageFormat("SGI", ("SGI",), (".sgi",)),
    ImageFormat("PSD", ("PSD",), (".psd",), "8 bits; the flattened picture"),
    ImageFormat("HEIC", ("HEIF",), (".heic", ".heif"), "with the extra `formats`", "pillow-heif"),
    ImageFormat("JPEG XL", ("JXL",), (".jxl",), "with the extra `formats`", "pillow-jxl-plugin"),
)
"""Not EPS and WMF, for which Pillow would start another program or the system's own renderer."""

IMAGE_SUFFIXES = frozenset(suffix for format in FORMATS for suffix in format.suffixes)
PILLOW_FORMATS = tuple(name for format in FORMATS if not format.package for name in format.pillow if name != "MPO")
"""MPO comes of JPEG, which looks for it itself."""

_MAGIC = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"BM", "BMP"),
    (rb"(?:II|MM)\0?[*+]", "TIFF"),
    (rb"....ftypavi[fs]|....ftyp(?:mif1|msf1).{0,40}avi[fs]", "AVIF"),
    (rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"P[1-6]\s", "PNM"),
    (rb"\0\0\x01\0.\0", "ICO"),
    (rb"icns", "ICNS"),
    (rb"\x0a[\0\x02\x03\x05]\x01", "PCX"),
    (rb"qoif", "QOI"),
    (rb"DDS ", "DDS"),
    (rb"\x01\xda[\0\x01][\x01\x02]", "SGI"),
    (rb"8BPS", "PSD"),
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "EPS or PostScript"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "WMF or EMF"),
    (rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg", "SVG"),
    (rb"\s*<(?:!DOCTYPE\s+)?html", "HTML"),
    (rb"....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIRS|IIU\0|FOVb", "camera RAW"),
    (rb"....ftypqt  ", "QuickTime video"),
    (rb"....ftyp", "MP4 video"),
    (rb"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (rb"RIFF....AVI ", "AVI video"),
    (rb"\x1f\x8b", "gzip"),
    (rb"PK\x03\x04", "zip"),
    (rb"7z\xbc\xaf\x27\x1c", "7z"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"),
    (rb"#\?R(?:ADIANCE|GBE)", "Radiance HDR"),
    (rb"SIMPLE  =", "FITS"),
    (rb"\x89HDF", "HDF5"),
    (rb"\x93NUMPY", "NumPy array"),
    (rb"PF\s|Pf\s", "PFM"),
    (rb"gimp xcf", "XCF"),
    (rb"AT&TFORM", "DjVu"),
    (rb"II\xbc\x01", "JPEG XR"),
    (rb"version https://git-lfs", "Git LFS pointer, not the image itself,"),
)
_PATTERNS = tuple((re.compile(pattern, re.DOTALL | re.IGNORECASE if b"<" in pattern else re.DOTALL), name)
                  for pattern, name in _MAGIC)  # fmt: skip


def format_of(data: bytes) -> str:
    """The name of the format that a file's first bytes belong to, read or not; "" where they belong to none known."""
    start = data[:1000]
    return next((name for pattern, name in _PATTERNS if pattern.match(start)), "")


def plugin_of(name: str) -> str:
    """The package that reads the format of this name; "" where it takes none or the format is not read."""
    return next((format.package for format in FORMATS if format.name == name), "")


def is_read(name: str) -> bool:
    """Whether a format of this name is read."""
    return any(format.name == name for format in FORMATS)


def accepted() -> str:
    """The names of what is read, for a message."""
    names = [format.name for format in FORMATS]
    return f"{', '.join(names[:-1])} and {names[-1]}"
