"""The cases of one dataset as they are now: embedded ones, without those erased, with those added.

Readers take ``state`` once and see one version of everything; a change makes the next state beside
it, commits to the overlay, and swaps the reference.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from embedder.datasets import Dataset
from embedder.errors import UsageError
from embedder.store import Cell
from embedder.types import Distance, Labels, Rows, Split, Vectors, case_id
from index.build import Kind, build
from index.live import LiveIndex, Part
from index.points import gather
from index.search import SupportSet
from service.errors import BadRequestError, NotFoundError
from service.familiarity import Familiarity
from service.overlay import ADDED, AddedCase, Overlay

BLANK = (
    "the embedding is zero, which has no cosine: an image that is blank has no features for this "
    "backbone; send another"
)


@dataclass(frozen=True)
class View:
    """One served cell in one state: what is searched, and the embeddings of added cases."""

    index: LiveIndex
    familiarity: Familiarity | None
    added: Mapping[int, Vectors]


@dataclass(frozen=True)
class State:
    """One version of a dataset. ``labels``, uint8 (R, 1) or (R, L), has a row for each row number
    that an index may give; ``views`` are by fingerprint.
    """

    version: int
    labels: Labels
    erased: frozenset[tuple[Split, int]]
    cases: Mapping[int, AddedCase]
    views: Mapping[str, View]


class Collection:
    """The live state of one dataset over its served cells, by fingerprint.

    A case added has the row number ``base + number``, above those of the train split.
    """

    def __init__(
        self, dataset: Dataset, overlay: Overlay, cells: Mapping[str, Cell], kind: Kind
    ) -> None:
        self.dataset = dataset
        self.base = dataset.count(Split.TRAIN)
        self._overlay = overlay
        self._cells = cells
        self._kind = kind
        self._change = threading.Lock()
        self._stored = {split: next(iter(cells.values())).labels(split) for split in Split}
        self.state = self._load()

    def close(self) -> None:
        self._overlay.close()

    def place_of(self, row: int) -> tuple[Split | None, int]:
        """The split, None for an added case, and the number there of an index's row number."""
        return (Split.TRAIN, row) if row < self.base else (None, row - self.base)

    def labels_of(self, split: Split | None, row: int) -> Labels:
        """uint8 (1,) or (L,) of a stored case or, with ``split`` None, of an added one.

        Raises NotFoundError where there is no such case, or it was erased.
        """
        state = self.state
        self._check_is_there(state, split, row)
        labels: Labels = state.cases[row].labels if split is None else self._stored[split][row]
        return labels

    def check_row(self, state: State, row: int) -> None:
        """Raise NotFoundError where a row number of an index is that of an erased case."""
        self._check_is_there(state, *self.place_of(row))

    def _check_is_there(self, state: State, split: Split | None, row: int) -> None:
        if split is None:
            if row not in state.cases:
                raise NotFoundError(f"there is no case {self.dataset.name}/{ADDED}/{row}")
        elif (split, row) in state.erased or not 0 <= row < self.dataset.count(split):
            raise NotFoundError(f"there is no case {case_id(self.dataset.name, split, row)}")

    def vector(self, fingerprint: str, split: Split | None, row: int) -> tuple[Vectors, int | None]:
        """The embedding, float32 (D,), of a case, and its row number where an index may find it."""
        state = self.state
        self._check_is_there(state, split, row)
        if split is None:
            return state.views[fingerprint].added[row], self.base + row
        stored = self._cells[fingerprint].embeddings(split)[row]
        return np.array(stored, np.float32), row if split is Split.TRAIN else None

    def image(self, number: int, size: int) -> bytes | None:
        """The PNG of an added case."""
        return self._overlay.image(number, size)

    def sample(self, split: Split | None, count: int, seed: int) -> list[int]:
        """At most ``count`` cases that are not erased, at random, the same ones for one seed."""
        state = self.state
        if split is None:
            rows = np.array(sorted(state.cases), np.int64)
        else:
            gone = [row for part, row in state.erased if part is split]
            rows = np.setdiff1d(np.arange(self.dataset.count(split)), np.array(gone, np.int64))
        generator = np.random.default_rng(seed)
        return [int(row) for row in generator.permutation(rows)[:count]]

    def add(
        self, labels: Labels, images: Mapping[int, bytes], vectors: Mapping[str, Vectors]
    ) -> tuple[str, int]:
        """Add a case with its PNGs by size and its embeddings by fingerprint, float32 (D,) each.

        Gives its id and the version that has it. Raises BadRequestError for an embedding that is
        zero, StoreError.
        """
        if not all(vector.any() for vector in vectors.values()):
            raise BadRequestError(BLANK)
        with self._change:
            with self._overlay.adding(labels, images, vectors) as (case, version):
                state = self._with(case, vectors, version)
            self.state = state
        return case.id(self.dataset.name), version

    def erase(self, split: Split | None, row: int) -> int:
        """Erase a case; the version without it. Raises NotFoundError, UsageError for the last."""
        with self._change:
            self.labels_of(split, row)
            if split in (None, Split.TRAIN) and len(self._any().index) == 1:
                raise UsageError("the last training case cannot be erased; add another one first")
            with self._overlay.erasing(split, row) as version:
                state = self._without(split, row, version)
            self.state = state
        return version

    def _any(self) -> View:
        return next(iter(self.state.views.values()))

    def _load(self) -> State:
        """From what is stored, without any state before."""
        gone = self._overlay.erased()
        for cell in self._cells.values():
            for split in Split:
                gone[split] = sorted({*gone[split], *map(int, cell.erased[split])})
        cases = {case.number: case for case in self._overlay.cases()}
        views = {}
        for fingerprint, cell in self._cells.items():
            added = self._overlay.vectors(fingerprint)
            rows = np.setdiff1d(np.arange(self.base), np.array(gone[Split.TRAIN], np.int64))
            name = f"{self.dataset.name}/{Split.TRAIN}"
            stored = cell.embeddings(Split.TRAIN)
            index = LiveIndex.of(stored, rows, Distance.COSINE, name, self._kind)
            index = index.having(self._part(added))
            views[fingerprint] = self._view(fingerprint, index, added)
        erased = frozenset((split, row) for split in Split for row in gone[split])
        return self._state(self._overlay.version, erased, cases, views)

    def _state(
        self,
        version: int,
        erased: frozenset[tuple[Split, int]],
        cases: Mapping[int, AddedCase],
        views: Mapping[str, View],
    ) -> State:
        stored = self._stored[Split.TRAIN]
        labels = np.zeros((self.base + max(cases, default=-1) + 1, stored.shape[1]), np.uint8)
        labels[: self.base] = stored
        for number, case in cases.items():
            labels[self.base + number] = case.labels
        return State(version, labels, erased, MappingProxyType(dict(cases)), views)

    def _with(self, case: AddedCase, vectors: Mapping[str, Vectors], version: int) -> State:
        before = self.state
        row = np.array([self.base + case.number], np.int64)
        views = {}
        for fingerprint, view in before.views.items():
            added = {**view.added, case.number: vectors[fingerprint]}
            index = view.index.having(self._part(added))
            views[fingerprint] = self._view(fingerprint, index, added, view, added_rows=row)
        return self._state(version, before.erased, {**before.cases, case.number: case}, views)

    def _without(self, split: Split | None, row: int, version: int) -> State:
        before = self.state
        if split in (Split.VAL, Split.TEST):
            return replace(before, version=version, erased=before.erased | {(split, row)})
        number = row if split is None else None
        gone = np.array([row if split is not None else self.base + row], np.int64)
        views = {}
        for fingerprint, view in before.views.items():
            added = {n: vector for n, vector in view.added.items() if n != number}
            index = (
                view.index.having(self._part(added)) if split is None else view.index.without([row])
            )
            views[fingerprint] = self._view(fingerprint, index, added, view, erased_rows=gone)
        erased = before.erased if split is None else before.erased | {(split, row)}
        cases = {n: case for n, case in before.cases.items() if n != number}
        return self._state(version, erased, cases, views)

    def _part(self, added: Mapping[int, Vectors]) -> Part | None:
        numbers = sorted(added)
        if not numbers:
            return None
        rows = self.base + np.array(numbers, np.int64)
        vectors = np.stack([added[number] for number in numbers])
        support = SupportSet.of(vectors, Distance.COSINE, f"{self.dataset.name}/{ADDED}")
        # Few cases, made anew at each change: on the CPU even where the base is on a GPU.
        kind = self._kind if self._kind is Kind.REFERENCE else Kind.CPU
        return Part(build(support, kind), rows)

    def _view(
        self,
        fingerprint: str,
        index: LiveIndex,
        added: Mapping[int, Vectors],
        before: View | None = None,
        *,
        erased_rows: Rows | None = None,
        added_rows: Rows | None = None,
    ) -> View:
        stored = self._cells[fingerprint].embeddings(Split.TRAIN)

        def vectors(rows: Rows) -> Vectors:
            found = np.empty((len(rows), stored.shape[1]), np.float32)
            late = rows >= self.base
            found[~late] = gather(stored, rows[~late])
            for place in np.flatnonzero(late):
                found[place] = added[int(rows[place]) - self.base]
            return found

        familiarity = Familiarity.of(
            index, vectors, before.familiarity if before else None,
            erased=erased_rows, added=added_rows,
        )  # fmt: skip
        return View(index, familiarity, MappingProxyType(dict(added)))
