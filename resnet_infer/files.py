"""Files of ours: written whole or not at all, in text that any reader takes, known by their hash; the cache folder."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from resnet_infer.errors import NO_ROOM, UsageError, remedy

NOT_REGULAR = "a pipe, socket or device, not a regular file; standard input is read as `-`"


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place if the body succeeds, and vanishes otherwise.

    What a process that was killed left of the same file goes first. `durable` has the bytes and the name on the disk
    when it is done. Raises UsageError where nothing can be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error}){remedy(error)}") from error
    partial = Path(name)
    try:
        _claim(handle)
        yield partial
        partial.chmod(0o666 & ~_umask())  # mkstemp's 0600 would surprise whoever shares the file
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        try:
            put_in_place(partial, path, durable=durable)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written ({error.strerror or error}){remedy(error)}") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise UsageError(f"{path}: cannot be written ({os.strerror(error.errno)}){remedy(error)}") from error
        raise
    finally:
        partial.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place if the body succeeds, and vanishes otherwise.

    What a process that was killed left of the same folder goes first. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix))
    handle = os.open(partial, os.O_RDONLY) if os.name == "posix" else None
    try:
        if handle is not None:
            _claim(handle)
        yield partial
        partial.chmod(0o777 & ~_umask())
        partial.replace(path)
    finally:
        if handle is not None:
            os.close(handle)
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _sweep(path: Path) -> None:
    """Remove the temporary files or folders for this name that no living process is writing."""
    name = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}" + re.escape(path.suffix))
    for left in path.parent.iterdir():
        if name.fullmatch(left.name):
            with contextlib.suppress(OSError):
                handle = os.open(left, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _claim(handle) and left.is_dir():
                        shutil.rmtree(left)
                    elif _claim(handle):
                        left.unlink()
                finally:
                    os.close(handle)


def _claim(handle: int) -> bool:
    """Mark an open file as being written, until it is closed; False if it is so marked, or cannot be."""
    if os.name != "posix":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def put_in_place(partial: Path, path: Path, *, durable: bool) -> None:
    """Rename a written file over `path`; `durable` has its folder on the disk too."""
    partial.replace(path)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, of files and folders that were made or renamed there."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def utf8(text: str) -> str:
    """Text with the bytes of a file's name that are no UTF-8 as escapes, `\\udce9` for the byte E9."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_text(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """JSON in ASCII, which no terminal obeys and every encoding holds; strings as `utf8` has them."""
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False)
    return re.sub("[^ -~\n]", _json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    character = found[0]
    if "\ud800" <= character <= "\udfff":
        return f"\\\\u{ord(character):04x}"
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def cache_folder() -> Path:
    """Where downloads are kept: $RESNET_INFER_CACHE, else resnet-infer in the user's cache folder.

    A user without a home folder has none, where nothing is found and nothing can be kept.
    """
    own = os.environ.get("RESNET_INFER_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache"
    return Path(own) if own else Path(home) / "resnet-infer"


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file for reading, never waited for as a pipe would be. Raises OSError for anything else."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise OSError(errno.EINVAL, NOT_REGULAR, os.fspath(path)) from error
        raise
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return open(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, NOT_REGULAR, os.fspath(path))


def home_folder() -> Path:
    """The user's; below a file, so that nothing is found or made there, if HOME is not set and no user has this id."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull) / "HOME-is-not-set"
