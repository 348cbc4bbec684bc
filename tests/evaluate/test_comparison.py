from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.errors import EvaluationError, UsageError
from embedder.types import Task
from evaluate.comparison import McNemar, Method, Run, compare, mcnemar, mcnemar_by_label
from evaluate.metrics import measure

FEW = settings(max_examples=40, deadline=None, derandomize=True)


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-12)


def pair(both: int, only_first: int, only_second: int, neither: int) -> tuple[Run, Run]:
    """Two binary runs on rows of class 1 that are right in so many rows."""
    hits = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, only_first, only_second, neither], 0)
    labels = np.ones((len(hits), 1), np.uint8)
    one, other = (np.stack([1.0 - hit, 1.0 * hit], axis=1) for hit in hits.T)
    return Run(labels, one), Run(labels, other)


def some(task: Task, seed: int, rows: int = 60) -> tuple[Run, Run]:
    """Two runs of three classes or labels, the first the better one."""
    rng = np.random.default_rng(seed)
    width = 3 if task is Task.MULTILABEL else 1
    labels = rng.integers(0, 2 if width == 3 else 3, (rows, width)).astype(np.uint8)
    truths = labels if width == 3 else labels == np.arange(3)
    good, poor = (np.clip(truths * w + rng.random((rows, 3)) * (1 - w), 0, 1) for w in (0.4, 0.2))
    return Run(labels, good), Run(labels, poor)


# The paired bootstrap.


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.MULTILABEL])
def test_differences_are_those_of_the_same_rows(task: Task) -> None:
    first, second = some(task, 4)
    found = compare(first, second, task, 3, with_auc=True, level=0.8, resamples=60, seed=7)
    generator = np.random.default_rng(7)
    drawn = [generator.integers(60, size=60) for _ in range(60)]
    assert list(found) == ["accuracy", "balanced_accuracy", "kappa", "precision", "auc"]
    slow = [
        [measure(r.labels[rows], r.scores[rows], task, 3, with_auc=True) for r in (first, second)]
        for rows in [np.arange(60), *drawn]
    ]
    for name, difference in found.items():
        values = [getattr(one, name) - getattr(other, name) for one, other in slow]
        low, high = np.percentile(values[1:], [10, 90])
        fewer = min(sum(v <= 1e-13 for v in values[1:]), sum(v >= -1e-13 for v in values[1:]))
        assert difference.estimate == near(values[0])
        assert (difference.first, difference.second) == tuple(getattr(m, name) for m in slow[0])
        assert (difference.low, difference.high) == (near(low), near(high))
        assert difference.p == near(min(1, 2 * (fewer + 1) / 61))
        assert (difference.level, difference.resamples, difference.seed) == (0.8, 60, 7)
        assert (difference.undefined, difference.notes) == (0, ())


def test_a_run_does_not_differ_from_itself() -> None:
    first, _ = some(Task.ORDINAL, 0)
    for difference in compare(first, first, Task.ORDINAL, 3, with_auc=True).values():
        assert (difference.estimate, difference.low, difference.high) == (0, 0, 0)
        assert difference.p == 1.0


def test_the_other_way_round_is_the_same_test() -> None:
    first, second = some(Task.MULTICLASS, 1)
    one = compare(first, second, Task.MULTICLASS, 3, with_auc=True)["auc"]
    other = compare(second, first, Task.MULTICLASS, 3, with_auc=True)["auc"]
    assert (other.first, other.second, other.p) == (one.second, one.first, one.p)
    assert one.low is not None
    assert other.high == near(-one.low)


def test_a_difference_that_is_always_there_has_the_smallest_p() -> None:
    found = compare(*pair(0, 50, 0, 0), Task.BINARY, 2, with_auc=False, resamples=199)["accuracy"]
    assert (found.first, found.second, found.estimate) == (1, 0, 1)
    assert (found.low, found.high, found.p) == (1, 1, 2 / 200)


@pytest.mark.parametrize("seed", range(8))
def test_p_and_interval_agree(seed: int) -> None:
    first, second = some(Task.MULTICLASS, seed, rows=40)
    for found in compare(first, second, Task.MULTICLASS, 3, with_auc=True).values():
        assert found.low is not None
        assert found.high is not None
        assert found.p is not None
        if abs(found.p - 0.05) > 0.004:  # the grain of 1,000 resamples
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_p_is_near_that_of_mcnemar() -> None:
    # Of 600 rows 60 are discordant, 38 to 22: both tests ask whether that is even.
    runs = pair(400, 38, 22, 140)
    found = compare(*runs, Task.BINARY, 2, with_auc=False, resamples=4000)["accuracy"]
    assert found.estimate == near(16 / 600)
    assert found.p == pytest.approx(mcnemar(*runs, Task.BINARY, 2).p, abs=0.02)


def test_what_either_run_lacks_is_left_out() -> None:
    # Kappa is undefined for a run that predicts 1 in every row of a resample of ones.
    labels = np.array([[1], [1], [1], [0]], np.uint8)
    first = Run(labels, np.eye(2)[[1, 1, 1, 1]])
    second = Run(labels, np.eye(2)[[0, 1, 1, 1]])
    found = compare(first, second, Task.BINARY, 2, with_auc=False, resamples=300)["kappa"]
    assert (found.first, found.undefined > 60) == (0, True)
    assert found.notes[0].startswith(f"kappa is undefined in {found.undefined} of 300 resamples")


