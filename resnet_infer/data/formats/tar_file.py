"""Tar files: every member's name and where its bytes are (POSIX.1-2001 ustar and pax, GNU's long names).

Python's tarfile makes over a kilobyte of objects for each member and takes 20 seconds for a million. Members that are
rare in a collection of images, as sparse files, are still its business.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator

from resnet_infer.data.formats.byte_ranges import Reader, Window
from resnet_infer.errors import DataError

BLOCK = 512
FILES = b"0\x007"
"""Types of members that have bytes of their own."""
MAX_HEADER_BYTES = 2**20
"""Of a pax header or a long name."""
Place = tuple[int, int]
"""(offset, size) of a member's bytes."""


def tar_members(window: Window) -> Iterator[tuple[str, Place | None]]:
    """(name, place) of every member but folders; links and sparse files have no place.

    Raises DataError if it is no plain tar file, or is damaged or cut short.
    """
    at = 0
    long_name = long_size = None
    found = 0
    while True:
        header = window.read_at(at, BLOCK) if at < window.size else b""
        if header == bytes(BLOCK):
            return
        if len(header) < BLOCK:
            if not at:
                raise DataError(f"not a plain tar file: {_kind(window)}")
            raise DataError(f"the tar file has no end mark after {found} files: truncated or damaged")
        size = _number(header[124:136])
        if size is None or not _checked(header):
            reason = _kind(window) if not at else f"its header at byte {at:,} is damaged"
            raise DataError(f"not a plain tar file: {reason}")
        kind, data = header[156:157], at + BLOCK
        if size > window.size:
            raise DataError(f"the tar file has no end mark after {found} files: truncated or damaged")
        if kind in (b"x", b"L"):
            if size > MAX_HEADER_BYTES:
                raise DataError(f"its header at byte {at:,} claims {size:,} bytes; the tar file is damaged")
            text = window.read_at(data, size)
            if kind == b"L":
                long_name = text.split(b"\0")[0]
            else:
                values = _pax(text, at)
                if any(key.startswith(b"GNU.sparse") for key in values):
                    name, data, size, at = _by_tarfile(window, at)
                    yield name, None
                    found += 1
                    continue
                long_name = values.get(b"path", long_name)
                long_size = values.get(b"size")
            at = data + _padded(size)
            continue
        if kind == b"S":
            name, data, size, at = _by_tarfile(window, at)
            yield (long_name.decode("utf-8", "surrogateescape") if long_name else name), None
            long_name = long_size = None
            found += 1
            continue
        if long_size is not None:
            size = int(long_size) if long_size.isdigit() and len(long_size) < 20 else window.size + 1
            if size > window.size:
                raise DataError(f"its header at byte {at:,} is damaged")
        raw = long_name if long_name is not None else _name(header)
        name = raw.decode("utf-8", "surrogateescape")
        long_name = long_size = None
        folder = kind == b"5" or (kind == b"\0" and name.endswith("/"))
        at = data if kind in b"123456" else data + _padded(size)  # links and folders have no data, whatever they say
        if kind == b"g" or kind == b"K" or folder:
            continue
        found += 1
        yield name, ((data, size) if kind in FILES else None)


def read_member(window: Window, place: Place) -> bytes:
    """A member's bytes; raises DataError if the file is shorter."""
    offset, size = place
    data = window.read_at(offset, size)
    if len(data) != size:
        raise DataError(f"the tar file ends {size - len(data)} bytes before the image does")
    return data


def header_crc(window: Window, offset: int) -> int:
    """Of the header of the member whose bytes begin there."""
    return zlib.crc32(window.read_at(offset - BLOCK, BLOCK))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _number(field: bytes) -> int | None:
    """An octal number, or a binary one behind a set bit; None if it is neither, or is negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0")[0].strip()
    if not text:
        return 0
    try:
        return int(text, 8) if text[0] in b"01234567" else None
    except ValueError:
        return None


def _checked(header: bytes) -> bool:
    """Whether the checksum is right; the sum of bytes is the low half of Adler-32 less 1, and that is quick."""
    stated = _number(header[148:156])
    blank = header[:148] + b" " * 8 + header[156:]
    return stated is not None and ((zlib.adler32(blank) & 0xFFFF) == (stated + 1) % 65521 or stated == _signed(blank))


def _signed(header: bytes) -> int:
    """The sum as old tars of some systems take it."""
    return sum(byte - 256 if byte > 127 else byte for byte in header)


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0")[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0")[0]):
        return prefix + b"/" + name
    return name


def _pax(text: bytes, at: int) -> dict[bytes, bytes]:
    """The `length key=value` lines of a pax header."""
    values = {}
    position = 0
    while position < len(text) and text[position]:
        digits, _, _ = text[position : position + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        line = text[position : position + length]
        key, equals, value = line[len(digits) + 1 : -1].partition(b"=")
        if not equals or not line.endswith(b"\n"):
            raise DataError(f"its header at byte {at:,} is damaged")
        values[key] = value
        position += length
    return values


def _by_tarfile(window: Window, at: int) -> tuple[str, int, int, int]:
    """(name, data, size, next header) of a member that only Python's tarfile reads."""
    file = io.BufferedReader(Reader(window, at))
    try:
        archive = tarfile.TarFile(fileobj=file)
        member = archive.firstmember  # type: ignore[attr-defined]  # read by the constructor
    except (tarfile.TarError, ValueError, OSError, OverflowError) as error:
        raise DataError(f"its header at byte {at:,} is damaged ({error})") from error
    if member is None or archive.offset <= at:
        raise DataError(f"its header at byte {at:,} is damaged")
    return member.name, member.offset_data, member.size, archive.offset


def _kind(window: Window) -> str:
    if window.read_at(0, 6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "it is compressed, so it cannot be read in place; decompress it"
    return "it has no header at its beginning"
