"""Exact search with FAISS: brute force in float32 proposes, ``similarity`` decides.

It works in float32, whose rounding may swap neighbours that are nearly equal. A few candidates
more than asked are therefore taken and compared again; where the last of them is too close to the
k-th to be sure that none is missing, more are taken, and where that is not enough, the query is
compared with every support row.
(J. Johnson, M. Douze, H. Jegou, Billion-scale similarity search with GPUs, 2017.)

On the CPU the queries are shared out among threads, or for few queries the points, and FAISS has
one thread in each: teams of threads that wait for each other take as long as half of the product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.types import Distance, Rows, Vectors
from index import threads
from index.blas import faiss
from index.exhaustive import search_all
from index.search import Neighbours, SupportSet, rank, similarity

_SPARE = 8
"""Candidates beyond the k asked for."""

_CANDIDATES = 100_000
"""Of all queries of one block together, which bounds what a block takes in memory."""

_WIDER = 8
"""So many times as many candidates are taken once where the first ones leave a doubt."""

_AT_ONCE = 2**17
"""Numbers compared at a time: a megabyte in float64, which stays in a core's cache."""

_QUERIES, _POINTS = 1024, 4096
"""What FAISS multiplies at a time at most: 16 MB of products in each thread."""

_FEW = 32
"""Queries that are worth a thread of their own."""

_LEAST = 2**23
"""Numbers of the points that are worth a thread of their own."""

_GPU_LIMIT = 2048
"""The most neighbours that FAISS finds on a GPU."""

_GPU_TURN = Lock()
"""FAISS's GPU resources serve one thread at a time."""

faiss.cvar.distance_compute_blas_database_bs = _POINTS
faiss.cvar.distance_compute_blas_query_bs = _QUERIES
# A product from so many queries on: times their width since FAISS 1.14.2, whose default says so.
_BY_WIDTH = faiss.cvar.distance_compute_blas_threshold > 1000
faiss.cvar.distance_compute_blas_threshold = 4097 if _BY_WIDTH else 5


@cache
def _resources() -> Any:
    """One for the process: each reserves memory of the GPU."""
    return faiss.StandardGpuResources()


