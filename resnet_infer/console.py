"""Progress on stderr: nothing for short work, nothing unless a person is watching."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHOW_AFTER_S = 1.0

_muted = False


def mute() -> None:
    """No progress and no notes from now on: another process reports."""
    global _muted
    _muted = True


@contextmanager
def progress(description: str, total: float | None, unit: str = "") -> Iterator[Callable[[float], None]]:
    """Yield `advance(amount)`; a bar appears on stderr once the work has lasted a second.

    `unit` is "bytes" for sizes, else the word behind the count. A total of None means that it is not known.
    """
    if _muted or not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich import progress as bars
    from rich.console import Console

    count: tuple[bars.ProgressColumn, ...] = (
        (bars.DownloadColumn(), bars.TransferSpeedColumn())
        if unit == "bytes"
        else (bars.MofNCompleteColumn(), bars.TextColumn(f"{unit}  {{task.fields[rate]}}"))
    )
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        *count,
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(description, total=total, rate="")
    begun = time.monotonic()
    shown = False

    def advance(amount: float) -> None:
        nonlocal shown
        elapsed = time.monotonic() - begun
        if not shown and elapsed > SHOW_AFTER_S:
            bar.start()
            shown = True
        bar.update(task, advance=amount, rate=f"{(bar.tasks[0].completed + amount) / max(elapsed, 1e-9):.0f}/s")

    try:
        yield advance
    finally:
        if shown:
            bar.stop()


@contextmanager
def working(description: str) -> Iterator[None]:
    """A spinner on stderr for work whose length is not known, if a person is watching."""
    if _muted or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(description):
        yield


def note(message: str) -> None:
    """One line on stderr that a user should know: an assumption made, a thing left out."""
    if not _muted:
        print(f"resnet-infer: {message}", file=sys.stderr)
