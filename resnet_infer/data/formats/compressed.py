"""Compressed files, which cannot be read in place: what they are, and the command that makes them readable."""

import os
import shlex

from resnet_infer.errors import DataError
from resnet_infer.files import open_regular

STREAMS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""The first bytes of what each of these commands decompresses with -dc."""
FOLDERS = {b"7z\xbc\xaf\x27\x1c": "7z x", b"Rar!\x1a\x07": "unrar x"}
SUFFIXES = (
    ".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".7z", ".rar", ".tar",
)  # fmt: skip
TARS = (".tgz", ".tbz", ".tbz2", ".txz", ".tzst")


def refuse_compressed(path: str) -> None:
    """Raise DataError with the command to run if a file is compressed by its first bytes; OSError if unreadable."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() not in SUFFIXES:
        return
    with open_regular(path) as file:
        head = file.read(8)
    own = shlex.quote(path)
    for magic, command in FOLDERS.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is not read in place; unpack it: {command} {own}")
    for magic, command in STREAMS.items():
        if head.startswith(magic):
            plain = stem + (".tar" if suffix.lower() in TARS else ".plain.tar" if suffix.lower() == ".tar" else "")
            raise DataError(
                f"{path}: it is compressed, so it cannot be read in place; decompress it: "
                f"{command} -dc < {own} > {shlex.quote(plain)}"
            )
