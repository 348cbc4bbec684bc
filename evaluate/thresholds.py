"""What is chosen on val or corrected before scores decide: thresholds, class priors and k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from embedder.errors import EvaluationError
from embedder.registry import find
from embedder.types import Labels, Scores, Task
from evaluate.calibration import check_probabilities
from evaluate.metrics import Metrics, check

_DEFAULT = 0.5
_DECIMALS = 12
_BITS = 40
"""Of a corrected score that are kept."""

_Floats = NDArray[np.float64]


class Criterion(StrEnum):
    BALANCED = "balanced-accuracy"
    F1 = "f1"


@dataclass(frozen=True)
class Thresholds:
    """A label is present where its score is above its threshold, each in (0, 1)."""

    values: tuple[float, ...]
    criterion: Criterion
    notes: tuple[str, ...]


def choose_thresholds(
    labels: Labels,
    scores: Scores,
    classes: Sequence[str] | int,
    criterion: Criterion = Criterion.BALANCED,
) -> Thresholds:
    """The threshold of each label of a multi-label task that serves the val split best.

    By default the one with the highest balanced accuracy, which is that of Youden's J (W. J.
    Youden, Index for rating diagnostic tests, Cancer 3, 32-35, 1950); otherwise with the highest
    F1 (C. J. van Rijsbergen, Information retrieval, 2nd edition, 1979). Looked at are 0.5 and the
    middle between any two neighbours among 0, the scores that occur, and 1. Of equally good ones
    the nearest to 0.5 is taken, then the lower. A label that is 0 in every row, or 1 in every row,
    keeps 0.5, with a note.

    Args:
        labels: those of val, uint8 (N, L), each 0 or 1.
        scores: float64 (N, L), each in [0, 1].
        classes: the names of the labels in order, or how many there are.

    Raises:
        EvaluationError: ``evaluate.metrics.measure`` raises it, or scores outside [0, 1].
    """
    check(labels, scores, Task.MULTILABEL, classes)
    check_probabilities(scores, Task.MULTILABEL)
    values, notes = [], []
    for label, (truth, score) in enumerate(zip(labels.T, scores.T, strict=True)):
        if truth.min() == truth.max():
            name = str(label) if isinstance(classes, int) else f"{label} ({classes[label]})"
            notes.append(
                f"label {name} is {truth[0]} in every row of val: its threshold stays {_DEFAULT}"
            )
            values.append(_DEFAULT)
        else:
            values.append(_best(score[truth == 1], score[truth == 0], criterion))
    return Thresholds(tuple(values), criterion, tuple(notes))


def recentre(scores: Scores, thresholds: Sequence[float]) -> Scores:
    """Multi-label scores, float64 (N, L), moved so that 0.5 decides as each threshold did.

    Below the threshold t a score s becomes s / 2t, above it 1 - (1 - s) / 2(1 - t). The order of
    the scores stays but for rounding, and so does the AUC; probabilities they are no more.

    Raises EvaluationError where there is not one threshold in (0, 1) per label.
    """
    t = np.asarray(thresholds, dtype=np.float64)
    if t.shape != scores.shape[1:] or not ((t > 0) & (t < 1)).all():
        raise EvaluationError(
            f"the thresholds {list(thresholds)} do not fit {scores.shape[1]} labels;"
            " give one above 0 and below 1 for each"
        )
    above = np.maximum(1 - (1 - scores) / (2 * (1 - t)), np.nextafter(0.5, 1))
    moved: Scores = np.where(scores > t, above, scores / (2 * t))
    return moved


def priors(labels: Labels, task: Task, class_count: int, left_out: Labels | None = None) -> _Floats:
    """The share of each class, or of each label of a multi-label task: float64 (C,) or (L,).

    ``left_out`` are the labels of queries that are among the rows and do not count for themselves:
    uint8 (Q, 1) or (Q, L). There are then shares for each of them, float64 (Q, C) or (Q, L).

    Raises EvaluationError where there are no rows.
    """
    rows = len(labels) - (left_out is not None)
    if rows < 1:
        raise EvaluationError("there are no rows to take priors from; give the train split")
    if task is Task.MULTILABEL:
        counts = labels.sum(axis=0, dtype=np.int64)
    else:
        counts = np.bincount(labels[:, 0], minlength=class_count)
    if left_out is not None:
        own = left_out if task is Task.MULTILABEL else left_out == np.arange(class_count)
        counts = counts - own
    shares: _Floats = counts / rows
    return shares


def correct_priors(scores: Scores, train_priors: _Floats, task: Task) -> Scores:
    """Scores as they would be if every class were equally frequent.

    Each is divided by the prior of its class, and those of a row are made to sum to 1: M. Saerens,
    P. Latinne, C. Decaestecker, Adjusting the outputs of a classifier to new a priori
    probabilities, Neural Computation 14, 21-41, 2002, with uniform new priors. For the
    multi-label task, present and absent are the classes of each label: the odds of its score are
    divided by the odds of its prior. What is found is rounded to 40 bits, so that scores which
    are equal but for rounding tie.

    Args:
        scores: probabilities, float64 (N, C) or (N, L).
        train_priors: those of ``priors`` for the labels that the scores were learnt from, for all
            rows alike or for each row.
        task: the kind of labels.

    Raises:
        EvaluationError: scores that are no probabilities, another number of priors, or a score
            above 0 of a class whose prior is 0.
    """
    check_probabilities(scores, task)
    if train_priors.shape not in (scores.shape[1:], scores.shape):
        raise EvaluationError(
            f"there are {train_priors.shape[-1]} priors for {scores.shape[1]} columns of scores;"
            " take them from the train split of the same dataset"
        )
    scores = scores.clip(0, 1)
    if task is Task.MULTILABEL:
        present = _divide(scores, train_priors)
        return _settle(present / (present + _divide(1 - scores, 1 - train_priors)))
    divided = _divide(scores, train_priors)
    return _settle(divided / divided.sum(axis=1, keepdims=True))


def choose_k(results: Mapping[int, Metrics], metric: str = "accuracy") -> int:
    """The k that has the highest figure on val; of equally good ones the smallest.

    ``metric`` is a field of Metrics. A k for which it is undefined is passed over. Raises
    UnknownNameError for another name, EvaluationError where no k has the figure.
    """
    find(dict.fromkeys(f.name for f in fields(Metrics) if f.name != "notes"), metric, "metric")
    found = {k: getattr(results[k], metric) for k in sorted(results)}
    known = {k: figure for k, figure in found.items() if figure is not None}
    if not known:
        raise EvaluationError(f"{metric} is defined for no k on val; choose k by another metric")
    return max(known, key=known.__getitem__)


def _best(present: _Floats, absent: _Floats, criterion: Criterion) -> float:
    """The best threshold for the scores of the rows that have a label and of those that lack it."""
    values = np.unique(np.concatenate([present, absent, [0, 1]]).clip(0, 1))
    middles = np.append((values[:-1] + values[1:]) / 2, _DEFAULT)
    candidates = np.unique(middles[(middles > 0) & (middles < 1)])
    hits = len(present) - np.searchsorted(np.sort(present), candidates, "right")
    false = len(absent) - np.searchsorted(np.sort(absent), candidates, "right")
    if criterion is Criterion.BALANCED:
        # Balanced accuracy but for its scale: whole numbers, so that a tie is a tie.
        worth = hits * len(absent) + (len(absent) - false) * len(present)
    else:
        worth = 2 * hits / (hits + false + len(present))
    best = candidates[worth == worth.max()]
    distances = np.round(np.abs(best - _DEFAULT), _DECIMALS)
    return float(best[distances.argmin()])


def _divide(scores: Scores, shares: _Floats) -> Scores:
    wrong = np.argwhere((scores > 0) & (shares == 0))
    if len(wrong):
        row, column = wrong[0]
        raise EvaluationError(
            f"row {row} has a score for what column {column} never is in train;"
            " its prior cannot be corrected"
        )
    return np.divide(scores, shares, out=np.zeros_like(scores), where=shares > 0)


def _settle(scores: Scores) -> Scores:
    fractions, exponents = np.frexp(scores)
    settled: Scores = np.ldexp(np.round(np.ldexp(fractions, _BITS)), exponents - _BITS)
    return settled
