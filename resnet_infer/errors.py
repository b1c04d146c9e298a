"""Every error a user can meet, in one tree.

    ResnetInferError            exit 1
    ├── UsageError              exit 2   flags or names that cannot work
    │   └── UnknownNameError    exit 2   with the nearest names that exist
    ├── CheckpointError         exit 1   a weights file that is no ResNet, is damaged, or is unsafe
    ├── ArtifactError           exit 1   an exported file that cannot be used as asked
    ├── DownloadError           exit 1   weights that could not be fetched or do not match their hash
    ├── DataError               exit 1   a data source that cannot be read or matched to the model
    │   └── ImageError          exit 1   one image that cannot be decoded
    ├── BackendError            exit 1   a device, provider or precision that is not there
    │   └── OutOfMemory         exit 1   a batch that does not fit, even of one tile
    ├── ProcessError            exit 1   another process of a distributed run that is gone or silent
    ├── ReportedElsewhere       exit 1   an error that the leading process of a distributed run tells of
    ├── TrainingError           exit 1   a run that cannot go on; its last good checkpoint is kept
    │   └── Stopped             exit 130 or 143   a run ended by a signal, its state saved
    └── GateError               exit 3   an export that failed its check

A message is one line: what was given, where, and what to do about it.
"""

import difflib
from collections.abc import Iterable


class ResnetInferError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class UsageError(ResnetInferError):
    """The request itself cannot work."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in the table of names."""

    def __init__(self, kind: str, given: str, known: Iterable[str], remedy: str = "") -> None:
        close = difflib.get_close_matches(given, list(known), n=4, cutoff=0.5)
        nearest = f" Nearest: {', '.join(close)}." if close else ""
        super().__init__(f"unknown {kind} '{given}'.{nearest} {remedy}".rstrip())


class CheckpointError(ResnetInferError):
    """A weights file that cannot be used."""


class ArtifactError(ResnetInferError):
    """An exported file that cannot be used as asked."""


class DownloadError(ResnetInferError):
    """Weights that could not be fetched, or are not the ones expected."""


class DataError(ResnetInferError):
    """A data source that cannot be read, or does not match the model."""


class ImageError(DataError):
    """One image that cannot be decoded or rendered."""


class BackendError(ResnetInferError):
    """A device, provider or precision that is not available."""


class OutOfMemory(BackendError):
    """The batch did not fit the device's memory; a smaller one may."""


class ProcessError(ResnetInferError):
    """Another process of a distributed run is missing; `rank` says which one, where that is known."""

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class ReportedElsewhere(ResnetInferError):
    """An error of all processes of a run, which the leading one tells the user of."""


class TrainingError(ResnetInferError):
    """A training run that cannot go on."""


class Stopped(TrainingError):
    """A run that a signal ended after its state was saved; exits as the shell reports that signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class GateError(ResnetInferError):
    """An artifact was made but failed its check, and was not kept."""

    exit_code = 3
