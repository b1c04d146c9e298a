"""Scalars as TensorBoard reads them: an event file, without TensorBoard.

Format: TFRecord (length, masked CRC-32C of it, data, masked CRC-32C of it; little-endian) of `Event` protocol buffers,
by tensorflow/core/util/event.proto and summary.proto.
"""

import os
import socket
import struct
import time
from pathlib import Path
from typing import BinaryIO

POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), reflected."""
START = 1
"""SessionLog.START: TensorBoard forgets what it knew from this step on."""


class EventFile:
    """An event file that grows by one scalar at a time; every start of a run writes one of its own."""

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{first_step}"
        self._file: BinaryIO = (folder / name).open("ab")
        self._write(_bytes(3, b"brain.Event:2"), 0)
        self._write(_bytes(7, _varint(1, START)), first_step)

    def add(self, tag: str, value: float, step: int) -> None:
        """Record one value of the curve called `tag`."""
        scalar = _bytes(1, tag.encode()) + _key(2, 5) + struct.pack("<f", value)
        self._write(_bytes(5, _bytes(1, scalar)), step)

    def flush(self) -> None:
        """Let readers see what was added."""
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _write(self, body: bytes, step: int) -> None:
        event = _key(1, 1) + struct.pack("<d", time.time()) + _varint(2, step) + body
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _key(field: int, wire_type: int) -> bytes:
    return bytes([field << 3 | wire_type])


def _varint(field: int, value: int) -> bytes:
    return _key(field, 0) + _digits(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _digits(len(value)) + value


def _digits(value: int) -> bytes:
    """Seven bits a byte, lowest first."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
