"""Embeddings as they are searched: checked, in float32, of unit length for the cosine.

They are taken a few rows at a time, which stay in the last-level cache from the reading to the
division, and by a thread for each core: ``benchmarks/reading.py`` compares this with
reading the bytes alone.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from embedder.errors import SearchError, ZeroVectorError
from embedder.types import Distance, Rows, Vectors
from index.threads import each

CHUNK = 4096
"""Rows that are taken at a time, at most."""

_MAPPED = 2**23
"""Numbers that a thread reads of a mapped file before it lets go of them, at most."""

_AT_ONCE = 2**19
"""Numbers that are taken to float64 at a time, 4 MB of them in each thread; with fewer, what two
threads wait for the interpreter's lock is more than the second-level cache gains (measured on an
Intel Xeon: docs/performance.md)."""

_FEW = 16
"""Rows anywhere in a file, with each of which the system may map a megabyte or two around it."""


def ready(vectors: Vectors, distance: Distance, name: str, rows: Rows | None = None) -> Vectors:
    """Contiguous float32 (N, D), of unit length for the cosine; raises as ``check`` does."""
    count = len(vectors) if rows is None else len(rows)
    points = np.empty((count, vectors.shape[1]), np.float32)

    def keep(place: slice, wide: NDArray[np.float64], norms: NDArray[np.float64]) -> None:
        if distance is Distance.COSINE:
            wide *= (1 / norms)[:, None]  # faster than to divide, and as right to a last place
        points[place] = wide

    _walk(vectors, distance, name, rows, keep)
    return points


def check(vectors: Vectors, distance: Distance, name: str, rows: Rows | None = None) -> None:
    """Raise ZeroVectorError naming a row of zeros, SearchError one that is not finite.

    ``vectors`` are float32 or float16 (N, D), of which some ``rows``, int64, are meant; all by
    default. ``name`` is what they are called: ``dataset/split``.
    """
    _walk(vectors, distance, name, rows, lambda *_: None)


def is_all(rows: Rows, count: int) -> bool:
    """Whether these are all of ``count`` rows, in order."""
    return len(rows) == count and bool((rows == np.arange(count)).all())


def gather(vectors: Vectors, rows: Rows) -> Vectors:
    """Some rows, float32 (N, D); of a mapped file few pages are in the process at a time."""
    found = np.empty((len(rows), vectors.shape[1]), np.float32)
    for first in range(0, len(rows), _FEW):
        found[first : first + _FEW] = vectors[rows[first : first + _FEW]]
        _let_go(vectors)
    return found


_Use = Callable[[slice, NDArray[np.float64], NDArray[np.float64]], None]
"""Told of some rows: their places among all that are meant, themselves, and their norms."""


def _walk(vectors: Vectors, distance: Distance, name: str, rows: Rows | None, use: _Use) -> None:
    if rows is not None and is_all(rows, len(vectors)):
        rows = None
    count, width = len(vectors) if rows is None else len(rows), vectors.shape[1]
    step, chunk = (max(1, numbers // max(1, width)) for numbers in (_AT_ONCE, _MAPPED))
    chunk = min(chunk, CHUNK)

    def walk(start: int) -> None:
        end = min(start + chunk, count)
        space = np.empty((min(step, end - start), width))
        for first in range(start, end, step):
            place = slice(first, min(first + step, end))
            wide = space[: place.stop - first]
            wide[:] = vectors[place if rows is None else rows[place]]
            use(place, wide, _norms(wide, distance, name, rows, first))
        _let_go(vectors)

    each(walk, range(0, count, chunk))


def _norms(
    wide: NDArray[np.float64], distance: Distance, name: str, rows: Rows | None, first: int
) -> NDArray[np.float64]:
    """Of each row, in float64, so that none under- or overflows."""
    norms: NDArray[np.float64] = np.sqrt(np.vecdot(wide, wide))
    wrong = np.flatnonzero(~np.isfinite(norms))
    if len(wrong):
        row = _number(rows, first + int(wrong[0]))
        raise SearchError(f"{name}/{row} is not finite; embed it again")
    zero = np.flatnonzero(norms == 0)
    if distance is Distance.COSINE and len(zero):
        row = _number(rows, first + int(zero[0]))
        raise ZeroVectorError(
            f"{name}/{row} is a zero vector, which has no cosine; "
            "use --distance euclidean, or another backbone"
        )
    return norms


def _number(rows: Rows | None, place: int) -> int:
    return place if rows is None else int(rows[place])


def _let_go(vectors: Vectors) -> None:
    """What was read of a mapped file stays in the system's cache, and leaves this process."""
    if not (isinstance(vectors, np.memmap) and vectors.mode == "r"):
        return
    if isinstance(vectors.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        vectors.base.madvise(mmap.MADV_DONTNEED)
