"""How well each class is told from the others: the confusion matrix, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedder import console
from embedder.types import Labels, Scores, Task
from evaluate.metrics import predict
from evaluate.results import Record
from evaluate.schemes import scheme_of

Matrix = list[list[int]]
"""How many rows of each true class (line) were predicted as each class (column)."""

_WIDEST = 16
"""The most classes whose matrix is printed."""


@dataclass(frozen=True)
class ClassFigures:
    """Of one class, or label: its rows, and fractions, None where undefined.

    ``recall`` is the share of its rows that were found, ``precision`` the share of what was
    predicted as it that was right, ``f1`` their harmonic mean (C. van Rijsbergen, 1979).
    """

    name: str
    count: int
    recall: float | None
    precision: float | None
    f1: float | None


def confusion(labels: Labels, scores: Scores, task: Task, classes: int) -> list[Matrix]:
    """One C x C matrix; for a multi-label task a 2 x 2 matrix per label, absent first.

    ``labels`` uint8 (N, 1) or (N, L), ``scores`` float64 (N, C) or (N, L).
    """
    predicted = predict(scores, task)
    if task is not Task.MULTILABEL:
        return [_count(labels[:, 0], predicted[:, 0], classes)]
    return [_count(labels[:, label], predicted[:, label], 2) for label in range(classes)]


def _count(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Matrix:
    pairs = truth.astype(np.int64) * classes + predicted
    table: Matrix = np.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist()
    return table


def figures(matrices: Sequence[Matrix], classes: Sequence[str]) -> list[ClassFigures]:
    """Those of every class, or label, in their order."""
    if len(matrices) == 1 and len(matrices[0]) == len(classes):
        table = np.array(matrices[0])
        counts = [
            (table[c, c], table[c].sum() - table[c, c], table[:, c].sum() - table[c, c])
            for c in range(len(classes))
        ]
    else:
        counts = [(table[1][1], table[1][0], table[0][1]) for table in map(np.array, matrices)]
    return [
        ClassFigures(
            name, int(hits + missed), _share(hits, hits + missed), _share(hits, hits + false),
            _share(2 * hits, 2 * hits + missed + false),
        )
        for name, (hits, missed, false) in zip(classes, counts, strict=True)
    ]  # fmt: skip


def tables(record: Record, classes: Sequence[str]) -> str:
    """A line per class in percent and, of a single-label task with few classes, the matrix."""
    assert record.confusion is not None
    rows = [
        (f.name, f"{f.count:,}", *(_percent(value) for value in (f.recall, f.precision, f.f1)))
        for f in figures(record.confusion, classes)
    ]
    parts = [
        f"{record.variant} {record.dataset} {record.size} px, {scheme_of(record)[1]}, "
        f"{record.split} split",
        console.table(rows, ("class", "cases", "recall", "precision", "F1"), "lrrrr"),
    ]
    if len(record.confusion) == 1 and len(classes) <= _WIDEST:
        lines = [
            (f"{number} {name}", *(str(count) for count in line))
            for number, (name, line) in enumerate(zip(classes, record.confusion[0], strict=True))
        ]
        head = ("true \\ predicted", *map(str, range(len(classes))))
        parts.append(console.table(lines, head, "l" + "r" * len(classes)))
    return "\n\n".join(parts)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
