"""Exact search with FAISS: brute force in float32 proposes, ``similarity`` decides.

It works in float32, whose rounding may swap neighbours that are nearly equal. A few candidates
more than asked are therefore taken and compared again; where the last of them is too close to the
k-th to be sure that none is missing, more are taken, and where that is not enough, the query is
compared with every support row.
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

_WIDER = 8
"""So many times as many candidates are taken once where the first ones leave a doubt."""

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
        self._longest, self._squares = 1.0, None
        if support.distance is Distance.EUCLIDEAN:
            squares = np.einsum("nd,nd->n", support.points, support.points, dtype=np.float64)
            self._longest = float(np.sqrt(squares.max()))
            with np.errstate(over="ignore"):
                self._squares = squares.astype(np.float32)

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
            found = self._search(ready[part], k, take, mine)
            rows[part], similarities[part] = found.rows, found.similarities
        return Neighbours(rows, similarities)

    def _search(self, queries: Vectors, k: int, take: int, own: Rows | None) -> Neighbours:
        if take >= len(self._support.points):
            return search_all(self._support, queries, k, own)
        found, sure = self._candidates(queries, k, take, own)
        unsure = np.flatnonzero(~sure)
        if len(unsure):
            mine = None if own is None else own[unsure]
            better = self._search(queries[unsure], k, self._more(k, take), mine)
            found.rows[unsure], found.similarities[unsure] = better.rows, better.similarities
        return found

    def _more(self, k: int, take: int) -> int:
        """How many candidates follow on ``take`` that were too few: once more, then all."""
        wide = _WIDER * (k + 1 + _SPARE)
        return wide if take < wide else len(self._support.points)

    def _candidates(
        self, queries: Vectors, k: int, take: int, own: Rows | None
    ) -> tuple[Neighbours, NDArray[np.bool_]]:
        """The best ``k`` of the first ``take``, and for which queries none can be missing."""
        rows, products = self._propose(queries, take)
        missing = rows < 0  # nothing orders what overflows float32
        rows[missing] = 0
        exact = self._compare(queries, rows)
        if own is not None:
            exact[rows == own[:, None]] = -np.inf
        found = rank(rows, exact, k)
        sure = self._margin(queries, found.similarities[:, -1], products.min(axis=1))
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
        self, queries: Vectors, kth: NDArray[np.float32], least: NDArray[np.floating]
    ) -> NDArray[np.bool_]:
        """Whether the k-th is further above the least candidate than float32 can be wrong.

        What was not proposed has a product of at most ``least`` in float32. In whatever order D
        terms are added, that is wrong by at most D units in the last place of the product of the
        norms (N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), and
        by D times the smallest normal number for what underflows; 16 units more are for the
        squares, and for similarities that round alike. Nothing is sure where it may overflow.
        """
        width = queries.shape[1]
        limits = np.finfo(np.float32)
        unit = (width + 16) * float(limits.eps) / 2
        reached, scale = kth.astype(np.float64), np.ones(len(kth))
        if self._support.distance is Distance.EUCLIDEAN:
            norms = np.linalg.norm(queries.astype(np.float64), axis=1)
            reached, scale = (norms**2 - reached**2) / 2, (norms + self._longest) ** 2
        sure: NDArray[np.bool_] = reached - least > unit * scale + width * float(limits.tiny)
        return sure & (scale < float(limits.max))

    def _propose(self, queries: Vectors, take: int) -> tuple[Rows, NDArray[np.floating]]:
        """The first ``take`` rows of each query in float32, int64 (Q, take), and their products.

        As ``propose`` has both. -1 stands where there are no more.
        """
        points = self._support.points
        if not self._gpu or take > _GPU_LIMIT:
            return propose(queries, points, self._squares, take)
        cosine = self._support.distance is Distance.COSINE
        metric = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
        with _GPU_TURN:
            found, rows = faiss.knn_gpu(_resources(), queries, points, take, metric=metric)
        if cosine:
            return rows.astype(np.int64), found
        squares = np.einsum("qd,qd->q", queries, queries, dtype=np.float64)
        return rows.astype(np.int64), (squares[:, None] - found) / 2
