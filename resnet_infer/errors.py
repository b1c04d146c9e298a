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
    ├── OutputError             exit 1   a result that cannot be written: the disk is full, stdout is closed
    ├── ProcessError            exit 1   another process of a distributed run that is gone or silent
    ├── ReportedElsewhere       exit 1   an error that the leading process of a distributed run tells of
    ├── TrainingError           exit 1   a run that cannot go on; its last good checkpoint is kept
    │   └── Stopped             exit 130 or 143   a run ended by a signal, its state saved
    └── GateError               exit 3   an export that failed its check

A message is one line: what was given, where, and what to do about it.
"""

import difflib
import errno
import re
from collections.abc import Iterable

CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"  # in emoji and Persian they join letters
)
"""Controls, changes of direction, what has no width, line separators, and bytes of a name that are no text."""


def escaped(text: str) -> str:
    """Text that no terminal obeys and that is one line: `CONTROLS` as `\\n`, `\\x1b`, `\\u202e`."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class ResnetInferError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        """One line: a library's error that it tells of is folded, what names hold is escaped."""
        message = super().__str__()
        cause = self.__cause__ or self.__context__
        told = "" if cause is None or isinstance(cause, ResnetInferError) else str(cause)  # ours is one line already
        return escaped(message.replace(told, " ".join(told.split())) if told else message)


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


class OutputError(ResnetInferError):
    """A result that was made and cannot be written."""


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


NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What the system says where there is no room for a file."""


def remedy(error: OSError) -> str:
    """What to do about it, where there is no room."""
    return "; free some space, and repeat the command" if error.errno in NO_ROOM else ""
