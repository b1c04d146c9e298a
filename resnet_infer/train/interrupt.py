"""SIGTERM and SIGINT while a run goes on: asked for once, it saves and ends; asked again, it ends at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Asked:
    """The signal that came, or 0."""

    signal = 0


@contextmanager
def interruptible() -> Iterator[Asked]:
    """Within the body the two signals only leave a mark; outside the main thread nothing is changed."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def mark(number: int, frame: FrameType | None) -> None:
        asked.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {number: signal.signal(number, mark) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
