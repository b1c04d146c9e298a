"""Fetching published weights once: https, checked against their hash, in place only when complete."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from resnet_infer.console import progress
from resnet_infer.errors import DownloadError, UsageError
from resnet_infer.files import cache_folder, home_folder, replacing, sha256_of
from resnet_infer.spec.registry import Published, bundled_folders

CHUNK_BYTES = 2**20
TIMEOUT_S = 30
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
        if path.is_file() and sha256_of(path).startswith(published.sha256_prefix):
            return path
    _download(published, target)
    return target


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
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.build_opener(HttpsOnly).open(url, timeout=TIMEOUT_S) as response,
            replacing(target) as partial,
        ):
            size = int(response.headers.get("Content-Length") or 0) or None
            with partial.open("wb") as file, progress(f"fetching {published.key}", size, "bytes") as advance:
                while chunk := response.read(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                    advance(len(chunk))
            if not digest.hexdigest().startswith(published.sha256_prefix):
                raise DownloadError(
                    f"{url} gave {digest.hexdigest()[:8]}..., but {published.key} is {published.sha256_prefix}...: "
                    "the file is damaged or not the published one; nothing was kept. Try again, or another network"
                )
    except (OSError, ValueError, UsageError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        bundled = ", ".join(bundled_folders()) or "none in this release"
        raise DownloadError(
            f"cannot fetch {published.key} from {url} ({reason}). Put {published.filename} at {target}, or set "
            f"{MIRROR} to a folder that has it, or use -m with a file; bundled, needing no network: {bundled}"
        ) from error


def _address(published: Published) -> str:
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return published.url
    if not mirror.startswith(("https://", "file://")):
        raise UsageError(f"{MIRROR} must start with https:// or file://; got '{mirror}'")
    return f"{mirror.rstrip('/')}/{published.filename}"
