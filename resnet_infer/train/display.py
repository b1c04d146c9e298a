"""What a person watching a run sees, on stderr: a bar that moves, and a line for every test."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from resnet_infer.console import tell, visible

INTERVAL_S = 0.2
"""Between redrawings."""


class Display:
    """Progress of one run; without a terminal, lines alone."""

    def __init__(self, title: str, iteration: int, iterations: int, *, shown: bool = True) -> None:
        self.shown = shown
        self._bar: Any = None
        self._last: Mapping[str, Any] = {}
        self._drawn = 0.0
        if shown and sys.stderr.isatty():
            self._bar, self._task = _bar(title, iteration, iterations)
            self._bar.start()

    def advance(self, iteration: int) -> None:
        """So many iterations are done."""
        if self._bar is not None and time.monotonic() - self._drawn > INTERVAL_S:
            self._drawn = time.monotonic()
            self._bar.update(self._task, completed=iteration, numbers=_numbers(self._last))

    def record(self, record: Mapping[str, Any]) -> None:
        """A record of the metrics was made."""
        if record["kind"] == "train":
            self._last = record
            return
        if not self.shown:
            return
        seen = self._last
        line = f"iteration {record['iteration']:6d}: test error {record['test_err']:.2f} %"
        if seen:
            line += f", training error {seen['train_err']:.2f} %, loss {seen['loss']:.3f}"
        self.line(line)

    def line(self, text: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            self._bar.console.print(visible(text), highlight=False, markup=False)
        elif self.shown:
            tell(visible(text))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _numbers(record: Mapping[str, Any]) -> str:
    if not record:
        return ""
    return f"loss {record['loss']:.3f}  err {record['train_err']:.1f} %  {record['images_per_s']:.0f} images/s"


def _bar(title: str, iteration: int, iterations: int) -> tuple[Any, Any]:
    from rich import progress as bars
    from rich.console import Console

    bar = bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=10),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[numbers]}"),
        bars.TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
    )
    return bar, bar.add_task(visible(title), total=iterations, completed=iteration, numbers="")
