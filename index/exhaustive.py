"""Exact search over every support row, in float64 matrix products.

A product may differ from ``similarity`` in the last bits, but by no more than a known bound. So
each similarity is known to lie between two float32 numbers, mostly one and the same; only where
they differ and the row may be a neighbour is it computed by ``similarity``. Neither ties nor
embeddings that nearly coincide make this slower.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedder.types import Distance, Rows, Vectors
from index.points import CHUNK
from index.search import Neighbours, SupportSet, rank, similarity

_Floats = NDArray[np.float32]

_PAIRS = 1 << 24
"""Similarities held at a time."""


def search_all(support: SupportSet, queries: Vectors, k: int, own: Rows | None) -> Neighbours:
    """As ``SearchIndex.search``, of queries that ``support.queries`` made ready."""
    rows = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    block = max(1, _PAIRS // len(support.points))
    for first in range(0, len(queries), block):
        part = queries[first : first + block]
        low, high = _bounds(support, part)
        if own is not None:
            lines = np.arange(len(part))
            low[lines, own[first : first + block]] = -np.inf
            high[lines, own[first : first + block]] = -np.inf
        least = -np.partition(-low, k - 1, axis=1)[:, k - 1]
        for number, query in enumerate(part):
            found = _decide(support, query, low[number], high[number], least[number], k)
            rows[first + number], similarities[first + number] = found.rows, found.similarities
    return Neighbours(rows, similarities)


def _bounds(support: SupportSet, queries: Vectors) -> tuple[_Floats, _Floats]:
    """Float32 (Q, N) twice: no similarity is below the first or above the second.

    A sum of D products is wrong by at most about D units in the last place of the product of the
    norms, in whatever order it is summed (N. Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, section 3.1); four times that is allowed.
    """
    shape = (len(queries), len(support.points))
    low, high = np.empty(shape, np.float32), np.empty(shape, np.float32)
    a = queries.astype(np.float64)
    unit = 4 * (a.shape[1] + 4) * float(np.finfo(np.float64).eps)
    for first in range(0, shape[1], CHUNK):
        part = slice(first, first + CHUNK)
        b = support.points[part].astype(np.float64)
        if support.distance is Distance.COSINE:
            cosines = a @ b.T
            low[:, part], high[:, part] = cosines - unit, cosines + unit
        else:
            squares = np.add.outer(np.sum(a * a, axis=1), np.sum(b * b, axis=1))
            error = 2 * unit * squares
            squares -= 2 * (a @ b.T)
            low[:, part] = 0 - np.sqrt(np.maximum(squares + error, 0))
            high[:, part] = 0 - np.sqrt(np.maximum(squares - error, 0))
    return low, high


def _decide(
    support: SupportSet, query: Vectors, low: _Floats, high: _Floats, least: np.float32, k: int
) -> Neighbours:
    """The best ``k`` of one query, of which the last has at least the similarity ``least``."""
    rows = np.flatnonzero(high >= least).astype(np.int64)
    exact = low[rows]
    vague = np.flatnonzero(exact != high[rows])
    for first in range(0, len(vague), CHUNK):
        part = vague[first : first + CHUNK]
        exact[part] = similarity(query, support.points[rows[part]], support.distance)
    return rank(rows[None], exact[None], k)
