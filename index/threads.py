"""Work for every core: parts of it, each in a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

COUNT = os.cpu_count() or 1
"""As many as there are cores."""


def each(work: Callable[[T], object], parts: Sequence[T]) -> None:
    """Do the work for every part; raises what the first in order raises that fails."""
    if min(COUNT, len(parts)) < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(min(COUNT, len(parts))) as pool:
        for _ in pool.map(work, parts):
            pass
