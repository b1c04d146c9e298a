"""The process around a command: three streams that are there, and signals that end it as Ctrl-C does, cleaning up."""

import io
import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

GRACE_S = 5.0
"""A signal that comes again within this, as from torchrun and the shell, is the same request, and cleaning goes on."""
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


class Terminated(KeyboardInterrupt):
    """A signal asks for the end: what is done on Ctrl-C is done."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Ended(BaseException):
    """A command ended by its `__cause__`, an interrupt or a reader that is gone; typer would answer those itself."""


def ending(cause: BaseException | None) -> tuple[str, int]:
    """What to say of an interrupt, and the exit code by which shells know it."""
    number = cause.number if isinstance(cause, Terminated) else signal.SIGINT
    return WORDS[signal.Signals(number).name], 128 + number


def heed_signals() -> None:
    """Have SIGTERM and SIGHUP raise Terminated, unless whoever started this process chose otherwise, as nohup."""
    asked_at = -GRACE_S

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        if time.monotonic() - asked_at > GRACE_S:
            asked_at = time.monotonic()
            raise Terminated(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        with suppress(ValueError):  # not in the main thread
            if number and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)


def open_streams() -> None:
    """Have all three standard streams there, so that no file that is opened later gets the number of a closed one.

    A closed stdin is empty, and nothing can be written to a closed stdout: a result that is lost is an error.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, flags)  # takes the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # whatever a name holds, print it all the same
        sys.stdout.reconfigure(errors="backslashreplace")
