"""Whether scores are probabilities: calibration error, Brier score and the reliability curve.

For anything that scores in [0, 1]: the shares of a vote, where only few values are there, and many
are exactly 0 or 1, as well as the probabilities of a probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from embedder.errors import EvaluationError, UsageError
from embedder.types import Labels, Scores, Task
from evaluate.metrics import check, check_scores, mean
from index.vote import decide

BINS = 15
"""As in Guo et al., 2017."""

_ROUNDING = 1e-4

_Floats = NDArray[np.float64]
_Outcomes = NDArray[np.bool_]


class Binning(StrEnum):
    WIDTH = "equal-width"
    MASS = "equal-mass"


@dataclass(frozen=True)
class Bin:
    """The rows with a score in (low, high]; 0 is in the first bin.

    ``confidence`` is their mean score and ``observed`` the share of them in which came true what
    was scored, that is, their accuracy where the score is that of the prediction. Both are None in
    an empty bin.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    observed: float | None


@dataclass(frozen=True)
class Calibration:
    """``curves`` holds a reliability curve, of several labels one each, by ascending score.

    ``brier`` is in [0, 2] for the multi-class and ordinal tasks, in [0, 1] otherwise.
    """

    ece: float
    classwise_ece: float
    brier: float
    bins: int
    binning: Binning
    curves: tuple[tuple[Bin, ...], ...]


def measure_calibration(
    labels: Labels,
    scores: Scores,
    task: Task,
    classes: Sequence[str] | int,
    *,
    bins: int = BINS,
    binning: Binning = Binning.WIDTH,
) -> Calibration:
    """Measure how far scores are from the shares that come true.

    - ``ece``, the expected calibration error: the mean over rows of the distance between the mean
      score and the observed share in their bin (M. P. Naeini, G. F. Cooper, M. Hauskrecht, AAAI
      2015; C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On calibration of modern neural networks,
      ICML 2017). Multi-class and ordinal: the score of the predicted class, and whether it is
      right. Binary: the score of class 1, and whether that is the class. Multi-label: as binary
      for each label, averaged. ``curves`` are what it is taken of.
    - ``classwise_ece``: the same for the score of each class, averaged over the classes (M. Kull
      et al., Beyond temperature scaling, NeurIPS 2019). Multi-label: the same as ``ece``.
    - ``brier``: multi-class and ordinal the squared distances summed over the classes, averaged
      over rows (G. W. Brier, Verification of forecasts expressed in terms of probability, Monthly
      Weather Review 78, 1-3, 1950). Binary: of class 1 alone, which is half of that sum.
      Multi-label: as binary for each label, averaged.

    Args:
        labels: uint8 (N, 1), each below C; multi-label uint8 (N, L), each 0 or 1.
        scores: float64 (N, C), with C = 2 for the binary task; multi-label (N, L). Each in [0, 1],
            those of a row summing to 1 but for the multi-label task, to within 1e-4.
        task: the kind of labels.
        classes: the names of the C classes (L labels) in order, or how many there are.
        bins: how many bins; ``reliability`` tells when there are fewer.
        binning: bins of equal width, or of about equally many rows.

    Raises:
        EvaluationError: ``measure`` raises it, or scores that are no probabilities.
        UsageError: less than one bin.
    """
    check(labels, scores, task, classes)
    check_probabilities(scores, task)
    curves = tuple(
        reliability(score, outcome, bins, binning)
        for score, outcome in _scored(labels, scores, task)
    )
    ece = mean([expected_error(curve) for curve in curves])
    if task is Task.MULTILABEL:
        classwise = ece
    else:
        classwise = mean(
            [
                expected_error(reliability(score, labels[:, 0] == c, bins, binning))
                for c, score in enumerate(scores.T)
            ]
        )
    return Calibration(ece, classwise, brier(labels, scores, task), bins, binning, curves)