def test_what_the_split_lacks_has_no_difference() -> None:
    found = compare(*pair(3, 2, 1, 1), Task.BINARY, 2, with_auc=True, resamples=50)
    for name in ("balanced_accuracy", "precision", "auc"):
        lost = found[name]
        assert (lost.first, lost.second, lost.estimate, lost.p) == (None, None, None, None)
        assert (lost.low, lost.high, lost.undefined, lost.notes) == (None, None, 50, ())


# McNemar's test.


def test_exact_by_hand() -> None:
    # Of 10 discordant rows 1 is the first's: 2 (1 + 10) / 2^10.
    found = mcnemar(*pair(5, 1, 9, 3), Task.BINARY, 2)
    assert found == McNemar(5, 1, 9, 3, Method.EXACT, None, near(22 / 1024))


def test_chi_square_by_hand() -> None:
    # The table of the worked example with 121 and 59 discordant rows: (62 - 1)^2 / 180.
    from scipy.stats import chi2

    found = mcnemar(*pair(101, 121, 59, 33), Task.BINARY, 2)
    assert (found.method, found.statistic) == (Method.CHI_SQUARE, near(61**2 / 180))
    assert found.p == pytest.approx(chi2.sf(61**2 / 180, 1), rel=1e-9)
    assert found.p == pytest.approx(5.45e-6, rel=2e-3)


@FEW
@given(st.integers(0, 60), st.integers(0, 60))
def test_exact_is_the_binomial_test(b: int, c: int) -> None:
    tail = sum(comb(b + c, i) for i in range(min(b, c) + 1))
    expected = min(Fraction(1), Fraction(2 * tail, 2 ** (b + c)))
    found = mcnemar(*pair(1, b, c, 1), Task.BINARY, 2, Method.EXACT)
    assert found.p == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("discordant", "method"), [(24, Method.EXACT), (25, Method.CHI_SQUARE), (0, Method.EXACT)]
)
def test_few_discordant_rows_are_tested_exactly(discordant: int, method: Method) -> None:
    assert mcnemar(*pair(9, 0, discordant, 9), Task.BINARY, 2).method is method


@pytest.mark.parametrize("method", list(Method))
def test_no_discordant_rows_are_no_difference(method: Method) -> None:
    assert mcnemar(*pair(4, 0, 0, 2), Task.BINARY, 2, method).p == 1.0


def test_one_discordant_row_is_not_corrected_below_zero() -> None:
    found = mcnemar(*pair(4, 10, 10, 2), Task.BINARY, 2, Method.CHI_SQUARE)
    assert (found.statistic, found.p) == (0.0, 1.0)


def test_a_row_of_labels_is_right_where_all_are() -> None:
    labels = np.array([[1, 0], [1, 0], [0, 0], [1, 1]], np.uint8)
    first = Run(labels, np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.2], [0.9, 0.3]]))
    second = Run(labels, np.array([[0.9, 0.1], [0.9, 0.8], [0.7, 0.8], [0.9, 0.9]]))
    whole = mcnemar(first, second, Task.MULTILABEL, 2)
    assert whole == McNemar(1, 2, 1, 0, Method.EXACT, None, 1.0)
    labelled = mcnemar_by_label(first, second, ("mass", "hernia"))
    assert labelled == (
        McNemar(3, 1, 0, 0, Method.EXACT, None, 1.0),
        McNemar(1, 2, 1, 0, Method.EXACT, None, 1.0),
    )


# What is refused.


@pytest.mark.parametrize("test", [mcnemar, lambda *a: compare(*a, with_auc=True)])
def test_runs_on_other_rows_are_refused(test: Any) -> None:
    first, _ = pair(3, 2, 1, 0)
    longer, _ = pair(3, 2, 1, 1)
    with pytest.raises(EvaluationError, match="the runs have 6 and 7 rows"):
        test(first, longer, Task.BINARY, 2)
    labels = first.labels.copy()
    labels[[2, 4]] = 0
    with pytest.raises(EvaluationError, match=r"the labels of row 2 differ \(2 such in all\)"):
        test(first, Run(labels, first.scores), Task.BINARY, 2)


def test_labels_of_one_column_that_differ_are_refused() -> None:
    first, second = some(Task.MULTILABEL, 0)
    labels = second.labels.copy()
    labels[5, 2] = 1 - labels[5, 2]
    with pytest.raises(EvaluationError, match="row 5 differ"):
        mcnemar_by_label(first, Run(labels, second.scores), 3)


def test_what_cannot_be_measured_is_refused() -> None:
    first, second = pair(1, 1, 1, 1)
    with pytest.raises(EvaluationError, match="expected 3, one per class"):
        compare(first, second, Task.BINARY, 3, with_auc=True)
    with pytest.raises(UsageError, match="level"):
        compare(first, second, Task.BINARY, 2, with_auc=True, level=95)
