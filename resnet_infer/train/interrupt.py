"""SIGTERM, SIGINT and SIGHUP while a run goes on: asked for once, it saves and ends; asked again, it ends at once."""

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
    """Within the body the signals only leave a mark; outside the main thread nothing is changed."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def mark(number: int, frame: FrameType | None) -> None:
        asked.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    heeded = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's choice stands
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, mark) for number in heeded}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
