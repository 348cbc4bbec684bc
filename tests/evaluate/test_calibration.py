from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedder.errors import EvaluationError, UsageError
from embedder.types import Distance, Labels, Scores, Task
from evaluate.calibration import (
    Bin,
    Binning,
    brier,
    check_probabilities,
    expected_error,
    measure_calibration,
    reliability,
)
from index.search import Neighbours
from index.vote import MajorityVote, count_votes

FEW = settings(max_examples=60, deadline=None, derandomize=True)


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-12)


def column(*labels: int) -> Labels:
    return np.array(labels, dtype=np.uint8).reshape(-1, 1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Task, Labels, Scores]:
    """Probabilities of any task, half the time shares of eleven votes."""
    task = draw(st.sampled_from(list(Task)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, 80))
    columns = 2 if task is Task.BINARY else draw(st.integers(2, 6))
    shares = draw(st.booleans())
    if task is Task.MULTILABEL:
        scores = (
            rng.integers(0, 12, (rows, columns)) / 11 if shares else rng.random((rows, columns))
        )
        return task, rng.integers(0, 2, scores.shape).astype(np.uint8), scores
    chances = np.full(columns, 1 / columns)
    scores = rng.multinomial(11, chances, rows) / 11 if shares else rng.dirichlet(chances, rows)
    return task, rng.integers(0, columns, (rows, 1)).astype(np.uint8), scores


def error(scores: NDArray[Any], outcomes: NDArray[Any], bins: int = 15) -> float:
    """The expected calibration error over bins of equal width, straight from its definition."""
    place = np.maximum(np.ceil(np.round(scores * bins, 9)), 1)
    return float(
        sum(abs((outcomes[place == b] - scores[place == b]).sum()) for b in range(1, bins + 1))
        / len(scores)
    )


# By hand.


