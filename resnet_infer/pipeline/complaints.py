"""What libjpeg-turbo and libtiff say of files that they decode though they are damaged.

They write to the process's standard error, and torchvision and Pillow leave it to that, so standard error is listened
to while they decode. Of a damage that it does not notice, as a flipped bit that is another valid code, nobody hears.
"""

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LIBJPEG = re.compile(
    rb"(?:Corrupt JPEG data|Premature end of JPEG file|Inconsistent progression|Invalid SOS parameters|Warning:)[^\n]*"
)
"""How its warnings begin: jerror.h. What else is written meanwhile, by another thread, is passed on."""
LIBTIFF = re.compile(
    rb"^(?:TIFF\w+|_?TIFF\w*|\w+(?:Decode\w*|Strip\w*|Tile\w*|Setup\w*|PreDecode|State)|LogLuv\w*|Fax\w*|JPEGLib"
    rb"|LZMA\w*|ZSTD\w*|WebP\w*|PixarLog\w*|OJPEG\w*|tempfile\.tif|[\w.-]+\.tiff?): [^\n]*",
    re.MULTILINE,
)
"""A line of libtiff names its function, or Pillow's name for the file."""
_lock = threading.Lock()
_ears: dict[int, int] = {}
"""An anonymous file for each process; a forked one must not share its parent's."""


@contextmanager
def listening(warnings: re.Pattern[bytes] = LIBJPEG) -> Iterator[list[str]]:
    """Yields a list that has the warnings of what was decoded in the body when that is over."""
    heard: list[str] = []
    with _lock:
        try:
            real = os.dup(2)
        except OSError:  # there is no standard error
            yield heard
            return
        ear = _ear()
        os.dup2(ear, 2)
        try:
            yield heard
        finally:
            os.dup2(real, 2)
            if size := os.lseek(ear, 0, os.SEEK_CUR):
                os.lseek(ear, 0, os.SEEK_SET)
                said = os.read(ear, size)
                os.ftruncate(ear, 0)
                os.lseek(ear, 0, os.SEEK_SET)
                heard += [line.decode("ascii", "replace").strip() for line in warnings.findall(said)]
                if rest := warnings.sub(b"", said).strip():
                    os.write(real, rest + b"\n")
            os.close(real)


def _ear() -> int:
    process = os.getpid()
    if process not in _ears:
        for other in _ears.values():
            os.close(other)
        _ears.clear()
        if hasattr(os, "memfd_create"):
            _ears[process] = os.memfd_create("complaints", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                _ears[process] = os.dup(file.fileno())
    return _ears[process]
