"""Patterns that name several files: `*`, `?` and `[...]` as in a shell, `{000..009}` and `{a,b}` as for shards."""

import re
from collections.abc import Iterator
from glob import glob, has_magic
from itertools import islice
from pathlib import Path

from resnet_infer.errors import DataError

MAX_FILES = 100_000
"""That braces may name."""


def matching(pattern: str) -> list[str]:
    """The files that a pattern names, sorted; none if it is no pattern. Raises DataError if one is missing."""
    braced = list(islice(_braces(pattern), MAX_FILES + 1))
    if len(braced) > MAX_FILES:
        raise DataError(f"{pattern}: names more than {MAX_FILES:,} files")
    if not any(map(has_magic, braced)):
        if len(braced) > 1 and (missing := [path for path in braced if not Path(path).exists()]):
            raise DataError(f"{missing[0]}: no such file or folder ({len(missing)} of the {len(braced)} of {pattern})")
        return braced if len(braced) > 1 else []
    found = [match for one in braced for match in sorted(glob(one, recursive=True))]
    if not found:
        raise DataError(f"{pattern}: no file matches this pattern")
    return found


def _braces(pattern: str) -> Iterator[str]:
    """`a-{08..10}.tar` as a-08.tar, a-09.tar and a-10.tar, and `{a,b}` as a and b, as shells and WebDataset do."""
    if not (match := re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)):
        yield pattern
        return
    first, last, choices = match.groups()
    if choices is None:
        if not 0 <= int(last) - int(first) < MAX_FILES:
            raise DataError(f"{pattern}: {match[0]} is not a range of at most {MAX_FILES:,} numbers")
        options = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        options = choices.split(",")
    for option in options:
        yield from _braces(pattern[: match.start()] + option + pattern[match.end() :])
