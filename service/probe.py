"""The linear probe of an index: a head that ``probe-eval`` kept in the store, and what it answers.

Heads are read once, when the service starts. Of several that fit a cell, the one serves that has
the lowest mean log loss on the cases of val that are not erased then; of equal ones the first by
its path. The loss is computed here for all of them alike: what their solvers have recorded is not
always over the same cases.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder.datasets import Dataset
from embedder.errors import StoreError
from embedder.selection import title
from embedder.store import Cell
from embedder.types import Labels, Scores, Split, Vectors
from index import heads
from index.heads import Head
from service.answers import Probe
from service.collection import State

PROBE = "probe"
"""Stands for a vote where a probe decides."""

log = logging.getLogger("casebook")


@dataclass(frozen=True)
class ServedProbe:
    """A head that answers for a cell of ``dataset``.

    ``path`` is that of its file within the store, ``loss`` its mean log loss on val, which may be
    infinite.
    """

    head: Head
    path: str
    loss: float
    dataset: Dataset

    def scores(self, vector: Vectors) -> Scores:
        """Of an embedding as it is stored, float32 (D,): float64 (1, C) or (1, L)."""
        return self.head.scores(vector[None])

    def describe(self, state: State) -> Probe:
        """What answers say of it, for one state of its dataset."""
        known = self.head.provenance
        return Probe(
            head=self.path, solver=known.solver, seed=known.seed,
            train_cases=known.counts[Split.TRAIN], val_cases=known.counts[Split.VAL],
            val_loss=self.loss if math.isfinite(self.loss) else None,
            changes_since=self.changes_since(state),
        )  # fmt: skip

    def changes_since(self, state: State) -> int:
        """How many cases were added or erased that it does not know of.

        No probe is trained on added cases. Of erased ones a head tells how many it was given, not
        which: that is compared with how many are left.
        """
        changes = len(state.cases)
        for split in (Split.TRAIN, Split.VAL):
            gone = sum(part is split for part, _ in state.erased)
            left = self.dataset.count(split) - gone
            changes += abs(self.head.provenance.counts[split] - left)
        return changes

    def is_of(self, protocol: Mapping[str, Any]) -> bool:
        """Whether the result record of this protocol measured this head, as it answers here.

        A head that is trained again takes the path of the one before; what was chosen, the loss
        among it, tells them apart.
        """
        known = self.head.provenance
        mine = {**known.protocol, "seed": known.seed, **known.chosen, "head": self.path}
        return {"notes": [], **mine} == protocol


def find_probe(root: Path, cell: Cell, erased: Iterable[tuple[Split, int]]) -> ServedProbe | None:
    """The probe of ``cell`` in the store at ``root``, or None; ``erased`` cases have no say in it.

    A head that cannot be read, or is of another cell, is left out with a warning.
    """
    known = list(_heads(root, cell))
    if not known:
        return None
    vectors, labels = _held(cell, erased)
    found = [(head.loss(vectors, labels), place, head) for place, head in known]
    loss, place, head = min(found, key=lambda one: one[:2])
    return ServedProbe(head, place.relative_to(root).as_posix(), loss, cell.dataset)


def _heads(root: Path, cell: Cell) -> Iterator[tuple[Path, Head]]:
    try:
        places = heads.paths(root, cell.dataset.name, cell.size, cell.header.variant)
    except StoreError as error:
        log.warning("%s: no linear probe is served; %s", title(cell), error)
        return
    for place in places:
        try:
            yield place, heads.read(place, cell)
        except StoreError as error:
            log.warning("%s: a linear probe is left out; %s", title(cell), error)


def _held(cell: Cell, erased: Iterable[tuple[Split, int]]) -> tuple[Vectors, Labels]:
    """The cases of val that are not erased; without a copy of the embeddings where none is."""
    gone = np.array([row for split, row in erased if split is Split.VAL], np.int64)
    vectors, labels = cell.embeddings(Split.VAL), cell.labels(Split.VAL)
    rows = np.setdiff1d(cell.live(Split.VAL), gone)
    return (vectors, labels) if len(rows) == len(labels) else (vectors[rows], labels[rows])
