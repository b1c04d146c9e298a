"""Zip files: their directory as a stream, their members by position (PKWARE's APPNOTE 6.3).

Python's zipfile makes half a kilobyte of objects for each member, in every process that opens the file, and gives
bz2 and LZMA data no bound on what they unpack to. The position of a member's record is 8 bytes.
"""

import bz2
import io
import lzma
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from resnet_infer.data.formats.byte_ranges import Reader, Window
from resnet_infer.errors import DataError

MAX_BYTES = 2**29
"""Of one member, unpacked: a small archive can claim more than the memory holds."""
END, END_64, LOCATOR_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
RECORD, LOCAL = struct.Struct("<4s4B4HL2L5H2L"), struct.Struct("<4s2B4HL2L2H")
FULL_32 = 0xFFFFFFFF
ENCRYPTED, UTF_8 = 0x1, 0x800
WINDOWS = (0, 6, 10, 14)
"""Systems whose names have no backslash in them: FAT, HPFS, NTFS, VFAT. Some tools there write it for a slash."""
METHODS = {1: "shrinking", 6: "implosion", 9: "Deflate64", 93: "Zstandard", 95: "xz", 96: "JPEG", 98: "PPMd"}
BUFFER = 2**18


class ZipEntry(NamedTuple):
    """One record of the directory."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    """Of its local header, as the directory says it."""


class ZipFile:
    """A zip file in a window; raises DataError if it is none or is damaged."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._begin, self._end, self._shift, self._count = _directory(window)

    def members(self) -> Iterator[tuple[int, ZipEntry]]:
        """(position of its record, member) of every file, in the directory's order; raises DataError."""
        file = io.BufferedReader(Reader(self._window, self._begin), BUFFER)
        at, found = self._begin, 0
        while at < self._end:
            member, length = _record(file.read(RECORD.size), file)
            if at + length > self._end:
                raise DataError("its directory is damaged")
            if not member.name.endswith("/"):
                yield at, member
            at += length
            found += 1
        if found != self._count:
            raise DataError(f"its directory has {found:,} entries and says {self._count:,}")

    def member(self, position: int) -> ZipEntry:
        """The member whose record is there."""
        file = io.BufferedReader(Reader(self._window, position), 1024)
        return _record(file.read(RECORD.size), file)[0]

    def read(self, member: ZipEntry) -> bytes:
        """A member's bytes, its checksum verified; raises DataError or OSError."""
        if member.size > MAX_BYTES or member.packed > MAX_BYTES:
            most = max(member.size, member.packed)
            raise DataError(f"claims {most:,} bytes in the zip file, over the limit of {MAX_BYTES:,}")
        if member.flags & ENCRYPTED:
            raise DataError("is encrypted in the zip file; unpack it with its password")
        begin = self.begin(member)
        packed = self._window.read_at(begin, member.packed)
        if len(packed) != member.packed:
            raise DataError("the zip file ends before the image does")
        try:
            data = _unpack(packed, member)
        except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError, struct.error) as error:
            raise DataError(f"is damaged in the zip file ({error})") from error
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise DataError("is damaged in the zip file (its checksum or size is wrong)")
        return data

    def begin(self, member: ZipEntry) -> int:
        """Where a member's bytes begin, by its local header."""
        at = member.offset + self._shift
        head = self._window.read_at(at, LOCAL.size)
        if len(head) != LOCAL.size or not head.startswith(b"PK\3\4"):
            raise DataError("is not where the zip file's directory says; the file is damaged")
        *_, name, extra = LOCAL.unpack(head)
        if self._window.read_at(at + LOCAL.size, name) != member.raw_name:
            raise DataError("has another name in the zip file's directory; the file is damaged")
        return at + LOCAL.size + int(name) + int(extra)


