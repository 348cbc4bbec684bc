"""How usual an image is: its mean neighbour similarity among those of the training cases.

Each of a fixed sample of training cases is given its nearest others, itself left out. The sample is
drawn by a hash of the row number, so that it depends on nothing but which cases there are: after
any additions and erasures it is the one that would be drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedder.types import Rows, Vectors
from index.live import LiveIndex
from index.search import Neighbours

SAMPLE = 1000
"""Training cases that stand for all: a percentile is right to about 1.6 points (one sigma)."""

MOST = 100
"""The largest k that is answered."""


@dataclass(frozen=True)
class Familiarity:
    """The sampled ``rows``, int64 (S,), ascending, and the nearest others of each."""

    rows: Rows
    nearest: Neighbours

    @classmethod
    def of(
        cls,
        index: LiveIndex,
        vectors: Callable[[Rows], Vectors],
        before: Familiarity | None = None,
        *,
        erased: Rows | None = None,
        added: Rows | None = None,
    ) -> Familiarity | None:
        """The distribution of ``index``; ``vectors`` gives the embeddings of some rows.

        With ``before``, that of the index before these rows were erased and added, only what may
        have changed is searched. None where there are fewer than two cases.
        """
        k = min(MOST, len(index) - 1)
        if k < 1:
            return None
        rows = draw(index.rows())
        kept = np.zeros(len(rows), bool)
        similarities = np.empty((len(rows), k), np.float32)
        nearest = np.empty((len(rows), k), np.int64)
        if before is not None and before.nearest.rows.shape[1] == k:
            kept, places = _unchanged(rows, before, vectors, erased, added)
            nearest[kept] = before.nearest.rows[places]
            similarities[kept] = before.nearest.similarities[places]
        left = np.flatnonzero(~kept)
        if len(left):
            found = index.search(vectors(rows[left]), k, rows[left])
            nearest[left], similarities[left] = found.rows, found.similarities
        return cls(rows, Neighbours(nearest, similarities))

    def percentile(self, similarities: NDArray[np.float32]) -> float:
        """Of a query's neighbour similarities, float32 (k,): the mean's rank in [0, 100].

        Means that are equal count half, as in scipy's ``percentileofscore(kind="mean")``.
        """
        k = min(len(similarities), self.nearest.similarities.shape[1])
        means = self.nearest.similarities[:, :k].mean(axis=1, dtype=np.float64)
        mean = similarities[:k].mean(dtype=np.float64)
        below, equal = np.count_nonzero(means < mean), np.count_nonzero(means == mean)
        return 100 * float(below + equal / 2) / len(means)


def draw(rows: Rows) -> Rows:
    """At most SAMPLE of ``rows``, by the smallest hashes, ascending."""
    if len(rows) <= SAMPLE:
        return rows
    order = np.argpartition(_hash(rows), SAMPLE)[:SAMPLE]
    return np.sort(rows[order])


def _hash(rows: Rows) -> NDArray[np.uint64]:
    """SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014): a bijection, so without ties."""
    mixed = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _unchanged(
    rows: Rows,
    before: Familiarity,
    vectors: Callable[[Rows], Vectors],
    erased: Rows | None,
    added: Rows | None,
) -> tuple[NDArray[np.bool_], Rows]:
    """Which of ``rows`` have the neighbours they had, and their places in ``before``.

    A case's neighbours stay unless one of them was erased, or one as near as the last was added.
    """
    same = np.ones(len(before.rows), bool)
    if erased is not None:
        same &= ~np.isin(before.nearest.rows, erased).any(axis=1)
    if added is not None:
        last = before.nearest.similarities[:, -1]
        known = np.isin(before.rows, rows)  # the others may be gone, and are not asked for
        near = _cosines(vectors(before.rows[known]), vectors(added)).max(axis=1)
        same[known] &= near < last[known] - _DOUBT
    kept = np.isin(rows, before.rows[same])
    places = np.flatnonzero(same & np.isin(before.rows, rows[kept]))
    return kept, places.astype(np.int64)


_DOUBT = 1e-6
"""The most that a similarity can be wrong in the comparison that decides what is searched again."""


def _cosines(queries: Vectors, points: Vectors) -> NDArray[np.float64]:
    a, b = queries.astype(np.float64), points.astype(np.float64)
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    cosines: NDArray[np.float64] = (a @ b.T) / norms
    return cosines
