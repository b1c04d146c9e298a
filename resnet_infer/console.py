"""All that goes to a terminal: results on stdout, notes and progress on stderr, and nothing that a terminal obeys.

Names come from strangers. What would move the cursor, hide text or turn it around is shown by its escape, as `\\x1b`.
"""

import copy
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TypeVar

from resnet_infer.errors import OutputError, escaped

SHOW_AFTER_S = 1.0
NAMED = 20
"""Damaged images that are named; more are counted."""

Value = TypeVar("Value")

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
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        *count,
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(visible(description), total=total, rate="")
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
    from rich.text import Text

    with Console(stderr=True).status(Text(visible(description))):
        yield


def note(message: str) -> None:
    """One line on stderr that a user should know: an assumption made, a thing left out."""
    if not _muted:
        tell(f"resnet-infer: {visible(message)}")


def note_damaged(warnings: Mapping[str, str]) -> None:
    """Name images that were scored though their decoder found them damaged, by path; of many the first."""
    for path, warning in list(warnings.items())[:NAMED]:
        note(f"{path}: scored though damaged ({warning}); --strict-decode makes it unreadable")
    if len(warnings) > NAMED:
        note(f"and {len(warnings) - NAMED} more damaged images")


def tell(text: str) -> None:
    """Lines on stderr; where nothing can be written there, nothing is."""
    if sys.stderr is not None:  # print() takes None for stdout
        try:
            print(_visible_lines(text), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            drop(sys.stderr)


def say(text: str) -> None:
    """Print a result for people; raises OutputError. A name's own line break is no control here: see `visible`."""
    emit(_visible_lines(text))


def emit(text: str) -> None:
    """Print a result for programs as it is; raises OutputError if it cannot be written, BrokenPipeError if none reads.

    It is written when this returns.
    """
    if sys.stdout is None:
        raise OutputError("standard output: is closed; redirect it to a file, or to /dev/null")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop(sys.stdout)
        raise
    except (OSError, ValueError) as error:
        drop(sys.stdout)
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"standard output: cannot be written ({reason})") from error


def drop(stream: IO[str]) -> None:
    """Let what a stream still holds go nowhere, so that Python does not meet the same failure when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def visible(value: Value) -> Value:
    """A text with its control characters, line breaks among them, as escapes; or a value with all its texts so."""
    return _visible(value)  # type: ignore[return-value]


def _visible(value: object) -> object:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, Mapping):
        return {_visible(key): _visible(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_visible, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(shown, field.name, _visible(getattr(value, field.name)))
        return shown
    return value


def _visible_lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))
