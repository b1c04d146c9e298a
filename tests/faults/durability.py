"""What a loss of power could take of files that are promised to stay."""

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path


def undurable(log: Sequence[tuple[str, str, str]], patterns: Sequence[str], folder: Path) -> Sequence[str]:
    """What a loss of power could take of the files that are promised to stay, found from the calls made.

    When a file has its name its content must have been synced, and before anything else is renamed or removed, its
    folder and every folder made for it.
    """
    written, entries, promised, problems = set[str](), set[str](), "", []

    def check() -> None:
        path = promised
        while path and path != str(folder):
            if path in entries:
                problems.append(f"{promised}: {os.path.dirname(path)} was not synced after {path} was made")
            path = os.path.dirname(path)

    for call, path, target in log:
        if call in ("rename", "unlink"):
            check()
            promised = ""
        if call in ("open", "mkdir"):
            entries.add(path)
        if call == "write":
            written.add(path)
        if call == "sync":
            written.discard(path)
            entries -= {entry for entry in entries if os.path.dirname(entry) == path}
        if call == "unlink":
            entries.discard(path)
        if call == "rename":
            entries.discard(path)
            entries.add(target)
            name = os.path.relpath(target, folder)
            if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                promised = target
                if path in written:
                    problems.append(f"{target}: was not synced before it was renamed")
            if path in written:
                written.discard(path)
                written.add(target)
    check()
    return sorted(set(problems))
