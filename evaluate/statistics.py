"""The tests of Doerrich et al. (Scientific Reports 15, 7669, 2025), as in docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from embedder.errors import EvaluationError
from embedder.registry import find

_Floats = NDArray[np.float64]
ALPHA = 0.05
"""The family-wise level of significance."""

FACTORS = {"resolution": "model", "scheme": "model", "model": "dataset"}
"""What the protocol compares, and what it compares it over."""

_SAME = 1e-12
"""Equal means may differ in their last digits: by this, relative to the largest of the table."""

_AXES = ("dataset", "scheme", "model", "resolution")


class Figure(NamedTuple):
    """One figure of one model; any unit, the same for all."""

    dataset: str
    scheme: str
    model: str
    resolution: int
    value: float


class Correction(StrEnum):
    BONFERRONI = "bonferroni"
    HOLM = "holm"


@dataclass(frozen=True, eq=False)
class Table:
    """What is compared: float64 (n, k), a row per block and a column per treatment.

    ``over`` says what a value is the mean of; ``left_out`` names the datasets that the table does
    without. Raises EvaluationError for fewer than 2 blocks or treatments, names that do not fit or
    stand twice, and a value that is not finite.
    """

    values: _Floats
    blocks: tuple[str, ...]
    treatments: tuple[str, ...]
    factor: str = "treatment"
    unit: str = "block"
    over: str = ""
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.blocks), len(self.treatments))
        if self.values.shape != shape:
            raise EvaluationError(f"values of shape {self.values.shape} have names for {shape}")
        for noun, names in ((self.factor, self.treatments), (self.unit, self.blocks)):
            if len(names) < 2 or len(set(names)) < len(names):
                raise EvaluationError(f"comparing takes 2 or more distinct {noun}s, not {[*names]}")
        for row, column in np.argwhere(~np.isfinite(self.values))[:1]:
            raise EvaluationError(
                f"the value of {self.treatments[column]} for {self.blocks[row]} is"
                f" {self.values[row, column]}; every value must be finite"
            )


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of n blocks by k treatments; ``w`` is Kendall's coefficient."""

    n: int
    k: int
    chi2: float
    df: int
    p: float
    w: float
    mean_ranks: tuple[float, ...]


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test, two-sided, of n paired figures.

    The second is above the first in ``above`` pairs, below in ``below``, the same in ``equal``;
    ``sum_above`` and ``sum_below`` are the sums of ranks. ``p`` is exact. ``z`` is that of the
    normal approximation and never positive, ``r`` is |z| / sqrt(n); both None if all are equal.
    """

    n: int
    above: int
    below: int
    equal: int
    sum_above: float
    sum_below: float
    z: float | None
    p: float
    r: float | None


@dataclass(frozen=True)
class Pair:
    """One comparison of a post hoc test; ``higher`` is None where it is not significant."""

    first: str
    second: str
    test: SignedRank
    adjusted_p: float
    higher: str | None


@dataclass(frozen=True)
class PostHoc:
    """All pairs; ``threshold`` is what Bonferroni compares p with, None for Holm."""

    treatments: tuple[str, ...]
    correction: Correction
    threshold: float | None
    pairs: tuple[Pair, ...]

    def matrix(self) -> NDArray[np.int8]:
        """int8 (k, k): 1 where the row is significantly above the column, -1 below, else 0."""
        signs = np.zeros((len(self.treatments),) * 2, np.int8)
        upper = [{pair.first: 1, pair.second: -1}.get(pair.higher or "", 0) for pair in self.pairs]
        signs[np.triu_indices(len(signs), 1)] = upper
        return signs - signs.T


@dataclass(frozen=True)
class Quartiles:
    name: str
    n: int
    q1: float
    median: float
    q3: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything about a table; ``friedman`` is None where two treatments are compared."""

    table: Table
    quartiles: tuple[Quartiles, ...]
    friedman: Friedman | None
    post_hoc: PostHoc


def friedman(table: Table) -> Friedman:
    """Friedman's test (1937), corrected for ties, and Kendall's W.

    Raises EvaluationError for two treatments, and where every block has one value only.
    """
    n, k = table.values.shape
    if k < 3:
        raise EvaluationError(f"Friedman's test needs 3 {table.factor}s; of 2, see Wilcoxon's test")
    values = _levels(_scaled(table))
    chi2, p = map(float, stats.friedmanchisquare(*values.T))
    ranks = stats.rankdata(values, axis=1).mean(axis=0)
    return Friedman(n, k, chi2, k - 1, p, chi2 / (n * (k - 1)), tuple(ranks.tolist()))


def post_hoc(table: Table, correction: Correction = Correction.BONFERRONI) -> PostHoc:
    """Wilcoxon's test (1945) of every pair of treatments.

    Two treatments that are equal in every block have p = 1. Raises EvaluationError where all are.
    """
    couples = list(combinations(zip(table.treatments, _scaled(table).T, strict=True), 2))
    tests = [_signed_rank(second - first) for (_, first), (_, second) in couples]
    adjusted = _adjust([test.p for test in tests], correction)
    pairs = []
    for ((first, _), (second, _)), test, p in zip(couples, tests, adjusted, strict=True):
        higher = second if test.sum_above > test.sum_below else first
        pairs.append(Pair(first, second, test, p, higher if p < ALPHA else None))
    threshold = ALPHA / len(pairs) if correction is Correction.BONFERRONI else None
    return PostHoc(table.treatments, correction, threshold, tuple(pairs))


