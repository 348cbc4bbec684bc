"""Exact search by the definition, in NumPy: slow, and what every other index is compared with."""

from __future__ import annotations

import numpy as np

from embedder.types import Rows, Vectors
from index.points import CHUNK
from index.search import Neighbours, SupportSet, rank, similarity


class ReferenceIndex:
    """Compares each query with every support row."""

    def __init__(self, support: SupportSet) -> None:
        self._support = support

    def search(self, queries: Vectors, k: int, own: Rows | None = None) -> Neighbours:
        ready = self._support.queries(queries, k, own)
        points, distance = self._support.points, self._support.distance
        rows = np.empty((len(ready), k), np.int64)
        similarities = np.empty((len(ready), k), np.float32)
        for number, query in enumerate(ready):
            parts = [
                similarity(query, points[first : first + CHUNK], distance)
                for first in range(0, len(points), CHUNK)
            ]
            keep = np.ones(len(points), bool)
            if own is not None:
                keep[own[number]] = False
            others = np.flatnonzero(keep).astype(np.int64)
            found = rank(others[None], np.concatenate(parts)[None, keep], k)
            rows[number], similarities[number] = found.rows, found.similarities
        return Neighbours(rows, similarities)
