"""The search protocol: which training cases lie nearest to each query, and how near.

Similarity is the cosine of two embeddings, or minus their Euclidean distance. Every index gives the
same answer to the last bit, because whatever finds the candidates, ``similarity`` below decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedder.errors import SearchError
from embedder.types import Distance, Rows, Split, Vectors, case_id
from index.points import ready


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
        """Over ``vectors``, float32 or float16 (N, D), or some ``rows`` of them, int64.

        ``name`` is what they are called in an error: ``dataset/split``.
        """
        if len(vectors if rows is None else rows) == 0:
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
                f"k = {k}, but {self.name} has {left} cases to offer; use a --k from 1 to {left}"
            )
        return ready(vectors, self.distance, "queries")


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
