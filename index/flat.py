"""Exact search with FAISS: brute force in float32 proposes, ``similarity`` decides.

It works in float32, whose rounding may swap neighbours that are nearly equal. A few candidates
more than asked are therefore taken and compared again; where the last of them is too close to the
k-th to be sure that none is missing, the query is compared with every support row instead.
(J. Johnson, M. Douze, H. Jegou, Billion-scale similarity search with GPUs, 2017.)
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from embedder.types import Distance, Rows, Vectors
from index.exhaustive import search_all
from index.propose import propose
from index.search import Neighbours, SupportSet, rank, similarity

_SPARE = 8
"""Candidates beyond the k asked for."""

_CANDIDATES = 100_000
"""Of all queries of one block together, which bounds what a block takes in memory."""

_AT_ONCE = 2**17
"""Numbers compared at a time: a megabyte in float64, which stays in a core's cache."""

_GPU_LIMIT = 2048
"""The most neighbours that FAISS finds on a GPU."""


_GPU_TURN = Lock()
"""FAISS's GPU resources serve one thread at a time."""


@cache
def _resources() -> Any:
    """One for the process: each reserves memory of the GPU."""
    return faiss.StandardGpuResources()


class FlatIndex:
    """FAISS brute force over a support set, on the CPU or on the first visible GPU."""

    def __init__(self, support: SupportSet, *, gpu: bool = False) -> None:
        self._support = support
        self._gpu = gpu
        squares = np.einsum("nd,nd->n", support.points, support.points, dtype=np.float64)
        self._longest = float(np.sqrt(squares.max()))
        euclidean = support.distance is Distance.EUCLIDEAN
        with np.errstate(over="ignore"):
            self._squares = squares.astype(np.float32) if euclidean else None

    def search(self, queries: Vectors, k: int, own: Rows | None = None) -> Neighbours:
        ready = self._support.queries(queries, k, own)
        take = k + (own is not None) + _SPARE
        if take >= len(self._support.points):
            return search_all(self._support, ready, k, own)
        rows = np.empty((len(ready), k), np.int64)
        similarities = np.empty((len(ready), k), np.float32)
        block = max(1, _CANDIDATES // take)
        for first in range(0, len(ready), block):
            part = slice(first, first + block)
            mine = None if own is None else own[part]
            found, sure = self._candidates(ready[part], k, take, mine)
            rows[part], similarities[part] = found.rows, found.similarities
            unsure = first + np.flatnonzero(~sure)
            if len(unsure):
                mine = None if own is None else own[unsure]
                found = search_all(self._support, ready[unsure], k, mine)
                rows[unsure], similarities[unsure] = found.rows, found.similarities
        return Neighbours(rows, similarities)

    def _candidates(
        self, queries: Vectors, k: int, take: int, own: Rows | None
    ) -> tuple[Neighbours, NDArray[np.bool_]]:
        """The best ``k`` of FAISS's first ``take``, and for which queries none can be missing."""
        rows = self._propose(queries, take)
        missing = rows < 0  # nothing orders what overflows float32
        rows[missing] = 0
        exact = self._compare(queries, rows)
        worst = exact.min(axis=1)
        if own is not None:
            exact[rows == own[:, None]] = -np.inf
        found = rank(rows, exact, k)
        sure = self._margin(queries, found.similarities[:, -1], worst)
        return found, sure & ~missing.any(axis=1)

    def _compare(self, queries: Vectors, rows: Rows) -> NDArray[np.float32]:
        """The similarities of queries, float32 (Q, D), and their candidates, int64 (Q, M)."""
        support = self._support
        exact = np.empty(rows.shape, np.float32)
        step = max(1, _AT_ONCE // (rows.shape[1] * queries.shape[1]))
        for first in range(0, len(queries), step):
            part = slice(first, first + step)
            exact[part] = similarity(
                queries[part, None], support.points[rows[part]], support.distance
            )
        return exact

    def _margin(
        self, queries: Vectors, kth: NDArray[np.float32], worst: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Whether the k-th is further from the worst candidate than float32 can be wrong.

        The rounding error of a float32 inner product of D terms grows as sqrt(D) units in the last
        place of the product of the norms (N. Higham, Accuracy and Stability of Numerical
        Algorithms, 2002, section 2.8); four times that is allowed on either side, and D times
        the smallest normal number for what underflows. Nothing is sure where it may overflow.
        """
        width = queries.shape[1]
        limits = np.finfo(np.float32)
        unit = 8 * np.sqrt(width) * float(limits.eps)
        if self._support.distance is Distance.COSINE:
            gap, scale = kth - worst, np.ones(len(kth))
        else:
            gap = worst.astype(np.float64) ** 2 - kth.astype(np.float64) ** 2
            norms = np.linalg.norm(queries.astype(np.float64), axis=1)
            scale = (norms + self._longest) ** 2
        sure: NDArray[np.bool_] = gap > unit * scale + width * float(limits.tiny)
        return sure & (scale < float(limits.max))

    def _propose(self, queries: Vectors, take: int) -> Rows:
        """The first ``take`` rows of each query in float32, int64 (Q, take).

        -1 stands where there are no more.
        """
        points = self._support.points
        if not self._gpu or take > _GPU_LIMIT:
            return propose(queries, points, self._squares, take)
        cosine = self._support.distance is Distance.COSINE
        metric = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
        with _GPU_TURN:
            _, rows = faiss.knn_gpu(_resources(), queries, points, take, metric=metric)
        proposed: Rows = rows.astype(np.int64)
        return proposed
