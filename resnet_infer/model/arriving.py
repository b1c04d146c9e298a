"""What a server sends, as long as it keeps up a rate.

A socket's timeout is for one byte: a server that sends one every 29 seconds never meets it, in a header, in the length
of a chunk or in the file. So a thread reads, and whoever waits for it counts the bytes and the time.
"""

import contextlib
import http.client
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

CHUNK_BYTES = 2**20
SLOWEST_BYTES_PER_S = 10_000
WINDOW_S = 60.0
"""Seconds over which the rate is averaged."""

Response = Any
"""http.client.HTTPResponse, or urllib's own for a file."""


@contextlib.contextmanager
def arriving(open_it: Callable[[], Response]) -> Iterator[tuple[Response, Iterator[bytes]]]:
    """The response that `open_it` gives, and its body piece by piece.

    Raises what opening and reading raise, and OSError where less than 10 kB a second come, averaged over a minute.
    """
    came: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=4)
    done = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not done.is_set():
            with contextlib.suppress(queue.Full):
                came.put((kind, value), timeout=0.2)
                return

    def read() -> None:
        try:
            with open_it() as response:
                put("response", response)
                while not done.is_set() and (chunk := response.read1(CHUNK_BYTES)):
                    put("chunk", chunk)
            put("end", None)
        except (Exception, http.client.HTTPException) as error:
            put("error", error)

    def waited() -> Iterator[tuple[str, Any]]:
        began, count = time.monotonic(), 0
        while True:
            try:
                kind, value = came.get(timeout=max(0.001, began + WINDOW_S - time.monotonic()))
            except queue.Empty:
                kind, value = "", b""
            if kind == "error":
                raise value
            count += len(value) if kind == "chunk" else 0
            if time.monotonic() >= began + WINDOW_S:
                if count < SLOWEST_BYTES_PER_S * WINDOW_S:
                    raise OSError(f"too slow: {count:,} bytes in {WINDOW_S:g} s; try again, and it goes on there")
                began, count = time.monotonic(), 0
            if kind:
                yield kind, value

    events = waited()
    threading.Thread(target=read, daemon=True, name="download").start()
    try:
        _, response = next(events)
        yield response, (value for kind, value in _until_end(events))
    finally:
        done.set()


def _until_end(events: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for kind, value in events:
        if kind == "end":
            return
        yield kind, value
