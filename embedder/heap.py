"""What the C library does with memory that is given back to it."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""mallopt's M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX (mallopt(3))."""


def keep_freed(most: int | None = None) -> None:
    """Keep what this process frees for what it asks for next, whatever it is, or until ``most``
    bytes, less than 2**31, are free at the end of its heap: then all of those go back.

    A layer puts out up to 200 MB for a batch. By default glibc maps a block of that size anew each
    time, and gives it back; the system clears every page of it again, which can take a quarter of
    the processor time of a forward pass (docs/performance.md). So the process holds on to as much
    memory as it ever had at a time, and its threads share one heap and that heap's lock. Best
    called before there are threads: a heap that one of them has had stays, for it or a later one.
    Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, -1 if most is None else most)  # -1: never give back
        libc.mallopt(_MMAP_MAX, 0)  # no block of its own beside the heap
        libc.mallopt(_ARENA_MAX, 1)  # one heap: that of a thread has no room for large blocks


def give_back() -> None:
    """Give the system what is kept for later, so that the resident size is what is in use.

    Does nothing where the C library is another than glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
