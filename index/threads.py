"""Work for every core: parts of it, each in a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Those that this process may run on, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


COUNT = cores()


def each(work: Callable[[T], object], parts: Sequence[T], most: int | None = None) -> None:
    """Do the work for every part, in at most so many threads; a thread for each core by default.

    Raises what the first part in order raises that fails.
    """
    count = min(COUNT if most is None else most, len(parts))
    if count < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(work, parts):
            pass
