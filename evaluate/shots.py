"""Few-shot support sets: a few training cases of each class vote, drawn again and again.

A draw puts the training rows in an order that its number alone decides, and takes the first ones of
each class. So every model, size and vote is given the same cases, those of few shots are among
those of more, and a row that was erased changes no other choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedder.datasets import Dataset
from embedder.errors import EvaluationError
from embedder.store import Cell
from embedder.types import Labels, Rows, Split, Task
from evaluate.knn import Protocol, evaluate
from evaluate.results import Record

Watch = Callable[[], object]
"""Told of each record."""


@dataclass(frozen=True, eq=False)
class Draw:
    """The live training rows of each class in the order in which one draw takes them.

    ``groups`` are int64 (N,) by name: ``class 2 (cat)``; of a multi-label task ``label 1 (hernia)``
    and, after all labels, ``no finding``. A row of several labels is in the group of each.
    """

    dataset: str
    groups: dict[str, Rows]

    @classmethod
    def of(cls, cell: Cell, number: int) -> Draw:
        """The draw of this number, 0, 1, 2 ..."""
        rows = order(cell.extents[Split.TRAIN].rows, number)
        live = rows[~np.isin(rows, cell.erased[Split.TRAIN])]
        return cls(cell.dataset.name, _groups(cell.dataset, cell.labels(Split.TRAIN), live))

    def support(self, shots: int) -> Rows:
        """The first ``shots`` rows of each group, or all it has; together int64, ascending.

        Raises EvaluationError where no group has that many.
        """
        most = max(map(len, self.groups.values()))
        if most < shots:
            raise EvaluationError(
                f"no class of {self.dataset}/{Split.TRAIN} has {shots} cases; "
                f"use --shots up to {most}"
            )
        return np.unique(np.concatenate([rows[:shots] for rows in self.groups.values()]))

    def notes(self, shots: int) -> tuple[str, ...]:
        """A sentence for each group that has fewer."""
        return tuple(
            f"{name} has {len(rows)} training cases: fewer than {shots} shots"
            for name, rows in self.groups.items() if len(rows) < shots
        )  # fmt: skip


def order(count: int, number: int) -> Rows:
    """The rows 0 to ``count`` - 1, int64, in the order of the draw of this number.

    Row i comes by the i-th 64-bit word of PCG64 seeded with the number, whose stream NumPy keeps
    from version to version (M. O'Neill, Technical report HMC-CS-2014-0905, 2014).
    """
    words = np.random.PCG64(number).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64)


def evaluate_shots(
    cell: Cell,
    protocol: Protocol,
    shots: Sequence[int],
    draws: int,
    watch: Watch = lambda: None,
) -> list[Record]:
    """A record for each draw and each number of shots, in this order.

    ``protocol`` has one k. Of ``shots`` cases of a class no more can be near, so that with a larger
    k cases of the other classes would always vote: the k used is at most ``shots``.

    Raises EvaluationError as ``Draw.support`` does, and what ``evaluate.knn.evaluate`` raises.
    """
    (asked,) = protocol.ks
    records = []
    for number in range(draws):
        draw = Draw.of(cell, number)
        for count in shots:
            used = replace(protocol, ks=(min(asked, count),))
            rows = draw.support(count)
            (record,) = evaluate(cell, used, rows)
            how = {**record.protocol, "k_asked": asked, "shots": count, "draw": number}
            notes = (*draw.notes(count), *record.metrics.notes)
            records.append(
                replace(
                    record, protocol=how, metrics=replace(record.metrics, notes=notes),
                    counts={**record.counts, "support": len(rows)},
                )
            )  # fmt: skip
            watch()
    return records


def _groups(dataset: Dataset, labels: Labels, rows: Rows) -> dict[str, Rows]:
    drawn = labels[rows]
    if dataset.task is not Task.MULTILABEL:
        return {
            f"class {number} ({name})": rows[drawn[:, 0] == number]
            for number, name in enumerate(dataset.classes)
        }
    found = {
        f"label {number} ({name})": rows[drawn[:, number] == 1]
        for number, name in enumerate(dataset.classes)
    }
    return {**found, "no finding": rows[~drawn.any(axis=1)]}
