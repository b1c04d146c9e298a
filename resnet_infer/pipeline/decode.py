"""Encoded image to uint8 RGB pixels, the same whatever the file: upright, three channels, first frame.

Pillow reads the header and decodes everything but ordinary JPEG, which libjpeg-turbo decodes through torchvision:
the same pixels in half the time.

Shapes: C is 3, H and W pixels.
"""

import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from resnet_infer.console import note
from resnet_infer.data.source import Pixels
from resnet_infer.errors import ImageError
from resnet_infer.pipeline.complaints import LIBJPEG, LIBTIFF, listening
from resnet_infer.pipeline.refusals import needs_plugin, unread, words
from resnet_infer.pipeline.rgb import orientation_of, upright_rgb
from resnet_infer.spec.image_formats import PILLOW_FORMATS, format_of

MAX_PIXELS = 2**27
"""Larger images are refused unseen: a small file can claim a size that fills the memory."""


MAGIC = {"JPEG": ("JPEG",), "PNG": ("PNG",), "WebP": ("WEBP",), "HEIC": ("HEIF",), "JPEG XL": ("JXL",)}
"""Formats known by their first bytes; Pillow would try all others in turn."""

logging.getLogger("PIL").addHandler(logging.NullHandler())  # its remarks on damaged files are in our errors


def decode(image: bytes | Pixels) -> Tensor:
    """Decode an image to x_CHW, uint8, channels innermost in memory.

    EXIF orientation is applied, alpha is laid over white, 16-bit values keep their high byte, CMYK, palette and
    grey become RGB, of an animation the first frame is taken.

    Raises ImageError, naming no file: the caller knows it.
    """
    return decode_noting(image)[0]


def decode_noting(image: bytes | Pixels) -> tuple[Tensor, str]:
    """`decode`, and what the decoder found wrong with an image that it decoded all the same.

    JPEG and compressed TIFF have such warnings: other formats have checksums (PNG), are refused when they are cut (all
    that Pillow decodes), or have nothing to tell damage by (BMP, TIFF and PPM without compression).
    """
    if isinstance(image, np.ndarray):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), ""
    if not image:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning and metadata complaints; the limit is checked below
            return _decode(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(unread(image)) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"claims more than the limit of {MAX_PIXELS / 1e6:.0f} million pixels; not decoded") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise ImageError(f"damaged or truncated ({words(error)})") from error


def _decode(data: bytes) -> tuple[Tensor, str]:
    name = format_of(data)
    needs_plugin(name)
    with Image.open(io.BytesIO(data), formats=MAGIC.get(name, PILLOW_FORMATS)) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{width}x{height} is over the limit of {MAX_PIXELS / 1e6:.0f} million pixels; not decoded"
            )
        if image.format in ("JPEG", "MPO"):
            return _decode_jpeg(data, image)
        if image.format == "TIFF":
            return _decode_tiff(image)
        return torch.from_numpy(upright_rgb(image)).permute(2, 0, 1), ""


def _decode_jpeg(data: bytes, image: Image.Image) -> tuple[Tensor, str]:
    encoded = torch.frombuffer(data, dtype=torch.uint8)
    if image.mode in ("RGB", "L"):
        orientation = orientation_of(image)
        try:
            with listening(LIBJPEG) as warned:
                x_CHW = decode_jpeg(encoded, mode=ImageReadMode.RGB)
            return _upright(x_CHW, orientation), warned[0] if warned else ""
        except RuntimeError as error:
            if "Unsupported" not in str(error):  # lossless grey it does not make RGB of; Pillow reads it
                raise
    with listening(LIBJPEG) as warned, suppress(RuntimeError):  # Pillow's decoder keeps its warnings to itself
        decode_jpeg(encoded, mode=ImageReadMode.UNCHANGED)
    return torch.from_numpy(upright_rgb(image)).permute(2, 0, 1), warned[0] if warned else ""


def _decode_tiff(image: Image.Image) -> tuple[Tensor, str]:
    try:
        with listening(LIBTIFF) as warned:
            pixels = upright_rgb(image)
    except ImageError:
        raise
    except Exception as error:
        if warned:
            raise ImageError(f"damaged or truncated ({warned[0]})") from error
        raise
    return torch.from_numpy(pixels).permute(2, 0, 1), warned[0] if warned else ""


def jpeg_header(data: bytes) -> tuple[int, int] | None:
    """The (height, width) in pixels of a JPEG file that `decode_jpegs` can take: upright, grey or colour; else None."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                plain = image.mode in ("RGB", "L") and orientation_of(image) == 1
                small = image.width * image.height <= MAX_PIXELS
                return (image.height, image.width) if plain and small else None
    except Exception:  # whatever is wrong with it, `decode` finds the words
        return None


def decode_jpegs(files: Sequence[Tensor], device: torch.device) -> list[Tensor | str]:
    """JPEG files (uint8, on the CPU) to x_CHW on the device, in one call; for one that cannot be decoded, why.

    On CUDA that is nvJPEG, whose pixels are not libjpeg-turbo's to the bit (torchvision.io.decode_jpeg). It writes at
    once into memory that was freed on the current stream, whatever kernels are queued there (pytorch/vision#9606), so
    the host waits for that stream first: have one current that is soon done. A file that it refuses is decoded by
    `decode`, and a note says so if it is a good one; the others' pixels do not depend on it.
    """
    if not files:
        return []
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.current_stream(device).synchronize()
    try:
        return list(decode_jpeg(list(files), mode=ImageReadMode.RGB, device=device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if on_gpu:
            torch.cuda.synchronize(device)  # files that it had begun with
        if len(files) > 1:
            half = len(files) // 2
            return decode_jpegs(files[:half], device) + decode_jpegs(files[half:], device)
        image = _alone(files[0], device)
        if on_gpu and not isinstance(image, str):
            _say_once(device, error)
        return [image]


_said: set[torch.device] = set()


def _say_once(device: torch.device, error: Exception) -> None:
    if device not in _said:
        _said.add(device)
        note(f"the CPU decodes JPEG files that {device} does not ({words(error)}); others may follow")


def _alone(data: Tensor, device: torch.device) -> Tensor | str:
    try:
        return decode(data.numpy().tobytes()).to(device)
    except ImageError as error:
        return str(error)


def _upright(x_CHW: Tensor, orientation: int) -> Tensor:
    """Undo the camera's rotation; EXIF 2.3 table of tag 274, 1 is upright."""
    if orientation in (5, 6, 7, 8):
        x_CHW = x_CHW.transpose(1, 2)
    if orientation in (2, 3, 6, 7):
        x_CHW = x_CHW.flip(2)
    if orientation in (3, 4, 7, 8):
        x_CHW = x_CHW.flip(1)
    return x_CHW.permute(1, 2, 0).contiguous().permute(2, 0, 1)
