"""What the C library does with memory that is given back to it."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (mallopt(3))."""

_NEVER = -1
_LARGEST = 2**30
"""Bytes. A block of more than this is still the system's once it is free."""


def keep_freed() -> None:
    """Keep what this process frees for what it asks for next.

    A layer puts out 200 MB for a batch. By default glibc asks the system for a block of that size
    each time, and gives it back; the system clears every page of it again, which can take a third
    of the processor time of a forward pass (docs/performance.md). So the process holds on to as
    much memory as it ever had at a time. For all of the process, but threads other than the main
    one gain less. Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
