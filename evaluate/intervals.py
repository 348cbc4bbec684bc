"""Bootstrap intervals of every figure over the rows of a split.

The percentile interval: B. Efron, R. J. Tibshirani, An introduction to the bootstrap, Chapman &
Hall 1993, chapter 13. Rows are drawn with replacement, all alike (not by class). What is uncertain
is thus the sample of queries; the support set or the probe stays as it is.

A resample is how often it has each row. Confusion tables are then sums of such counts, and the AUC
needs each score column sorted once, whatever the number of resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from embedder.errors import UsageError
from embedder.types import Labels, Scores, Task
from evaluate.metrics import Figures, agreement, check, mean, measure, pair
from index.vote import decide

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0

_Counts = NDArray[np.float64]
"""How often each row is in each resample, float64 (N, resamples): whole numbers."""

_AT_ONCE = 1 << 22
"""The most row counts held at a time (32 MiB), but for a single resample of more rows."""

_MOST_AT_ONCE = 64

_NOTABLE = 0.05
"""The share of resamples without the figure from which a note says so."""


@dataclass(frozen=True)
class Interval:
    """A figure of a split, and where it lies in ``level`` of the resamples.

    ``undefined`` counts the resamples in which the figure is undefined (most often because they
    lack a class). They are left out, so that the interval is one given that every class is there.
    ``low`` and ``high`` are None where no resample is left, ``estimate`` where the figure is
    undefined in the split itself; so are then the other two.
    """

    estimate: float | None
    low: float | None
    high: float | None
    level: float
    resamples: int
    seed: int
    undefined: int
    notes: tuple[str, ...]


def intervals(
    labels: Labels,
    scores: Scores,
    task: Task,
    classes: Sequence[str] | int,
    *,
    with_auc: bool,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Interval]:
    """The interval of every figure, by its name in ``Metrics``; without ``auc`` if not asked for.

    Arguments and errors are those of ``evaluate.metrics.measure``. Raises UsageError for a level
    that is not between 0 and 1, no resamples, or a negative seed.
    """
    check_level(level)
    found = measure(labels, scores, task, classes, with_auc=with_auc)
    drawn = replicates(
        labels, scores, task, classes, with_auc=with_auc, resamples=resamples, seed=seed
    )
    result = {}
    for name, figures in drawn.items():
        estimate: float | None = getattr(found, name)
        low, high = (None, None) if estimate is None else percentiles(figures, level)
        undefined = int(np.isnan(figures).sum())
        notes = () if estimate is None else remarks(name, undefined, resamples)
        result[name] = Interval(estimate, low, high, level, resamples, seed, undefined, notes)
    return result


def replicates(
    labels: Labels,
    scores: Scores,
    task: Task,
    classes: Sequence[str] | int,
    *,
    with_auc: bool,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Figures]:
    """Every figure in every resample: float64 (resamples,), NaN where it is undefined.

    The same as ``measure`` of the resampled rows. The resamples are those of ``draw``: with the
    same seed, two runs on the same rows have the same ones. Raises what ``measure`` raises, and
    UsageError for no resamples or a negative seed.
    """
    check(labels, scores, task, classes)
    _check_draws(resamples, seed)
    size = 2 if task is Task.MULTILABEL else scores.shape[1]
    pairs = pair(labels, decide(scores, task), size)
    every = np.arange(len(labels))
    cells = [_adder(column, every, (size * size, len(labels))) for column in pairs.T]
    rankings = [_Ranking(*side) for side in _sides(labels, scores, task)] if with_auc else []
    parts = []
    for counts in draw(len(labels), resamples, seed):
        tables = np.stack([(cell @ counts).T for cell in cells], axis=1).astype(np.int64)
        figures = agreement(tables.reshape(*tables.shape[:2], size, size))
        if rankings:
            figures["auc"] = mean([ranking.auc(counts) for ranking in rankings])
        parts.append(figures)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def draw(rows: int, resamples: int, seed: int) -> Iterator[_Counts]:
    """How often each resample has each row, float64 (rows, some), until all were drawn.

    They depend on ``rows`` and ``seed`` alone: more resamples begin with the same ones.
    """
    generator = np.random.default_rng(seed)
    width = max(1, min(_MOST_AT_ONCE, _AT_ONCE // rows))
    for start in range(0, resamples, width):
        counts = np.empty((min(width, resamples - start), rows))
        for line in counts:
            line[:] = np.bincount(generator.integers(rows, size=rows), minlength=rows)
        yield np.ascontiguousarray(counts.T)


def percentiles(figures: Figures, level: float) -> tuple[float | None, float | None]:
    """The interval that leaves out (1 - level) / 2 of the defined figures at either end.

    Between two figures it is interpolated. None, None where no figure is defined.
    """
    defined = figures[~np.isnan(figures)]
    if not len(defined):
        return None, None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def remarks(name: str, undefined: int, resamples: int) -> tuple[str, ...]:
    """What to say of resamples that were left out: a sentence, or none where they are few."""
    if undefined <= _NOTABLE * resamples:
        return ()
    what = "AUC" if name == "auc" else name.replace("_", " ")
    return (
        f"{what} is undefined in {undefined:,} of {resamples:,} resamples,"
        " most often for want of a class; they are left out of its interval",
    )


def check_level(level: float) -> None:
    """Raise UsageError where an interval can have no such level."""
    if not 0 < level < 1:
        raise UsageError(f"the level {level} of an interval is not between 0 and 1; 0.95 is usual")


def _check_draws(resamples: int, seed: int) -> None:
    if resamples < 1:
        raise UsageError(f"{resamples} resamples give no interval; {RESAMPLES} are usual")
    if seed < 0:
        raise UsageError(f"the seed {seed} is negative; give 0 or more")


class _Ranking:
    """One outcome against the rest by a score: the share of pairs that the score puts in order.

    H. B. Mann, D. R. Whitney, On a test of whether one of two random variables is stochastically
    larger than the other, Annals of Mathematical Statistics 18, 50-60, 1947; equal scores count
    one half. The pairs are counted at each distinct score of the rarer side, for there are fewer.
    """

    def __init__(self, positive: NDArray[np.bool_], score: NDArray[np.float64]) -> None:
        self._rarer_wins = 2 * np.count_nonzero(positive) <= len(positive)
        rarer = np.flatnonzero(positive == self._rarer_wins)
        rest = np.flatnonzero(positive != self._rarer_wins)
        values, place = np.unique(score[rarer], return_inverse=True)
        # Of the rest: slot 2 i lies between values i - 1 and i, slot 2 i + 1 at value i.
        slot = np.searchsorted(values, score[rest]) + np.searchsorted(values, score[rest], "right")
        self._rarer = _adder(place, rarer, (len(values), len(score)))
        self._rest = _adder(slot, rest, (2 * len(values) + 1, len(score)))

    def auc(self, counts: _Counts) -> Figures:
        """In each resample; NaN where one side is absent."""
        rarer, rest = self._rarer @ counts, np.cumsum(self._rest @ counts, axis=0)
        below = (rest[:-1:2] + rest[1::2]) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            share: Figures = np.einsum("ij,ij->j", rarer, below) / (rarer.sum(axis=0) * rest[-1])
        return share if self._rarer_wins else 1 - share


def _adder(groups: NDArray[np.intp], rows: NDArray[np.intp], shape: tuple[int, int]) -> csr_array:
    """A sparse matrix, ``shape`` groups by rows, that adds up the counts of each group's rows."""
    return csr_array((np.ones(len(rows)), (groups, rows)), shape=shape)


def _sides(
    labels: Labels, scores: Scores, task: Task
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """The outcomes and scores that the AUC is taken of, a column after the other."""
    if task is Task.MULTILABEL:
        yield from zip((labels == 1).T, scores.T, strict=True)
    elif task is Task.BINARY:
        yield labels[:, 0] == 1, scores[:, 1]
    else:
        yield from ((labels[:, 0] == c, column) for c, column in enumerate(scores.T))
