"""Exact search by the definition, in NumPy: slow, and what every other index is compared with."""

from __future__ import annotations

import numpy as np

from embedder.types import Rows, Vectors
from index.search import Neighbours, SupportSet, rank, similarity


class ReferenceIndex:
    """Compares each query with every support row."""

    def __init__(self, support: SupportSet) -> None:
        self._support = support

    def search(self, queries: Vectors, k: int, own: Rows | None = None) -> Neighbours:
        ready = self._support.queries(queries, k, own)
        points, distance = self._support.points, self._support.distance
        rows = np.arange(len(points), dtype=np.int64)
        found = []
        for number, query in enumerate(ready):
            similarities = similarity(query, points, distance)
            keep = np.ones(len(rows), bool)
            if own is not None:
                keep[own[number]] = False
            found.append(rank(rows[None, keep], similarities[None, keep], k))
        return Neighbours(
            np.concatenate([f.rows for f in found]),
            np.concatenate([f.similarities for f in found]),
        )
