"""The search protocol: which training cases lie nearest to each query, and how near.

Similarity is the cosine of two embeddings, or minus their Euclidean distance. Every index gives the
same answer to the last bit, because whatever finds the candidates, ``similarity`` below decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedder.errors import SearchError, ZeroVectorError
from embedder.types import Distance, Rows, Split, Vectors, case_id


@dataclass(frozen=True)
class Neighbours:
    """The k nearest support rows of each query, the most similar first, equal ones by row.

    ``rows`` is int64 (Q, k), ``similarities`` float32 (Q, k).
    """

    rows: Rows
    similarities: NDArray[np.float32]

    def first(self, k: int) -> Neighbours:
        """The nearest ``k`` of them: what a search for ``k`` would have found."""
        return Neighbours(self.rows[:, :k], self.similarities[:, :k])

    def ids(self, dataset: str, split: Split = Split.TRAIN) -> list[list[str]]:
        """``dataset/split/row`` for each neighbour of each query."""
        return [[case_id(dataset, split, int(row)) for row in line] for line in self.rows]


class SearchIndex(Protocol):
    """Anything that finds the nearest rows of a support set."""

    def search(self, queries: Vectors, k: int, own: Rows | None = None) -> Neighbours:
        """The ``k`` nearest support rows of each query, float32 (Q, D).

        ``own``, int64 (Q,), names for each query the one support row that may not be its own
        neighbour (leave-one-out). Raises SearchError where k exceeds what can be found or the
        widths differ, ZeroVectorError for a zero query under the cosine.
        """
        ...


@dataclass(frozen=True)
class SupportSet:
    """What an index searches: embeddings as stored, made ready for one distance.

    ``points``, float32 (N, D), are unit vectors for the cosine and the embeddings themselves for
    the Euclidean distance.
    """

    points: Vectors
    distance: Distance
    name: str

    @classmethod
    def of(
        cls, vectors: Vectors, distance: Distance, name: str, rows: Rows | None = None
    ) -> SupportSet:
        """``name`` is what the rows are called in an error: ``dataset/split``; ``rows`` their
        numbers, where these are not 0, 1, 2 ...
        """
        if len(vectors) == 0:
            raise SearchError(f"{name} is empty; nothing can be searched")
        return cls(ready(vectors, distance, name, rows), distance, name)

    def queries(self, vectors: Vectors, k: int, own: Rows | None) -> Vectors:
        """Check a search's arguments and make its queries ready."""
        count, width = self.points.shape
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise SearchError(f"queries have shape {vectors.shape}; {self.name} has width {width}")
        left = count - (own is not None)
        if not 1 <= k <= left:
            raise SearchError(
                f"k = {k}, but {self.name} has {left} cases to offer; use --k 1..{left}"
            )
        return ready(vectors, self.distance, "queries")


def ready(vectors: Vectors, distance: Distance, name: str, rows: Rows | None = None) -> Vectors:
    """Contiguous float32 rows, of unit length for the cosine; raises as ``check`` does."""
    points = np.array(vectors, np.float32, order="C")
    for first in range(0, len(points), CHUNK):
        part = points[first : first + CHUNK]
        norms = _norms(part, distance, name, _numbers(rows, first))
        if distance is Distance.COSINE:
            part /= norms[:, None]
    return points


def check(vectors: Vectors, distance: Distance, name: str, rows: Rows | None = None) -> None:
    """Raise ZeroVectorError naming a row of zeros, SearchError one that is not finite.

    ``name`` is ``dataset/split``, ``rows`` are the numbers of the rows, 0, 1, 2 ... by default.
    """
    for start in range(0, len(vectors), CHUNK):
        _norms(vectors[start : start + CHUNK], distance, name, _numbers(rows, start))


def _numbers(rows: Rows | None, first: int) -> Rows:
    """What the rows from the place ``first`` on, of at most one chunk, are called."""
    return np.arange(first, first + CHUNK) if rows is None else rows[first : first + CHUNK]


def _norms(part: Vectors, distance: Distance, name: str, rows: Rows) -> NDArray[np.float64]:
    """Of each row, in float64, so that none under- or overflows."""
    norms: NDArray[np.float64] = np.linalg.norm(part.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~np.isfinite(norms))
    if len(wrong):
        raise SearchError(f"{name}/{rows[wrong[0]]} is not finite; embed it again")
    zero = np.flatnonzero(norms == 0)
    if distance is Distance.COSINE and len(zero):
        raise ZeroVectorError(
            f"{name}/{rows[zero[0]]} is a zero vector, which has no cosine; "
            "use --distance euclidean, or another backbone"
        )
    return norms


CHUNK = 4096
"""Rows that are taken to float64 at a time."""


def similarity(queries: Vectors, points: Vectors, distance: Distance) -> NDArray[np.float32]:
    """Of pairs of rows, float32 (..., D) each, broadcast; the one definition for every index.

    Computed in float64 along the last axis and rounded once, so that it depends on the two rows
    alone and not on what else is searched with them.
    """
    a, b = queries.astype(np.float64), points.astype(np.float64)
    if distance is Distance.COSINE:
        exact = np.sum(a * b, axis=-1)
    else:
        exact = 0 - np.sqrt(np.sum((a - b) ** 2, axis=-1))  # 0 -, for no negative zero
    rounded: NDArray[np.float32] = exact.astype(np.float32)
    return rounded


def rank(rows: Rows, similarities: NDArray[np.float32], k: int) -> Neighbours:
    """The best ``k`` of candidates (Q, M): by similarity, equal ones by row."""
    order = np.lexsort((rows, -similarities), axis=-1)[:, :k]
    return Neighbours(
        np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1)
    )
