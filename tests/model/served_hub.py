"""A hub on the loopback interface that answers as huggingface.co does: files of commits, its headers and errors."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_right"
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_REVISION = re.compile(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)")


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Any
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        hub, headers = self.server, dict[str, str]()
        hub.asked.append(f"{self.command} {self.path}")
        status, data = 200, b""
        match = _FILE.fullmatch(self.path) or _REVISION.fullmatch(self.path)
        commits = hub.repositories.get(match[1]) if match else None
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if hub.broken:
            status, data = hub.broken, b"down for repair"
        elif token not in ("", TOKEN):
            status, headers = 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
        elif match is None or commits is None or (match[1].startswith("private/") and not token):
            status = 404 if token else 401
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        elif match[1].startswith("gated/") and not token:
            status, headers = 401, {"X-Error-Code": "GatedRepo"}
        elif (commit := hub.refs.get((match[1], match[2]), match[2])) not in commits:
            status, headers = 404, {"X-Error-Code": "RevisionNotFound"}
        elif match.re is _REVISION:
            files = [{"rfilename": name} for name in commits[commit]]
            data = json.dumps({"id": match[1], "sha": commit, "siblings": files}).encode()
            headers = {"Content-Type": "application/json"}
        elif match[3] not in commits[commit]:
            status, headers = 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
        else:
            data = commits[commit][match[3]]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


class Hub(ThreadingHTTPServer):
    """Repositories by name; a repository's commits by hash; a commit's files by name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []
        self.broken = 0
        """A status that every request gets, if not 0."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Add a commit and let the branch point to it; returns its hash."""
        sums = [f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items())]
        digest = hashlib.sha1("\n".join(sums).encode()).hexdigest()
        self.repositories.setdefault(repository, {})[digest] = files
        self.refs[repository, ref] = digest
        return digest

    def handle_error(self, *arguments: object) -> None:
        """A visitor who leaves is no news."""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that runs meanwhile."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
