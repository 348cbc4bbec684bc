"""A search index that cases leave and join; each state of it is unchanging.

What answers is always what an index built anew over the cases that are left would answer: the base
is asked for a few more than are wanted, those erased since are passed over, and those added since
are ranked among the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from embedder.errors import SearchError
from embedder.types import Distance, Rows, Vectors
from index.build import Kind, build
from index.search import Neighbours, SearchIndex, SupportSet, rank

_SPARE = 8
"""Neighbours that are taken beyond the k asked for, in case some were erased."""

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Part:
    """An index and the row number of each of its points, int64 (N,), ascending."""

    index: SearchIndex
    rows: Rows

    @classmethod
    def of(
        cls, vectors: Vectors, rows: Rows, distance: Distance, name: str, kind: Kind
    ) -> Part | None:
        """Over these rows of ``vectors``, float32 (N, D); None where there are none."""
        if not len(rows):
            return None
        return cls(build(SupportSet.of(vectors, distance, name, rows), kind), rows)

    def search(self, queries: Vectors, k: int, gone: Rows, own: Rows | None) -> Neighbours:
        """The ``k`` nearest that are neither ``gone`` nor a query's own, fewer if there are fewer.

        A place that cannot be filled has similarity minus infinity.
        """
        count, take = len(self.rows), k + (own is not None) + _SPARE
        while True:
            take = min(take, count)
            found = self.index.search(queries, take)
            rows = self.rows[found.rows]
            drop = np.isin(rows, gone)
            if own is not None:
                drop |= rows == own[:, None]
            kept = np.where(drop, np.float32(-np.inf), found.similarities)
            best = rank(rows, kept, k)
            if take == count or np.isfinite(best.similarities[:, -1]).all():
                return best
            take *= 2


@dataclass(frozen=True)
class LiveIndex:
    """The base, without the rows ``erased`` since (int64, ascending), and what was added since.

    Rows of ``added`` are numbered above those of ``base``. ``name`` stands in errors.
    """

    base: Part | None
    name: str
    erased: Rows
    added: Part | None = None

    @classmethod
    def of(
        cls, vectors: Vectors, rows: Rows, distance: Distance, name: str, kind: Kind = Kind.AUTO
    ) -> LiveIndex:
        """Over the given rows, int64, ascending, of ``vectors``, float32 (N, D)."""
        return cls(Part.of(vectors, rows, distance, name, kind), name, _NONE)

    def without(self, rows: Collection[int]) -> LiveIndex:
        """The same without these rows of the base too."""
        return replace(self, erased=np.union1d(self.erased, np.array([*rows], np.int64)))

    def having(self, added: Part | None) -> LiveIndex:
        """The same with other added cases."""
        return replace(self, added=added)

    def __len__(self) -> int:
        base = 0 if self.base is None else len(self.base.rows) - len(self.erased)
        return base + (0 if self.added is None else len(self.added.rows))

    def rows(self) -> Rows:
        """Every row that can be found, int64, ascending."""
        base = _NONE if self.base is None else np.setdiff1d(self.base.rows, self.erased)
        return base if self.added is None else np.concatenate((base, self.added.rows))

    def search(self, queries: Vectors, k: int, own: Rows | None = None) -> Neighbours:
        """As SearchIndex has it; rows are the numbers that each case has kept."""
        left = len(self) - (own is not None)
        if not 1 <= k <= left:
            raise SearchError(
                f"k = {k}, but {self.name} has {left} cases to offer; use 1 to {left}"
            )
        parts = ((self.base, self.erased), (self.added, _NONE))
        found = [part.search(queries, k, gone, own) for part, gone in parts if part is not None]
        rows = np.concatenate([part.rows for part in found], axis=1)
        similarities = np.concatenate([part.similarities for part in found], axis=1)
        return rank(rows, similarities, k)