def _directory(window: Window) -> tuple[int, int, int, int]:
    """(begin, end, what offsets are short by, entries) of the directory: found from the end of the file."""
    tail_at = max(0, window.size - END.size - 2**16)
    tail = window.read_at(tail_at, window.size - tail_at)
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and (len(tail) - at < END.size or at + END.size + END.unpack_from(tail, at)[7] != len(tail)):
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        raise DataError("not a zip file, or damaged (it has no end record)")
    _, disk, _, _, count, size, offset, _ = END.unpack_from(tail, at)
    end = tail_at + at
    if end >= LOCATOR_64.size + END_64.size:
        locator = window.read_at(end - LOCATOR_64.size, LOCATOR_64.size)
        if locator.startswith(b"PK\6\7"):
            end -= LOCATOR_64.size + END_64.size
            record = window.read_at(end, END_64.size)
            if not record.startswith(b"PK\6\6"):
                raise DataError("not a zip file, or damaged (its 64-bit end record is missing)")
            *_, disk, _, _, count, size, offset = END_64.unpack(record)
    if disk not in (0, 0xFFFF):
        raise DataError("is one part of several; join the zip file's parts")
    begin = end - size
    if begin - offset < 0 or begin < 0:
        raise DataError("not a zip file, or damaged (its directory lies outside of it)")
    return begin, end, begin - offset, count


def _record(head: bytes, file: Any) -> tuple[ZipEntry, int]:
    if len(head) != RECORD.size or not head.startswith(b"PK\1\2"):
        raise DataError("its directory is damaged")
    fields = RECORD.unpack(head)
    flags, method, crc, packed, size, name, extra, comment = (*fields[5:7], *fields[9:15])
    offset = fields[18]
    raw_name, more = file.read(name), file.read(extra)
    if len(raw_name) != name or len(more) != extra or len(file.read(comment)) != comment:
        raise DataError("its directory is damaged")
    if FULL_32 in (packed, size, offset):
        size, packed, offset = _wide(more, size, packed, offset)
    text = raw_name.decode("utf-8", "surrogateescape") if flags & UTF_8 else raw_name.decode("cp437")
    if fields[2] in WINDOWS:
        text = text.replace("\\", "/")
    member = ZipEntry(text.split("\0")[0], raw_name, flags, method, crc, packed, size, offset)
    return member, RECORD.size + name + extra + comment


def _wide(extra: bytes, *values: int) -> list[int]:
    """Values that are too large for their field, from the extra field of kind 1."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wanted = sum(value == FULL_32 for value in values)
            if length < 8 * wanted or at + 4 + 8 * wanted > len(extra):
                break
            found = iter(struct.unpack_from(f"<{wanted}Q", extra, at + 4))
            return [next(found) if value == FULL_32 else value for value in values]
        at += 4 + length
    raise DataError("its directory is damaged")


def _unpack(packed: bytes, member: ZipEntry) -> bytes:
    """At most one byte more than the member claims, whatever the data would unpack to."""
    most = member.size + 1
    if member.method == 0:
        return packed
    if member.method == 8:
        return zlib.decompressobj(-15).decompress(packed, most)
    if member.method == 12:
        return bz2.BZ2Decompressor().decompress(packed, most)
    if member.method == 14:
        return _lzma(packed, most)
    named = f" ({METHODS[member.method]})" if member.method in METHODS else ""
    raise DataError(
        f"is packed in the zip file by method {member.method}{named}, which is not read; pack it by deflate"
    )


def _lzma(packed: bytes, most: int) -> bytes:
    """LZMA as zip has it (APPNOTE 5.8.8): version, size of the properties, properties, data."""
    length = struct.unpack_from("<2xH", packed)[0]
    packing, dictionary = struct.unpack_from("<BL", packed, 4)
    rest, literal_context = divmod(packing, 9)
    position, literal_position = divmod(rest, 5)
    filters: dict[str, int] = {
        "id": lzma.FILTER_LZMA1,
        "lc": literal_context,
        "lp": literal_position,
        "pb": position,
        "dict_size": min(dictionary, max(4096, most)),  # its memory is taken at once, and no more can be of use
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters]).decompress(packed[4 + length :], most)
