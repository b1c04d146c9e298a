"""Servers that are slow, endless, forgetful or liars: nothing they do fills the disk, hangs or spoils the weights."""

import hashlib
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.errors import DownloadError
from resnet_infer.model import arriving
from resnet_infer.model.download import MIRROR, most_bytes, weights_file
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.registry import PUBLISHED, Published

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"resnet20-{DIGEST[:8]}.pth"
MOST = 4_000_000
"""More than a resnet20 can have."""

Behaviour = Callable[["Handler", int], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the test's function says, given from which byte on."""

    server: Any

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.server.asked.append(int(asked[1]) if asked else 0)
        self.server.behaviour(self, self.server.asked[-1])

    def begin(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[int] = []
        self.behaviour: Behaviour = honest

    def handle_error(self, *arguments: object) -> None:
        """A visitor who leaves is no news."""


def honest(handler: Handler, start: int) -> None:
    rest = CONTENT[start:]
    if not rest:
        return handler.begin(416, Content_Range=f"bytes */{len(CONTENT)}")
    sent = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
    handler.begin(206 if start else 200, Content_Length=len(rest), **sent)
    handler.wfile.write(rest)
    return None


def forgetful(handler: Handler, start: int) -> None:
    """Knows no ranges."""
    handler.begin(200, Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT)


def broken(handler: Handler, start: int) -> None:
    """Loses the connection at 500,000 bytes."""
    handler.begin(200, Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT[:500_000])


def endless(handler: Handler, start: int) -> None:
    handler.begin(200)
    while True:
        handler.wfile.write(bytes(2**20))


def huge(handler: Handler, start: int) -> None:
    handler.begin(200, Content_Length=4 * 10**9)
    handler.wfile.write(bytes(2**20))


def dribbling(handler: Handler, start: int) -> None:
    handler.begin(200, Content_Length=len(CONTENT))
    for at in range(start, len(CONTENT)):
        handler.wfile.write(CONTENT[at : at + 1])
        time.sleep(0.05)


def dribbling_headers(handler: Handler, start: int) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(600):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def silent(handler: Handler, start: int) -> None:
    time.sleep(20)


def elsewhere(handler: Handler, start: int) -> None:
    """Sends another range than was asked for."""
    handler.begin(206, Content_Length=10, Content_Range=f"bytes 0-9/{len(CONTENT)}")
    handler.wfile.write(bytes(10))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server here, an empty cache, and no mirror, hub or proxy."""
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(MIRROR, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def card(server: Server) -> Published:
    return Published(
        key="resnet20.test",
        architecture="resnet20",
        url=f"http://127.0.0.1:{server.server_port}/{NAME}",
        sha256_prefix=DIGEST[:8],
        preprocessing=Preprocessing(resize=32, crop=32),
        single_crop=(30.0, 10.0),
    )


def files(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (tmp_path / "cache").glob("*")}


def test_no_published_file_is_over_its_bound_and_the_bound_is_near() -> None:
    """torchvision states resnet18 as 44.7 MB and resnet152 as 230.3, in units of 2^20 bytes."""
    for key, mebibytes in (("resnet18.tv_in1k", 44.7), ("resnet50.tv2_in1k", 97.8), ("resnet152.tv2_in1k", 230.3)):
        assert 1 < most_bytes(PUBLISHED[key]) / 2**20 / mebibytes < 1.05


def test_a_lost_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.behaviour = broken
    with pytest.raises(DownloadError, match="lost at 500,000 of 1,280,000 bytes"):
        weights_file(card(server))
    assert files(tmp_path) == {f"{NAME}.partial": 500_000}
    server.behaviour = honest
    assert weights_file(card(server)).read_bytes() == CONTENT
    assert server.asked == [0, 500_000]
    assert files(tmp_path) == {NAME: len(CONTENT)}


@pytest.mark.parametrize(
    ("there", "behaviour", "asked"),
    [
        (CONTENT[:1000], forgetful, [1000]),
        (b"x" * 1000, honest, [1000, 0]),
        (CONTENT, honest, []),
        (CONTENT + b"more", honest, [len(CONTENT) + 4, 0]),
        (bytes(3 * 2**20), honest, [0]),
    ],
    ids=["no ranges", "of another file", "whole", "longer", "beyond the bound"],
)
def test_what_is_there_is_used_or_thrown_away(
    server: Server, tmp_path: Path, there: bytes, behaviour: Behaviour, asked: list[int]
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{NAME}.partial").write_bytes(there)
    server.behaviour = behaviour
    assert weights_file(card(server)).read_bytes() == CONTENT
    assert server.asked == asked
    assert files(tmp_path) == {NAME: len(CONTENT)}


def test_another_range_than_asked_for_is_not_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{NAME}.partial").write_bytes(CONTENT[:1000])
    server.behaviour = elsewhere
    with pytest.raises(DownloadError, match="asked for the bytes from 1,000 on, it sends 'bytes 0-9/1280000'"):
        weights_file(card(server))
    assert files(tmp_path) == {f"{NAME}.partial": 1000}


@pytest.mark.parametrize(("behaviour", "says"), [(endless, "it sends more than"), (huge, r"it sends 4,000,000,000")])
def test_an_endless_file_ends(server: Server, tmp_path: Path, behaviour: Behaviour, says: str) -> None:
    server.behaviour = behaviour
    with pytest.raises(DownloadError, match=says):
        weights_file(card(server))
    assert sum(files(tmp_path).values()) <= most_bytes(card(server)) < MOST


@pytest.mark.parametrize("behaviour", [dribbling, dribbling_headers, silent])
def test_a_slow_server_is_left(
    server: Server, tmp_path: Path, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "WINDOW_S", 0.5)
    server.behaviour = behaviour
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"too slow: \d+ bytes in 0\.5 s"):
        weights_file(card(server))
    assert time.monotonic() - began < 5


def _fetch(published: Published) -> None:
    weights_file(published)


def test_processes_at_the_same_time_do_not_spoil_each_other(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler, start: int) -> None:
        handler.begin(206 if start else 200, Content_Length=len(CONTENT) - start)
        for at in range(start, len(CONTENT), 160_000):
            handler.wfile.write(CONTENT[at : at + 160_000])
            time.sleep(0.05)

    server.behaviour = slow
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=_fetch, args=(replace(card(server)),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "cache" / NAME).read_bytes() == CONTENT
    assert files(tmp_path) == {NAME: len(CONTENT)}