def test_binary_by_hand() -> None:
    # Class 1 in (0, 0.5]: scores 0.2 0.4, one of two is 1. In (0.5, 1]: 0.7 0.8 0.9, all are 1.
    ones = np.array([0.2, 0.7, 0.4, 0.8, 0.9])
    scores = np.stack([1 - ones, ones], axis=1)
    found = measure_calibration(column(0, 1, 1, 1, 1), scores, Task.BINARY, 2, bins=2)
    assert found.curves == ((Bin(0.0, 0.5, 2, near(0.3), 0.5), Bin(0.5, 1.0, 3, near(0.8), 1.0)),)
    assert found.ece == near(0.4 * 0.2 + 0.6 * 0.2)
    assert found.classwise_ece == near(found.ece)
    assert found.brier == near((0.04 + 0.09 + 0.36 + 0.04 + 0.01) / 5)
    assert (found.bins, found.binning) == (2, Binning.WIDTH)


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.ORDINAL])
def test_several_classes_by_hand(task: Task) -> None:
    # The top scores 0.6 (right), 0.5 (a tie, decided for class 0: wrong), 0.7 (right).
    scores = np.array([[0.6, 0.3, 0.1], [0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    found = measure_calibration(column(0, 1, 2), scores, task, 3, bins=2)
    assert found.curves == ((Bin(0.0, 0.5, 1, 0.5, 0.0), Bin(0.5, 1.0, 2, near(0.65), 1.0)),)
    assert found.ece == near((0.5 + 2 * 0.35) / 3)
    assert found.brier == near((0.16 + 0.09 + 0.01 + 0.5 + 0.01 + 0.04 + 0.09) / 3)
    # Class 0: 0.6 came true; 0.5 0.1 did not. Class 1: 0.3 0.5 0.2, one did. Class 2: 0.7; 0.1 0.0.
    assert found.classwise_ece == near(((0.4 + 0.6) / 3 + (1 - 1.0) / 3 + (0.3 + 0.1) / 3) / 3)


def test_several_labels_by_hand() -> None:
    labels = np.array([[1, 0], [0, 0]], np.uint8)
    scores = np.array([[0.9, 0.5], [0.2, 1.0]])
    found = measure_calibration(labels, scores, Task.MULTILABEL, ("mass", "hernia"), bins=2)
    assert found.ece == near(((0.1 + 0.2) / 2 + (0.5 + 1.0) / 2) / 2)
    assert found.classwise_ece == found.ece
    assert found.brier == near((0.01 + 0.04 + 0.25 + 1) / 4)
    assert [[part.count for part in curve] for curve in found.curves] == [[1, 1], [1, 1]]


def test_zero_and_one_are_in_the_outer_bins() -> None:
    found = reliability(np.array([0.0, 1.0, 1.0]), np.array([False, True, False]), bins=4)
    assert found == (
        Bin(0.0, 0.25, 1, 0.0, 0.0),
        Bin(0.25, 0.5, 0, None, None),
        Bin(0.5, 0.75, 0, None, None),
        Bin(0.75, 1.0, 2, 1.0, 0.5),
    )
    assert expected_error(found) == near(1 / 3)


def test_equal_mass_by_hand() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    found = reliability(scores, scores > 0.25, bins=3, binning=Binning.MASS)
    assert found == (
        Bin(0.0, 0.2, 2, near(0.15), 0.0),
        Bin(0.2, 0.6, 2, near(0.45), 1.0),
        Bin(0.6, 1.0, 2, near(0.8), 1.0),
    )


def test_equal_scores_share_a_bin_of_equal_mass() -> None:
    scores = np.array([0.0] * 7 + [0.5] + [1.0] * 2)
    found = reliability(scores, scores > 0.1, bins=5, binning=Binning.MASS)
    assert [(part.low, part.high, part.count) for part in found] == [
        (0.0, 0.0, 7), (0.0, 0.5, 1), (0.5, 1.0, 2)
    ]  # fmt: skip
    (only,) = reliability(np.full(4, 0.3), np.ones(4, bool), binning=Binning.MASS)
    assert (only.low, only.high, only.count) == (0.0, 1.0, 4)


@pytest.mark.parametrize("k", [1, 3, 5, 11, 49])
@pytest.mark.parametrize("bins", [15, 49])
def test_shares_of_votes_at_an_end_are_below_it(k: int, bins: int) -> None:
    # Neighbours of which j have the label, for each j: shares j / k, some of them ends of bins.
    voted = np.tril(np.ones((k + 1, k), np.uint8), -1)
    rows = np.arange(voted.size).reshape(voted.shape)
    found = Neighbours(rows, np.ones(rows.shape, np.float32))
    labels = voted.reshape(-1, 1)
    shares = count_votes(found, labels, Task.BINARY, 2, MajorityVote(), Distance.COSINE)[:, 1]
    curve = reliability(shares, shares > 0.5, bins)
    expected = [max(-(-Fraction(j, k) * bins // 1), 1) for j in range(k + 1)]
    assert [part.count for part in curve] == [expected.count(b) for b in range(1, bins + 1)]


# Against independent computations.


@FEW
@given(cases(), st.integers(1, 20))
def test_errors_follow_their_definition(case: tuple[Task, Labels, Scores], bins: int) -> None:
    task, labels, scores = case
    found = measure_calibration(labels, scores, task, scores.shape[1], bins=bins)
    truths = labels if task is Task.MULTILABEL else labels == np.arange(scores.shape[1])
    by_class = [error(*pair, bins) for pair in zip(scores.T, truths.T, strict=True)]
    if task is Task.MULTILABEL:
        expected = float(np.mean(by_class))
    elif task is Task.BINARY:
        expected = by_class[1]
    else:
        expected = error(scores.max(axis=1), labels[:, 0] == scores.argmax(axis=1), bins)
    assert found.ece == near(expected)
    assert found.classwise_ece == near(np.mean(by_class))
    assert 0 <= found.ece <= 1


@FEW
@given(cases())
def test_brier_is_that_of_scikit_learn(case: tuple[Task, Labels, Scores]) -> None:
    from sklearn.metrics import brier_score_loss

    task, labels, scores = case
    if task is Task.MULTILABEL:
        pairs = zip(labels.T, scores.T, strict=True)
        expected = np.mean([brier_score_loss(*p, pos_label=1) for p in pairs])
    elif task is Task.BINARY:
        expected = brier_score_loss(labels[:, 0], scores[:, 1], pos_label=1)
    else:
        expected = brier_score_loss(
            labels[:, 0], scores, labels=range(scores.shape[1]), scale_by_half=False
        )
    assert brier(labels, scores, task) == near(expected)


@FEW
@given(cases(), st.integers(1, 20), st.sampled_from(list(Binning)))
def test_curves_hold_every_row_once(
    case: tuple[Task, Labels, Scores], bins: int, binning: Binning
) -> None:
    task, labels, scores = case
    found = measure_calibration(labels, scores, task, scores.shape[1], bins=bins, binning=binning)
    for curve in found.curves:
        assert sum(part.count for part in curve) == len(labels)
        assert (curve[0].low, curve[-1].high) == (0, 1)
        assert all(one.high == other.low for one, other in pairwise(curve))
        assert len(curve) <= bins
        for part in curve:
            assert part.low <= part.high
            if part.confidence is not None:
                assert part.low - 1e-12 <= part.confidence <= part.high + 1e-12
        if binning is Binning.MASS:
            assert all(part.count for part in curve)
        else:
            assert len(curve) == bins


def test_distinct_scores_make_bins_of_equal_mass() -> None:
    scores = np.random.default_rng(0).random(103)
    counts = [part.count for part in reliability(scores, scores > 0.5, 15, Binning.MASS)]
    assert len(counts) == 15
    assert set(counts) == {6, 7}


def test_scores_that_come_true_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 200_000)
    draws = (rng.random((200_000, 1)) > scores.cumsum(axis=1)).sum(axis=1)
    labels = draws.clip(0, 3).astype(np.uint8).reshape(-1, 1)
    for binning in Binning:
        found = measure_calibration(labels, scores, Task.MULTICLASS, 4, binning=binning)
        assert found.ece < 0.006
        assert found.classwise_ece < 0.006
        assert found.brier == pytest.approx(1 - (scores**2).sum(axis=1).mean(), abs=0.005)


# What is refused.


@pytest.mark.parametrize(
    ("labels", "scores", "task", "words"),
    [
        (column(0), np.array([[1.2, -0.2]]), Task.BINARY, "row 0, column 0 is 1.2"),
        (column(0), np.array([[0.4, 0.4]]), Task.MULTICLASS, "row 0 sum to 0.8"),
        (np.zeros((1, 2), np.uint8), np.array([[0.4, -1]]), Task.MULTILABEL, "column 1 is -1"),
        (column(0), np.array([[np.nan, 0.4]]), Task.BINARY, "is nan"),
        (column(2), np.array([[0.5, 0.5]]), Task.BINARY, "expected 0 to 1"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused(
    labels: Labels, scores: Scores, task: Task, words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        measure_calibration(labels, scores, task, 2)


def test_labels_need_not_sum_to_one() -> None:
    check_probabilities(np.array([[0.9, 0.9]]), Task.MULTILABEL)


def test_rounded_probabilities_pass() -> None:
    scores = np.array([[1.00002, 0.00001]])
    found = measure_calibration(column(0), scores, Task.MULTICLASS, 2)
    assert found.curves[0][-1].confidence == 1.0


def test_less_than_one_bin_is_refused() -> None:
    with pytest.raises(UsageError, match="0 bins"):
        measure_calibration(column(0), np.array([[0.5, 0.5]]), Task.BINARY, 2, bins=0)
