"""Why a file is not decoded, in plain words: what it is by its first bytes, and what to do."""

import importlib
import io
import re
import struct

from PIL import TiffImagePlugin

from resnet_infer.errors import ImageError
from resnet_infer.spec.image_formats import accepted, format_of, is_read, plugin_of

_CUT = re.compile(r"incomplete or truncated|is truncated|truncated file|unexpected end|ends? (?:of file|early)", re.I)
_WHERE = re.compile(r"^(?:\w+, )?\S*\.(?:cpp|cu|cc|h):\d+, ")
"""What a C++ error begins with: its function, and where that stood when it was built."""


def words(error: Exception) -> str:
    """What a decoder says is wrong, without function and source path."""
    said = " ".join(str(error).split("]", 1)[-1].split()).strip(" :")
    if _CUT.search(said):
        return "the file ends before the image does"
    return _WHERE.sub("", said)[:120] or type(error).__name__


def needs_plugin(name: str) -> None:
    """Load what adds the format of this name to Pillow; raises ImageError where that is not installed."""
    package = plugin_of(name)
    if not package:
        return
    try:
        if package == "pillow-heif":
            importlib.import_module("pillow_heif").register_heif_opener()
        else:
            importlib.import_module("pillow_jxl")
    except ImportError as error:
        raise ImageError(f"{name}: pip install 'resnet-infer[formats]'") from error


def unread(data: bytes) -> str:
    """Why Pillow finds no image of a format that is read in these bytes."""
    name = format_of(data)
    if not name:
        return f"not an image of a known format; {accepted()} are read"
    if not is_read(name):
        return f"{name} is not read; {accepted()} are"
    variant = _jpeg_variant(data) if name == "JPEG" else _tiff_variant(data) if name == "TIFF" else ""
    return variant or f"a {name} file that is damaged or truncated, or of a variant that is not read"


def _jpeg_variant(data: bytes) -> str:
    """Of a precision other than 8 bits: the start-of-frame segment, ITU-T T.81 B.2.2."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits = data[at + 4]
            return f"{bits}-bit JPEG is not read; save it with 8 bits" if bits != 8 else ""
        at += 2 + length
    return ""


def _tiff_variant(data: bytes) -> str:
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" else 8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        bits, photometric = directory.get(258, (1,)), directory.get(262, 0)
        kind = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(directory.get(339, (1,))[0], "untyped")
    except Exception:  # then it is damaged, which is said
        return ""
    if 256 not in directory or 257 not in directory:
        return ""
    bits_said = "+".join(map(str, bits))
    return (
        f"TIFF with {kind} samples of {bits_said} bits and photometric interpretation {photometric} is not read; "
        "save it as RGB with 8 bits"
    )