class FlatIndex:
    """FAISS brute force over a support set, on the CPU or on the first visible GPU."""

    def __init__(self, support: SupportSet, *, gpu: bool = False) -> None:
        self._support = support
        self._gpu = gpu
        self._longest = 1.0
        if support.distance is Distance.EUCLIDEAN:
            squares = np.einsum("nd,nd->n", support.points, support.points, dtype=np.float64)
            self._longest = float(np.sqrt(squares.max()))

    def search(self, queries: Vectors, k: int, own: Rows | None = None) -> Neighbours:
        ready = self._support.queries(queries, k, own)
        take = k + (own is not None) + _SPARE
        if take >= len(self._support.points):
            return search_all(self._support, ready, k, own)
        rows = np.empty((len(ready), k), np.int64)
        similarities = np.empty((len(ready), k), np.float32)
        sure = np.zeros(len(ready), np.bool_)
        size, shares = self._plan(len(ready), take)

        def work(first: int) -> None:
            part = slice(first, first + size)
            mine = None if own is None else own[part]
            found, sure[part] = self._search(ready[part], k, take, mine, shares)
            rows[part], similarities[part] = found.rows, found.similarities

        threads.each(work, range(0, len(ready), size), 1 if self._gpu else None)
        unsure = np.flatnonzero(~sure)
        if len(unsure):
            mine = None if own is None else own[unsure]
            found = search_all(self._support, ready[unsure], k, mine)
            rows[unsure], similarities[unsure] = found.rows, found.similarities
        return Neighbours(rows, similarities)

    def _plan(self, count: int, take: int) -> tuple[int, int]:
        """How many of ``count`` queries are searched at a time, and in how many shares of points.

        Both together keep every core busy, as far as there is enough to do.
        """
        most = max(1, _CANDIDATES // take)
        groups = 1 if self._gpu else max(1, min(threads.COUNT, -(-count // _FEW)))
        if not self._gpu:
            turns = -(-count // (groups * min(_QUERIES, most)))
            most = max(1, -(-count // (groups * max(1, turns))))
        points, width = self._support.points.shape
        worth: int = min(threads.COUNT // groups, points * width // _LEAST, points // (4 * take))
        return most, max(1, worth)

    def _search(
        self, queries: Vectors, k: int, take: int, own: Rows | None, shares: int
    ) -> tuple[Neighbours, NDArray[np.bool_]]:
        """The best ``k`` of the first ``take`` or, where that is in doubt, of more; and which are
        sure.
        """
        found, sure = self._candidates(queries, k, take, own, shares)
        unsure = np.flatnonzero(~sure)
        if len(unsure) and _WIDER * take < len(self._support.points):
            mine = None if own is None else own[unsure]
            better, sure[unsure] = self._candidates(queries[unsure], k, _WIDER * take, mine, shares)
            found.rows[unsure], found.similarities[unsure] = better.rows, better.similarities
        return found, sure

    def _candidates(
        self, queries: Vectors, k: int, take: int, own: Rows | None, shares: int
    ) -> tuple[Neighbours, NDArray[np.bool_]]:
        """The best ``k`` of the first ``take``, and for which queries none can be missing."""
        rows, least = self._propose(queries, take, shares)
        rows[rows < 0] = 0
        exact = self._compare(queries, rows)
        if own is not None:
            exact[rows == own[:, None]] = -np.inf
        found = rank(rows, exact, k)
        return found, self._margin(queries, found.similarities[:, -1], least)

    def _compare(self, queries: Vectors, rows: Rows) -> NDArray[np.float32]:
        """The similarities of queries, float32 (Q, D), and their candidates, int64 (Q, M)."""
        support, pairs = self._support, max(1, _AT_ONCE // queries.shape[1])
        exact = np.empty(rows.shape, np.float32)
        step, width = max(1, pairs // rows.shape[1]), min(pairs, rows.shape[1])
        for first in range(0, len(queries), step):
            for start in range(0, rows.shape[1], width):
                part = slice(first, first + step), slice(start, start + width)
                exact[part] = similarity(
                    queries[part[0], None], support.points[rows[part]], support.distance
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

    def _propose(
        self, queries: Vectors, take: int, shares: int
    ) -> tuple[Rows, NDArray[np.floating]]:
        """The first ``take`` rows of each query in float32, int64 (Q, take), and the most that the
        inner product of any other can be, (Q,).

        What overflows is not ordered: -1 stands where rows are missing, and infinity for the most.
        """
        points = self._support.points
        if self._gpu and take <= _GPU_LIMIT:
            with _GPU_TURN:
                found = [self._first(queries, points, take, partial(faiss.knn_gpu, _resources()))]
        else:
            found = self._shared(queries, take, shares)
        rows = np.concatenate([rows for rows, _ in found], axis=1)
        products = np.concatenate([products for _, products in found], axis=1)
        missing = (rows < 0).any(axis=1)
        if len(found) > 1:
            best = np.argpartition(-products, take - 1, axis=1)[:, :take]
            rows = np.take_along_axis(rows, best, axis=1)
            products = np.take_along_axis(products, best, axis=1)
        return rows, np.where(missing, np.inf, products.min(axis=1))

    def _shared(
        self, queries: Vectors, take: int, shares: int
    ) -> list[tuple[Rows, NDArray[np.floating]]]:
        """The first ``take`` of each share of the points."""
        points = self._support.points
        found: dict[int, tuple[Rows, NDArray[np.floating]]] = {}

        def work(number: int) -> None:
            first, last = (end * len(points) // shares for end in (number, number + 1))
            rows, products = self._first(queries, points[first:last], take, _knn)
            found[number] = np.where(rows < 0, rows, rows + first), products

        threads.each(work, range(shares))
        return [found[number] for number in range(shares)]

    def _first(
        self, queries: Vectors, points: Vectors, take: int, knn: Callable[..., Any]
    ) -> tuple[Rows, NDArray[np.floating]]:
        """The first ``take`` rows of some points, and their inner products."""
        cosine = self._support.distance is Distance.COSINE
        metric = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
        found, rows = knn(queries, points, take, metric=metric)
        if not cosine:
            squares = np.einsum("qd,qd->q", queries, queries, dtype=np.float64)
            found = (squares[:, None] - found) / 2
        return rows.astype(np.int64), found


def _knn(*arguments: Any, **options: Any) -> Any:
    """FAISS's on one thread."""
    usual: int = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return faiss.knn(*arguments, **options)
    finally:
        faiss.omp_set_num_threads(usual)