def reliability(
    scores: _Floats, outcomes: _Outcomes, bins: int = BINS, binning: Binning = Binning.WIDTH
) -> tuple[Bin, ...]:
    """The reliability curve of one score, float64 (N,), of outcomes, bool (N,).

    Bins of equal width are there even if empty. Those of equal mass end at scores that occur, so
    that equal scores share a bin, and none is empty: few distinct scores make fewer bins (K.
    Nguyen, B. O'Connor, Posterior calibration and exploratory analysis for natural language
    processing models, EMNLP 2015). Raises UsageError for less than one bin.
    """
    if bins < 1:
        raise UsageError(f"{bins} bins hold no scores; {BINS} are usual")
    scores = scores.clip(0, 1)
    ends = _equal_width(bins) if binning is Binning.WIDTH else _equal_mass(scores, bins)
    place = np.searchsorted(ends, scores)
    edges = [0.0, *ends.tolist(), 1.0]
    counts, confidences, observed = (
        np.bincount(place, weights, minlength=len(ends) + 1).tolist()
        for weights in (np.ones(len(scores)), scores, outcomes.astype(np.float64))
    )
    return tuple(
        Bin(
            low=edges[i],
            high=edges[i + 1],
            count=int(count),
            confidence=confidences[i] / count if count else None,
            observed=observed[i] / count if count else None,
        )
        for i, count in enumerate(counts)
    )


def expected_error(curve: Sequence[Bin]) -> float:
    """The expected calibration error of a reliability curve that has rows."""
    rows = sum(part.count for part in curve)
    return sum(
        part.count / rows * abs(part.confidence - part.observed)
        for part in curve
        if part.confidence is not None and part.observed is not None
    )


def brier(labels: Labels, scores: Scores, task: Task) -> float:
    """The Brier score as ``measure_calibration`` defines it."""
    if task is Task.MULTILABEL:
        return float(((scores - labels) ** 2).mean())
    if task is Task.BINARY:
        return float(((scores[:, 1] - labels[:, 0]) ** 2).mean())
    truths = labels == np.arange(scores.shape[1])
    return float(((scores - truths) ** 2).sum(axis=1).mean())


def _scored(labels: Labels, scores: Scores, task: Task) -> list[tuple[_Floats, _Outcomes]]:
    """What is scored and whether it came true: a pair, or one for each label."""
    if task is Task.MULTILABEL:
        return list(zip(scores.T, (labels == 1).T, strict=True))
    if task is Task.BINARY:
        return [(scores[:, 1], labels[:, 0] == 1)]
    return [(scores.max(axis=1), labels[:, 0] == decide(scores, task)[:, 0])]


def _equal_width(bins: int) -> _Floats:
    # A quotient, as a share of votes is: 3 of 5 votes are then exactly the end 9 / 15.
    ends: _Floats = np.arange(1, bins) / bins
    return ends


def _equal_mass(scores: _Floats, bins: int) -> _Floats:
    last = -(-np.arange(1, bins) * len(scores) // bins) - 1
    ends = np.unique(np.sort(scores)[last])
    inner: _Floats = ends[ends < scores.max()]
    return inner


def check_probabilities(scores: Scores, task: Task) -> None:
    """Raise EvaluationError where ``predict`` does, or where scores cannot be probabilities.

    Each must be in [0, 1], and those of one row must sum to 1 but for the multi-label task, all to
    within 1e-4: float32 rounds.
    """
    check_scores(scores, task)
    outside = np.argwhere(np.abs(scores - 0.5) > 0.5 + _ROUNDING)
    if len(outside):
        row, column = outside[0]
        raise EvaluationError(
            f"the score in row {row}, column {column} is {scores[row, column]}"
            f" ({len(outside):,} such in all); a probability is in [0, 1]"
        )
    sums = scores.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > _ROUNDING)
    if task is not Task.MULTILABEL and len(wrong):
        raise EvaluationError(
            f"the scores of row {wrong[0]} sum to {sums[wrong[0]]:.6g}"
            f" ({len(wrong):,} such in all); probabilities of the classes sum to 1"
        )
