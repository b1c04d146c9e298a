"""What a user says of data where its files leave it open."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a source is to be read; None leaves it to the files, and a case with two readings is then an error."""

    split: str | None = None
    """Which of several parts: `train`, `validation`, `test`, or whatever the files or folders are called."""
    class_order: str | None = None
    """How class folders are numbered: `numeric`, `sorted`, or a file of their names in order, one a line."""
    merged: bool = False
    """Whether several splits may be taken together: where no error is counted."""


AS_IT_IS = Reading()
