"""What is said of files that a source holds and does not take for images."""

import os
from collections import Counter
from typing import Any

from resnet_infer.console import note
from resnet_infer.data.source import Source

KINDS = 6
"""Suffixes that are named."""
NAMED = 20
"""Files that a JSON result names."""


def note_left_out(source: Source) -> None:
    """One line on stderr that counts the files left out by suffix and names the first; none if there are none."""
    if not source.left_out:
        return
    count = len(source.left_out)
    kinds = Counter(os.path.splitext(name)[1].lower() for name in source.left_out)
    most = kinds.most_common(KINDS)
    said = [f"{times} {suffix or 'without a suffix'}" for suffix, times in most]
    if len(kinds) > KINDS:
        said.append(f"{count - sum(times for _, times in most)} others")
    files = "1 file is" if count == 1 else f"{count} files are"
    remedy = "; an image needs a suffix, as .jpg" if "" in kinds else ""
    note(f"{source.name}: {files} no images by suffix or kind, as {source.left_out[0]}; left out: "
         f"{', '.join(said)}{remedy}")  # fmt: skip


def left_out_record(source: Source) -> dict[str, Any]:
    """For JSON: how many files were left out, and the names of at most `NAMED`."""
    return {
        "files": len(source.left_out),
        "names": [name for name, _ in zip(source.left_out, range(NAMED), strict=False)],
    }
