"""The five figures of a split: accuracy, balanced accuracy, Cohen's kappa, precision and AUC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from embedder.errors import EvaluationError
from embedder.types import Labels, Scores, Task
from index.vote import decide

Figures = NDArray[np.float64]
"""One figure of many confusion tables, NaN where it is undefined."""

_Counts = NDArray[np.int64]
_Figure = TypeVar("_Figure", float, Figures)

_MOST_COLUMNS = 256  # a predicted class is stored in a uint8


@dataclass(frozen=True)
class Metrics:
    """The figures of one split, each in [0, 1] but ``kappa``, which is in [-1, 1].

    None stands for a figure that is undefined; ``notes`` says why, a sentence per cause. An
    ``auc`` that was not asked for is None without a note.
    """

    accuracy: float
    balanced_accuracy: float | None
    kappa: float | None
    precision: float | None
    auc: float | None
    notes: tuple[str, ...]


def predict(scores: Scores, task: Task) -> NDArray[np.uint8]:
    """Turn scores into predictions in the form of the labels, by ``index.vote.decide``.

    Args:
        scores: float64 (N, C), with C = 2 for the binary task; multi-label (N, L).
        task: the kind of labels.

    Returns:
        uint8 (N, 1); multi-label uint8 (N, L).

    Raises:
        EvaluationError: no rows, a wrong shape, or a score that is not finite.
    """
    check_scores(scores, task)
    return decide(scores, task)


def measure(
    labels: Labels, scores: Scores, task: Task, classes: Sequence[str] | int, *, with_auc: bool
) -> Metrics:
    """Measure how well scores agree with labels.

    - Accuracy as ``medmnist.evaluator.getACC``: the share of rows that ``predict`` gets right.
    - AUC as ``medmnist.evaluator.getAUC``: of the score of class 1 for the binary task, the
      unweighted mean of one class against the rest for multi-class and ordinal.
    - Balanced accuracy: the mean recall over the classes (Brodersen et al., 2010).
    - Cohen's kappa, unweighted for the ordinal task too (Cohen, 1960).
    - Precision: its unweighted mean over the classes; a class that is present but never
      predicted counts 0, as in scikit-learn.

    For the multi-label task each is taken per label, as a binary task with the classes 0 and 1
    (so precision is the mean over both outcomes), and averaged over the labels. A class absent
    from the labels leaves balanced accuracy, precision and AUC undefined; kappa is undefined
    where all labels and all predictions are one class. A figure that is undefined for one label
    is undefined for all.

    Args:
        labels: uint8 (N, 1), each below C; multi-label uint8 (N, L), each 0 or 1.
        scores: float64 (N, C), with C = 2 for the binary task; multi-label (N, L).
        task: the kind of labels.
        classes: the names of the C classes (L labels) in order, or how many there are.
        with_auc: whether to compute the AUC; a majority vote has none.

    Raises:
        EvaluationError: no rows, shapes that do not fit each other, the task or ``classes``, a
            label out of range, or a score that is not finite.
    """
    check(labels, scores, task, classes)
    size = 2 if task is Task.MULTILABEL else scores.shape[1]
    pairs = pair(labels, decide(scores, task), size)
    counts = [np.bincount(column, minlength=size * size) for column in pairs.T]
    tables = np.stack(counts).reshape(-1, size, size).astype(np.int64)
    found = {name: float(figure) for name, figure in agreement(tables).items()}
    complete = bool(tables.sum(axis=2).all())
    return Metrics(
        accuracy=found["accuracy"],
        balanced_accuracy=_defined(found["balanced_accuracy"]),
        kappa=_defined(found["kappa"]),
        precision=_defined(found["precision"]),
        auc=_auc(labels, scores, task) if with_auc and complete else None,
        notes=(*_absences(tables, task, classes, with_auc), *_constants(tables, task, classes)),
    )


def check(labels: Labels, scores: Scores, task: Task, classes: Sequence[str] | int) -> None:
    """Raise EvaluationError where ``measure`` does."""
    check_scores(scores, task)
    _check_labels(labels, scores, task, classes)


def pair(labels: Labels, predicted: Labels, size: int) -> NDArray[np.int64]:
    """Where each row counts in a confusion table laid flat: true class * size + predicted class."""
    return labels.astype(np.int64) * size + predicted


def agreement(tables: _Counts) -> dict[str, Figures]:
    """The figures of confusion tables as ``measure`` defines them, each averaged over the labels.

    Args:
        tables: int64 (..., L, C, C), rows by label, true class and predicted class; L = 1 but for
            the multi-label task.

    Returns:
        float64 (...) of every figure but the AUC, NaN where it is undefined.
    """
    labels = range(tables.shape[-3])
    with np.errstate(divide="ignore", invalid="ignore"):
        by_label = [
            {
                "accuracy": _hits(table).sum(axis=-1) / table.sum(axis=(-2, -1)),
                "balanced_accuracy": (_hits(table) / table.sum(axis=-1)).mean(axis=-1),
                "kappa": _kappa(table),
                "precision": _precision(table),
            }
            for table in (tables[..., label, :, :] for label in labels)
        ]
    return {name: mean([figures[name] for figures in by_label]) for name in by_label[0]}


def mean(figures: Iterable[_Figure]) -> _Figure:
    """Their mean, summed one by one as medmnist does, so that the last bit agrees."""
    values = list(figures)
    total: _Figure = sum(values[1:], start=values[0])
    return total / len(values)


def check_scores(scores: Scores, task: Task) -> None:
    """Raise EvaluationError where ``predict`` does."""
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise EvaluationError(
            f"scores are {scores.dtype} of shape {scores.shape}; give float64 (rows, classes)"
        )
    rows, columns = scores.shape
    if rows == 0:
        raise EvaluationError("there are no rows to measure; give a split that is not empty")
    if task is Task.BINARY and columns != 2:
        raise EvaluationError(f"scores have {columns} columns; the binary task needs 2")
    fewest = 1 if task is Task.MULTILABEL else 2
    if not fewest <= columns <= _MOST_COLUMNS:
        raise EvaluationError(
            f"scores have {columns} columns; the {task} task needs {fewest} to {_MOST_COLUMNS}"
        )
    wrong = np.argwhere(~np.isfinite(scores))
    if len(wrong):
        row, column = wrong[0]
        raise EvaluationError(
            f"the score in row {row}, column {column} is {scores[row, column]}"
            f" ({len(wrong)} such in all); every score must be finite"
        )


def _check_labels(labels: Labels, scores: Scores, task: Task, classes: Sequence[str] | int) -> None:
    rows, columns = scores.shape
    count = classes if isinstance(classes, int) else len(classes)
    if count != columns:
        raise EvaluationError(f"scores have {columns} columns; expected {count}, one per class")
    shape = (rows, columns if task is Task.MULTILABEL else 1)
    if labels.shape != shape or labels.dtype.kind not in "ui":
        raise EvaluationError(
            f"labels are {labels.dtype} of shape {labels.shape};"
            f" the {task} task with these scores needs uint8 {shape}"
        )
    highest = 1 if task is Task.MULTILABEL else columns - 1
    wrong = np.argwhere((labels < 0) | (labels > highest))
    if len(wrong):
        row, column = wrong[0]
        raise EvaluationError(
            f"the label in row {row}, column {column} is {labels[row, column]};"
            f" expected 0 to {highest}"
        )


def _hits(tables: _Counts) -> _Counts:
    return tables.diagonal(axis1=-2, axis2=-1)


def _precision(tables: _Counts) -> Figures:
    # A class that is never predicted has no hits either: 0 / 1 stands for its 0 / 0.
    shares: Figures = (_hits(tables) / np.maximum(tables.sum(axis=-2), 1)).mean(axis=-1)
    return np.where(tables.sum(axis=-1).all(axis=-1), shares, np.nan)


def _kappa(tables: _Counts) -> Figures:
    rows = tables.sum(axis=(-2, -1))
    agreed = rows * _hits(tables).sum(axis=-1)
    by_chance = (tables.sum(axis=-2) * tables.sum(axis=-1)).sum(axis=-1)
    kappa: Figures = (agreed - by_chance) / (rows * rows - by_chance)
    return kappa


def _defined(figure: float) -> float | None:
    return None if np.isnan(figure) else figure


def _auc(labels: Labels, scores: Scores, task: Task) -> float:
    if task is Task.MULTILABEL:
        truths, columns = labels, scores
    elif task is Task.BINARY:
        truths, columns = labels, scores[:, 1:]
    else:
        truths = (labels == np.arange(scores.shape[1])).astype(np.uint8)
        columns = scores
    with np.errstate(over="ignore"):  # scores may lie further apart than the largest float
        return mean(
            float(roc_auc_score(truth, column))
            for truth, column in zip(truths.T, columns.T, strict=True)
        )


def _absences(
    tables: _Counts, task: Task, classes: Sequence[str] | int, with_auc: bool
) -> list[str]:
    lost = "balanced accuracy, precision and AUC" if with_auc else "balanced accuracy and precision"
    notes = []
    for label, absent in np.argwhere(tables.sum(axis=2) == 0):
        if task is Task.MULTILABEL:
            what = f"label {_name(label, classes)} is {1 - absent} in every row"
        else:
            what = f"class {_name(absent, classes)} is absent from the labels"
        notes.append(f"{what}: {lost} are undefined")
    return notes


def _constants(tables: _Counts, task: Task, classes: Sequence[str] | int) -> list[str]:
    notes = []
    for label, table in enumerate(tables):
        if np.count_nonzero(table) != 1 or not table.trace():
            continue
        only = int(table.diagonal().argmax())
        if task is Task.MULTILABEL:
            what = f"label {_name(label, classes)} is {only} in every row and every prediction"
        else:
            what = f"every label and every prediction is class {_name(only, classes)}"
        notes.append(f"{what}: Cohen's kappa is undefined")
    return notes


def _name(index: int, classes: Sequence[str] | int) -> str:
    return str(index) if isinstance(classes, int) else f"{index} ({classes[index]})"
