"""Bytes that are read in place: a file, a stretch of one, or what a compressed archive inside another unpacks to."""

import io
import os
from collections.abc import Callable
from typing import Any, Protocol

from resnet_infer.files import open_regular


class Window(Protocol):
    """Bytes by position."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def read_at(self, offset: int, count: int) -> bytes:
        """So many bytes from there on, fewer only at the end; raises OSError or DataError."""
        ...


class FileWindow:
    """A file. It is opened once and has no position, so a forked worker reads through the same handle."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
        self.size, self.written_ns = status.st_size, status.st_mtime_ns
        self._file = -1

    def read_at(self, offset: int, count: int) -> bytes:
        """See Window."""
        if offset >= self.size:  # which no damaged offset is too large for
            return b""
        if not hasattr(os, "pread"):
            with open_regular(self.path) as file:
                file.seek(offset)
                return file.read(count)
        if self._file < 0:
            with open_regular(self.path) as file:
                self._file = os.dup(file.fileno())
        data = os.pread(self._file, count, offset)
        while len(data) < count and (more := os.pread(self._file, count - len(data), offset + len(data))):
            data += more  # the kernel gives at most 2 GiB at once
        return data

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": -1}

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)
            self._file = -1


class Stretch:
    """A part of a window."""

    def __init__(self, window: Window, offset: int, size: int) -> None:
        self.size = size
        self._window = window
        self._offset = offset

    def read_at(self, offset: int, count: int) -> bytes:
        """See Window."""
        count = max(0, min(count, self.size - offset))
        return self._window.read_at(self._offset + offset, count) if count else b""


class Unpacked:
    """Bytes that are made when they are asked for, and can be let go of."""

    def __init__(self, size: int, make: Callable[[], bytes], crc: int) -> None:
        self.size = size
        self.crc = crc
        """As the outer archive says it, and `make` verifies."""
        self._make = make
        self._data: bytes | None = None

    def read_at(self, offset: int, count: int) -> bytes:
        """See Window."""
        if self._data is None:
            self._data = self._make()
        return self._data[offset : offset + count]

    def let_go(self) -> None:
        """Free the memory until the next reading."""
        self._data = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_data": None}


class Reader(io.RawIOBase):
    """A window as a file, for listing; to be wrapped in a BufferedReader."""

    def __init__(self, window: Window, offset: int = 0) -> None:
        self._window = window
        self._at = offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._window.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._window.read_at(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
