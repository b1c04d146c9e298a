"""A lock on a file that is held until it is let go of or the process dies, however it dies."""

import contextlib
import errno
import os
from pathlib import Path
from typing import IO

from resnet_infer.errors import UsageError, remedy

TRIES = 100
"""Whoever has it may remove the file just before it is opened here, again and again."""
_TAKEN = (errno.EAGAIN, errno.EACCES)
_mine: set[tuple[int, int]] = set()
"""(device, inode) of the locks of this process, which the operating system would give it once more."""


class Lock:
    """One process's claim to a folder, by a file `lock` in it. Windows has none, and nothing is locked there.

    It belongs to the process, not to the open file: decoding workers must not inherit it, since they may live a little
    longer.
    """

    def __init__(self, folder: Path, busy: str) -> None:
        """Make the folder and take the lock; `busy` is what to say if another process has it.

        Raises UsageError if one has, or if the folder or file system does not allow it.
        """
        self._path = folder / "lock"
        self._file: IO[bytes] | None = None
        for _ in range(TRIES):
            if self._file is not None:
                return
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = self._taken(busy)
            except FileNotFoundError:  # whoever had it removed the folder just now
                continue
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno == errno.ENOLCK:
                    reason = "its file system has no locks; choose a folder on another one"
                raise UsageError(f"{folder}: cannot be written ({reason}){remedy(error)}") from error
        if self._file is None:
            raise UsageError(busy)

    def _taken(self, busy: str) -> IO[bytes] | None:
        """The locked file; None if it is not the one that bears the name any more."""
        with contextlib.suppress(FileNotFoundError):
            if _identity(self._path.stat()) in _mine:  # to open and close it again would let go of it
                raise UsageError(busy)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        # to read and write, so that a pipe of that name is not waited for
        file = open(os.open(self._path, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115
        try:
            own = _identity(os.fstat(file.fileno()))
            try:
                if os.name == "posix":
                    import fcntl

                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _TAKEN:
                    raise UsageError(busy) from error
                raise
            with contextlib.suppress(FileNotFoundError):
                if _identity(self._path.stat()) == own:
                    _mine.add(own)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def release(self) -> None:
        """Let others have it. Its file goes first, while it is still held: nobody else's is removed."""
        if self._file is not None:
            _mine.discard(_identity(os.fstat(self._file.fileno())))
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
