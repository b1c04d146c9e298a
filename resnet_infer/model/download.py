"""Fetching published weights once: https, checked against their hash, in place only when complete.

A server is trusted with nothing: what it sends is bounded, it has to keep up a rate, and what a lost connection left is
kept as `NAME.partial` and continued. The file's hash, not the server, says whether the pieces fit.
"""

import contextlib
import http.client
import math
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from resnet_infer.console import progress
from resnet_infer.errors import DownloadError, UsageError
from resnet_infer.files import cache_folder, home_folder, put_in_place, sha256_of
from resnet_infer.model.adapters import expected_shapes
from resnet_infer.model.arriving import arriving
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.registry import Published, bundled_folders

TIMEOUT_S = 30
TENSOR_BYTES, FILE_BYTES = 2**10, 2**20
"""What a file holds besides fp32 values, at most: names, shapes and alignment of every tensor, and the rest."""
MIRROR = "RESNET_INFER_MIRROR"
"""Environment variable: an https:// or file:// folder that holds the publisher's files under their own names."""


def weights_file(published: Published) -> Path:
    """The local file of a published checkpoint, downloaded into the cache folder if it is not there yet.

    A copy that torch.hub has already fetched is used where it is. The SHA-256 is checked before every use.
    Raises DownloadError when there is no network or the bytes are not the published ones.
    """
    hub = Path(os.environ.get("TORCH_HOME") or home_folder() / ".cache" / "torch") / "hub" / "checkpoints"
    target = cache_folder() / published.filename
    for path in (target, hub / published.filename):
        if _is_published(path, published):
            return path
    _download(published, target)
    return target


def most_bytes(published: Published) -> int:
    """More than its file can have: every tensor in fp32 and what a checkpoint's format adds."""
    shapes = expected_shapes(spec_from_name(published.architecture)).values()
    return sum(4 * math.prod(shape) + TENSOR_BYTES for shape in shapes) + FILE_BYTES


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to https alone: urllib itself would go on over http or ftp."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(published: Published, target: Path) -> None:
    url = _address(published)
    try:
        with _partial(target) as partial:
            if _is_published(target, published):  # another process was faster
                return
            resumed = _fetch(published, url, partial)
            found = sha256_of(partial)
            if resumed and not found.startswith(published.sha256_prefix):  # the pieces are of two files: once more
                _empty(partial)
                _fetch(published, url, partial)
                found = sha256_of(partial)
            if not found.startswith(published.sha256_prefix):
                _empty(partial)
                raise DownloadError(
                    f"{url} gave {found[:8]}..., but {published.key} is {published.sha256_prefix}...: "
                    "the file is damaged or not the published one; nothing was kept. Try again, or another network"
                )
            put_in_place(partial, target, durable=False)
    except (OSError, ValueError, UsageError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        bundled = ", ".join(bundled_folders()) or "none in this release"
        raise DownloadError(
            f"cannot fetch {published.key} from {url} ({reason}). Put {published.filename} at {target}, or set "
            f"{MIRROR} to a folder that has it, or use -m with a file; bundled, needing no network: {bundled}"
        ) from error


def _fetch(published: Published, url: str, partial: Path) -> bool:
    """Add what is missing of the file to `partial`; whether it was resumed. Raises OSError saying why it ended."""
    most, there = most_bytes(published), partial.stat().st_size
    if there > most:
        _empty(partial)
        there = 0
    if there and sha256_of(partial).startswith(published.sha256_prefix):
        return True
    headers = {"Range": f"bytes={there}-"} if there else {}
    try:
        opener = urllib.request.build_opener(HttpsOnly)
        request = urllib.request.Request(url, headers=headers)
        with arriving(lambda: opener.open(request, timeout=TIMEOUT_S)) as (response, chunks):
            if there and not _continues(response, there):
                _empty(partial)
                there = 0
            left = int(response.headers.get("Content-Length") or -1)
            if there + left > most:
                raise OSError(f"it sends {there + left:,} bytes, and {published.key} has less than {most:,}")
            size = there + left if left >= 0 else None
            with partial.open("ab") as file, progress(f"fetching {published.key}", size, "bytes") as advance:
                advance(there)
                for chunk in chunks:
                    there += len(chunk)
                    if there > most:
                        raise OSError(f"it sends more than {most:,} bytes, which {published.key} has not")
                    file.write(chunk)
                    advance(len(chunk))
            if size is not None and there < size:
                raise OSError(
                    f"the connection was lost at {there:,} of {size:,} bytes; try again, and it goes on there"
                )
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not headers:
            raise
        error.close()
        _empty(partial)  # it is as long as the published file, or longer, and another
        _fetch(published, url, partial)
        return False
    return bool(headers)


def _continues(response: http.client.HTTPResponse, there: int) -> bool:
    """Whether a server's answer to a Range request begins where the partial file ends; else it is the whole file."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return False
    sent = response.headers.get("Content-Range", "")
    if not re.fullmatch(rf"bytes {there}-[0-9]{{1,20}}/(?:[0-9]{{1,20}}|\*)", sent):
        raise OSError(f"asked for the bytes from {there:,} on, it sends '{sent[:60]}'")
    return True


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """`NAME.partial`, which no other process writes to meanwhile; one of its own for whoever finds that in use."""
    try:
        import fcntl
    except ImportError:  # no locks of this kind on Windows
        with _own(target) as path:
            yield path
        return
    path = target.with_name(f"{target.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())  # not put in place since
        except OSError:  # in use, or a file system without locks
            locked = False
        if locked:
            try:
                yield path
            finally:
                if path.exists() and not path.stat().st_size:
                    path.unlink()
            return
    with _own(target) as path:
        yield path


@contextlib.contextmanager
def _own(target: Path) -> Iterator[Path]:
    path = target.with_name(f"{target.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _empty(partial: Path) -> None:
    os.truncate(partial, 0)


def _is_published(path: Path, published: Published) -> bool:
    return path.is_file() and sha256_of(path).startswith(published.sha256_prefix)


def _address(published: Published) -> str:
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return published.url
    if not mirror.startswith(("https://", "file://")):
        raise UsageError(f"{MIRROR} must start with https:// or file://; got '{mirror}'")
    return f"{mirror.rstrip('/')}/{published.filename}"
