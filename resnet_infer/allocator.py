"""Freed memory is kept for the next image instead of going back to the system.

glibc returns large blocks to the kernel as they are freed and gets them back, page by page, for the next image or
layer. What that costs varies from run to run and can be a third of the time (benchmarks/NOTES.md).
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt(3)."""


def keep_freed_memory() -> None:
    """Ask the C library of this process for it; without effect where it is not glibc.

    The command line and worker processes do so. In a program of your own it is yours to decide.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