def quartiles(table: Table) -> tuple[Quartiles, ...]:
    """Per treatment over the blocks, by linear interpolation (Hyndman and Fan's seventh)."""
    found = np.quantile(table.values, (0.25, 0.5, 0.75), axis=0).T.tolist()
    named = zip(table.treatments, found, strict=True)
    return tuple(Quartiles(name, len(table.blocks), *row) for name, row in named)


def analyse(table: Table, correction: Correction = Correction.BONFERRONI) -> Analysis:
    """Quartiles, Friedman's test and the post hoc test; errors as theirs."""
    tested = friedman(table) if len(table.treatments) > 2 else None
    return Analysis(table, quartiles(table), tested, post_hoc(table, correction))


def table_by(figures: Iterable[Figure], factor: str, *, restrict: bool = False) -> Table:
    """The table by which the protocol compares ``factor``, one of ``FACTORS``.

    - resolution: models by resolutions, each the mean over datasets and schemes
    - scheme: models by schemes, each the mean over datasets and resolutions
    - model: datasets by models, each the mean over schemes and resolutions

    Every dataset must have every scheme, model and resolution that any has, once. Otherwise an
    EvaluationError says what is missing or, with ``restrict``, the table does without the datasets
    that lack something, and names them.
    """
    unit = find(FACTORS, factor, "factor")
    known = _distinct(figures)
    levels = [list(dict.fromkeys(key[axis] for key in known)) for axis in range(len(_AXES))]
    levels[3].sort(key=int)
    counts = [f"{axis}s ({len(names)})" for axis, names in zip(_AXES, levels, strict=True)]
    missing = [key for key in product(*levels) if key not in known]
    left_out = tuple(dict.fromkeys(key[0] for key in missing))
    complete = [dataset for dataset in levels[0] if dataset not in left_out]
    if missing:
        if not (restrict and complete):
            raise EvaluationError(_incomplete(missing, math.prod(map(len, levels))))
        counts[0] = f"datasets ({len(complete)} of {len(levels[0])})"
        levels[0] = complete
    cube = np.array([known[key] for key in product(*levels)]).reshape(list(map(len, levels)))
    averaged = [axis for axis, name in enumerate(_AXES) if name not in (unit, factor)]
    means = cube.mean(axis=tuple(averaged))
    named = {axis: tuple(names) for axis, names in zip(_AXES, levels, strict=True)}
    return Table(
        means.T if factor == "scheme" else means, named[unit], named[factor], factor, unit,
        "mean over " + " and ".join(counts[axis] for axis in averaged), left_out,
    )  # fmt: skip


def _distinct(figures: Iterable[Figure]) -> dict[tuple[str, ...], float]:
    known: dict[tuple[str, ...], float] = {}
    for *key, value in figures:
        names = tuple(map(str, key))
        if names in known:
            raise EvaluationError(f"{' '.join(names)} px stands twice; give one figure of each")
        known[names] = value
    if not known:
        raise EvaluationError("there are no figures to compare; measure some, or ask for more")
    return known


def _incomplete(missing: Sequence[tuple[str, ...]], total: int) -> str:
    named = ", ".join(f"{' '.join(names)} px" for names in missing[:4])
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    more += "; add them, or leave out what lacks them"
    return f"{len(missing)} of {total} figures are missing: {named}{more}"


def _scaled(table: Table) -> _Floats:
    """Values relative to the largest."""
    scaled: _Floats = table.values / (float(np.abs(table.values).max()) or 1.0)
    if np.ptp(scaled, axis=1).max() <= _SAME:
        raise EvaluationError(f"all {table.factor}s are equal for every {table.unit}; none to rank")
    return scaled


def _levels(values: _Floats) -> NDArray[np.int64]:
    """Whole numbers in the order of the values, one for those that are the same."""
    ordered = np.sort(values, axis=None)
    steps = (np.diff(ordered, prepend=0) > _SAME).astype(np.int64)
    return np.cumsum(steps)[np.searchsorted(ordered, values)]


def _signed_rank(differences: _Floats) -> SignedRank:
    moved = differences[np.abs(differences) > _SAME]
    ranks = stats.rankdata(_levels(np.abs(moved)))
    n, up = len(differences), int((moved > 0).sum())
    above, below = float(ranks[moved > 0].sum()), float(ranks[moved < 0].sum())
    known = (n, up, len(moved) - up, n - len(moved), above, below)
    if not len(moved):
        return SignedRank(*known, None, 1.0, None)
    # The variance, ties included: n (n + 1) (2n + 1) / 24 less the sum of (t^3 - t) / 48.
    z = (min(above, below) - float(ranks.sum()) / 2) / math.sqrt(np.square(ranks).sum() / 4)
    return SignedRank(*known, z, _exact_p(ranks, min(above, below)), abs(z) / math.sqrt(n))


def _exact_p(ranks: _Floats, smaller: float) -> float:
    """The chance, under random signs, of a sum of ranks as far from its mean as ``smaller``."""
    doubled = np.rint(2 * ranks).astype(np.int64)  # ranks that are tied may end in a half
    chances = np.eye(1, int(doubled.sum()) + 1)[0]
    for rank in doubled:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    return min(1.0, 2 * float(chances[: round(2 * smaller) + 1].sum()))


def _adjust(chances: Sequence[float], correction: Correction) -> list[float]:
    """Adjusted p, to be compared with the family-wise level (Holm, 1979: step down)."""
    p = np.array(chances)
    if correction is Correction.BONFERRONI:
        p *= len(p)
    else:
        order = np.argsort(p)
        p[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order])
    return [min(1.0, float(adjusted)) for adjusted in p]
