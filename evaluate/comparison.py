"""Two runs on the same rows: by how much a figure differs, and whether that may be chance.

Both tests are paired: each row counts in both runs or in neither, so that a case that is hard for
both does not blur their difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, chdtrc

from embedder.errors import EvaluationError
from embedder.types import Labels, Scores, Task
from evaluate.intervals import (
    LEVEL,
    RESAMPLES,
    SEED,
    check_level,
    percentiles,
    remarks,
    replicates,
)
from evaluate.metrics import Figures, check, measure
from index.vote import decide

_FEW = 25
"""From so many discordant rows on, the chi-square distribution is near enough."""


_DECIMALS = 12
"""Figures that differ by less are the same but for rounding."""


@dataclass(frozen=True)
class Run:
    """What one run scored: labels uint8 (N, 1) or (N, L), scores float64 (N, C) or (N, L)."""

    labels: Labels
    scores: Scores


@dataclass(frozen=True)
class Difference:
    """A figure of two runs; ``estimate`` is the first minus the second.

    ``undefined`` counts the resamples in which the figure is undefined for either run; they are
    left out. A figure that is undefined in the split itself is None, and so is all that needs it.
    """

    first: float | None
    second: float | None
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    level: float
    resamples: int
    seed: int
    undefined: int
    notes: tuple[str, ...]


class Method(StrEnum):
    AUTO = "auto"
    EXACT = "exact"
    CHI_SQUARE = "chi-square"


@dataclass(frozen=True)
class McNemar:
    """In how many rows which run is right, and whether the runs are right equally often.

    ``p`` is two-sided and rests on the discordant rows alone, those of ``only_first`` and
    ``only_second``. ``method`` is the one that was used; the exact one has no ``statistic``.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    method: Method
    statistic: float | None
    p: float


def compare(
    first: Run,
    second: Run,
    task: Task,
    classes: Sequence[str] | int,
    *,
    with_auc: bool,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Difference]:
    """The paired bootstrap of every figure's difference, by its name in ``Metrics``.

    Both runs are measured on the same resamples. The interval is the percentile interval of the
    differences (Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13). p is
    that interval inverted: twice the smaller share of differences on either side of zero, those at
    zero on both, and at most 1. One is added to each count, and to that of the resamples, so that
    p is never zero (A. C. Davison, D. V. Hinkley, Bootstrap methods and their application,
    Cambridge 1997, chapter 4). Hence p < 1 - level where the interval leaves out zero, but for the
    grain of the resamples, and no p is below 2 / (resamples + 1).

    Arguments are those of ``evaluate.intervals.intervals``, without ``auc`` if not asked for.

    Raises:
        EvaluationError: the runs are not on the same rows, or ``measure`` raises it.
        UsageError: a level that is not between 0 and 1, no resamples, or a negative seed.
    """
    check_level(level)
    _check_same(first, second, task, classes)
    found = [
        measure(run.labels, run.scores, task, classes, with_auc=with_auc) for run in (first, second)
    ]
    drawn = [
        replicates(
            run.labels, run.scores, task, classes,
            with_auc=with_auc, resamples=resamples, seed=seed,
        )
        for run in (first, second)
    ]  # fmt: skip
    result = {}
    for name in drawn[0]:
        one, other = (getattr(metrics, name) for metrics in found)
        known = one is not None and other is not None
        differences = drawn[0][name] - drawn[1][name]
        low, high = percentiles(differences, level) if known else (None, None)
        undefined = int(np.isnan(differences).sum())
        result[name] = Difference(
            first=one,
            second=other,
            estimate=one - other if known else None,
            low=low,
            high=high,
            p=_two_sided(differences) if known else None,
            level=level,
            resamples=resamples,
            seed=seed,
            undefined=undefined,
            notes=remarks(name, undefined, resamples) if known else (),
        )
    return result


def mcnemar(
    first: Run,
    second: Run,
    task: Task,
    classes: Sequence[str] | int,
    method: Method = Method.AUTO,
) -> McNemar:
    """McNemar's test of the accuracy of two runs on the same rows.

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12, 153-157, 1947. With b and c discordant rows, ``exact`` is the
    binomial test of b among b + c at one half; ``chi-square`` takes (|b - c| - 1)^2 / (b + c) with
    one degree of freedom, which has the correction of continuity (A. L. Edwards, Psychometrika 13,
    185-187, 1948). ``auto`` is exact for fewer than 25 discordant rows, chi-square otherwise.

    For the multi-label task a row is right where all its labels are, since the rows, not the
    labels of one row, are independent; ``mcnemar_by_label`` tests each label by itself.

    Raises EvaluationError where the runs are not on the same rows, or ``measure`` raises it.
    """
    _check_same(first, second, task, classes)
    wrong = [np.count_nonzero(~_right(run, task), axis=1) for run in (first, second)]
    return _mcnemar(wrong[0] == 0, wrong[1] == 0, method)


def mcnemar_by_label(
    first: Run,
    second: Run,
    classes: Sequence[str] | int,
    method: Method = Method.AUTO,
) -> tuple[McNemar, ...]:
    """McNemar's test of each label of a multi-label task; see ``mcnemar``.

    The p of several labels are not corrected for their number.
    """
    _check_same(first, second, Task.MULTILABEL, classes)
    pairs = zip(_right(first, Task.MULTILABEL).T, _right(second, Task.MULTILABEL).T, strict=True)
    return tuple(_mcnemar(one, other, method) for one, other in pairs)


def _check_same(first: Run, second: Run, task: Task, classes: Sequence[str] | int) -> None:
    for run in (first, second):
        check(run.labels, run.scores, task, classes)
    if len(first.labels) != len(second.labels):
        raise EvaluationError(
            f"the runs have {len(first.labels):,} and {len(second.labels):,} rows;"
            " compare runs on the same split, with the same rows erased"
        )
    other = np.flatnonzero((first.labels != second.labels).any(axis=1))
    if len(other):
        raise EvaluationError(
            f"the labels of row {other[0]} differ ({len(other):,} such in all);"
            " compare runs on the same rows in the same order"
        )


def _right(run: Run, task: Task) -> NDArray[np.bool_]:
    """Which labels of which rows are predicted right: (N, 1) or (N, L)."""
    right: NDArray[np.bool_] = run.labels == decide(run.scores, task)
    return right


def _two_sided(differences: Figures) -> float | None:
    defined = np.round(differences[~np.isnan(differences)], _DECIMALS)
    if not len(defined):
        return None
    fewer = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return min(1.0, 2 * (fewer + 1) / (len(defined) + 1))


def _mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_], method: Method) -> McNemar:
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    if method is Method.AUTO:
        method = Method.EXACT if b + c < _FEW else Method.CHI_SQUARE
    statistic = None
    if method is Method.EXACT:
        p = min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))
    else:
        statistic = max(abs(b - c) - 1, 0) ** 2 / max(b + c, 1)
        p = float(chdtrc(1, statistic))
    return McNemar(
        both=int((first & second).sum()),
        only_first=b,
        only_second=c,
        neither=int((~first & ~second).sum()),
        method=method,
        statistic=statistic,
        p=p,
    )
