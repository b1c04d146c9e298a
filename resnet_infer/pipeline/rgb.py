"""A Pillow image as upright 8-bit RGB, or an error by name where its pixels have no agreed meaning."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from resnet_infer.errors import ImageError

_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284
"""Tags of TIFF 6.0."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """Tag 274 of EXIF or XMP, 1..8; 1 where there is none, or none that can be read."""
    for _ in range(2):  # after a failure Pillow keeps what it had found, a TIFF file's own tag for one
        try:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
            return value if isinstance(value, int) and 1 <= value <= 8 else 1
        except (OSError, MemoryError):  # of the pixels, which Pillow loads on the way to a PNG's metadata
            raise
        except Exception:
            continue
    return 1


def upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """An image, best not yet loaded, as (H, W, 3) pixels: upright, alpha over white, 16-bit values by their high byte.

    Raises ImageError where pixel values have no agreed range or colours no agreed conversion, and whatever Pillow does
    of a damaged file.
    """
    rawmode = _rawmode(image)
    _check_tiff(image)
    low = _low_bytes(image) if rawmode == "RGB;16B" and _tile_of(image).codec_name == "zip" else None
    orientation_of(image)  # read once beside its errors, before Pillow does so while it loads
    image.load()
    rgb = _rgb(image, rawmode, low)
    turn = _TURNS.get(orientation_of(image))  # a TIFF file is upright once it is loaded
    return np.array(rgb if turn is None else rgb.transpose(turn))


def _rgb(image: Image.Image, rawmode: str, low: NDArray[np.uint8] | None) -> Image.Image:
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range; save the image with 8 bits a channel")
    if image.mode == "LAB":
        raise ImageError("CIE Lab colours are not read; save the image as RGB")
    key: Any = image.info.get("transparency")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = Image.fromarray(_high_byte(image))
        if isinstance(key, int):
            return _without(grey, np.asarray(image).astype(np.int64) == key)
        return grey.convert("RGB")
    if image.mode in ("1", "L") and isinstance(key, int):
        levels = {"1": 1, "L;2": 3, "L;4": 15}.get(rawmode, 255)
        if levels == 1:
            key = min(key, 1)  # Pillow has made 255 of 1
        return _without(image.convert("L"), np.asarray(image.convert("L")) == key * (255 // levels))
    if low is not None and isinstance(key, tuple):
        values = np.asarray(image).astype(np.int64) << 8 | low
        return _without(image, (values == key).all(2))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or key is not None:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (16,))[0]
    # Pillow gives PNG (before release 12) and PGM in 32 bits though they have 16.
    if (image.mode == "I" and image.format not in ("PNG", "PPM")) or bits > 16:
        raise ImageError("32-bit or signed pixel values have no agreed range; save the image with 8 bits a channel")
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ImageError("pixel values are outside 0..65535; save the image with 8 bits a channel")
    high: NDArray[np.uint8] = (values >> (bits - 8)).astype(np.uint8)
    return np.bitwise_not(high) if tags.get(_PHOTOMETRIC) == 0 else high


def _without(image: Image.Image, transparent: NDArray[np.bool_]) -> Image.Image:
    """The image as RGB, white where it is transparent."""
    pixels = np.array(image.convert("RGB"))
    pixels[transparent] = 255
    return Image.fromarray(pixels)


def _check_tiff(image: Image.Image) -> None:
    tags = getattr(image, "tag_v2", None)
    if tags is None or not getattr(image, "tile", None):
        return
    xmp = image.info.get("xmp")
    if xmp is not None and not isinstance(xmp, bytes):  # of another type than it must have
        del image.info["xmp"]
    bits = tags.get(_BITS, (1,))
    if tags.get(_PLANAR) == 2 and len(bits) > 1 and max(bits) > 8:
        raise ImageError(
            "TIFF with 16 bits a channel in separate planes is not read; save it interleaved or with 8 bits"
        )


def _tile_of(image: Image.Image) -> Any:
    return image.tile[0]  # type: ignore[attr-defined]


def _rawmode(image: Image.Image) -> str:
    """How the file packs its pixels, in Pillow's words; "" of an image that is loaded already or has more than one."""
    tile = getattr(image, "tile", None)
    if not tile:
        return ""
    args = tile[0][3]
    return args if isinstance(args, str) else args[0] if isinstance(args, tuple) and args and args[0] else ""


def _low_bytes(image: Image.Image) -> NDArray[np.uint8] | None:
    """The low bytes of a 16-bit RGB PNG with a transparent colour, which is compared with whole values."""
    if not isinstance(image.info.get("transparency"), tuple):
        return None
    file = image.fp  # type: ignore[attr-defined]
    at = file.tell()
    file.seek(0)
    with Image.open(file, formats=("PNG",)) as again:
        again.tile = [again.tile[0]._replace(args="RGB;16L")]
        low = np.array(again)
    file.seek(at)
    return low
