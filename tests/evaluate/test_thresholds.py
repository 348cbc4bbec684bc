from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedder.errors import EvaluationError, UnknownNameError
from embedder.types import Scores, Task
from evaluate.metrics import Metrics, measure, predict
from evaluate.thresholds import (
    Criterion,
    choose_k,
    choose_thresholds,
    correct_priors,
    priors,
    recentre,
)

FEW = settings(max_examples=60, deadline=None, derandomize=True)


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-12)


def chosen(labels: list[int], scores: list[float], criterion: Criterion) -> float:
    """The threshold of a single label."""
    truths = np.array([labels], np.uint8).T
    (value,) = choose_thresholds(truths, np.array([scores]).T, 1, criterion).values
    return value


# Thresholds.


@pytest.mark.parametrize("criterion", list(Criterion))
def test_scores_that_separate(criterion: Criterion) -> None:
    assert chosen([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], criterion) == near(0.25)
    assert chosen([0, 0, 1, 1], [0.1, 0.4, 0.8, 0.9], criterion) == 0.5  # as good as 0.6
    assert chosen([0, 1], [0.7, 0.9], criterion) == near(0.8)
    assert chosen([0, 1], [0.5, 0.9], criterion) == 0.5  # one half is not above one half


def test_balanced_accuracy_by_hand() -> None:
    # Above 0.15: both hits, 2 of 4 others right: 3/4. Above 0.35: one hit, all others: 3/4.
    # Above 0.25 one hit, 3 of 4 others: 5/8. The nearer to 0.5 of the two best is taken.
    labels, scores = [0, 0, 1, 0, 0, 1], [0.0, 0.1, 0.2, 0.2, 0.3, 0.4]
    assert chosen(labels, scores, Criterion.BALANCED) == near(0.35)


def test_f1_by_hand() -> None:
    # Above 0.3: hits 1, F1 2/3. Above 0.15: hits 2, one false: 4/5. All: 4/6.
    labels, scores = [0, 0, 1, 1], [0.1, 0.25, 0.2, 0.4]
    assert chosen(labels, scores, Criterion.F1) == near(0.15)


def test_the_lower_of_two_as_near_as_each_other() -> None:
    # 0.3 and 0.7 are equally good and 0.5 is worse.
    # In floats 0.7 is the nearer to 0.5, by a rounding.
    assert chosen([0, 1, 0, 1], [0.1, 0.5, 0.6, 0.8], Criterion.BALANCED) == 0.3


def test_rare_labels_get_low_thresholds() -> None:
    # What one half says of a label that few neighbours ever have: nothing.
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 1)) < 0.05).astype(np.uint8)
    scores = rng.binomial(11, np.where(labels == 1, 0.2, 0.05)) / 11
    found = choose_thresholds(labels, scores, 1)
    before = measure(labels, scores, Task.MULTILABEL, 1, with_auc=True)
    after = measure(labels, recentre(scores, found.values), Task.MULTILABEL, 1, with_auc=True)
    assert before.accuracy > 0.94
    assert before.balanced_accuracy == pytest.approx(0.5, abs=0.02)
    assert after.balanced_accuracy is not None
    assert after.balanced_accuracy > 0.7
    assert after.auc == before.auc


@pytest.mark.parametrize("value", [0, 1])
def test_a_label_that_never_changes_keeps_one_half(value: int) -> None:
    labels = np.array([[0, value], [1, value]], np.uint8)
    found = choose_thresholds(labels, np.array([[0.1, 0.2], [0.2, 0.3]]), ("mass", "hernia"))
    assert found.values == (near(0.15), 0.5)
    assert found.notes == (
        f"label 1 (hernia) is {value} in every row of val: its threshold stays 0.5",
    )


@FEW
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(list(Criterion)))
def test_no_other_threshold_is_better(seed: int, shares: bool, criterion: Criterion) -> None:
    from sklearn.metrics import balanced_accuracy_score, f1_score

    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 14)
    labels[:2] = 0, 1
    scores = rng.integers(0, 6, 14) / 5 if shares else rng.random(14)

    def worth(threshold: float) -> float:
        predicted = scores > threshold
        if criterion is Criterion.F1:
            return float(f1_score(labels, predicted, zero_division=0))
        return float(balanced_accuracy_score(labels, predicted))

    found = chosen(labels.tolist(), scores.tolist(), criterion)
    assert 0 < found < 1
    best = max(worth(threshold) for threshold in [0.5, *scores[scores < 1], 1e-9])
    assert worth(found) == near(best)
    assert found == 0.5 or worth(0.5) < best - 1e-12


@FEW
@given(st.integers(0, 2**32 - 1), st.lists(st.floats(0.001, 0.999), min_size=3, max_size=3))
def test_one_half_decides_as_the_thresholds_did(seed: int, thresholds: list[float]) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random((30, 3))
    scores[:4] = [thresholds, np.nextafter(thresholds, 1), [0, 0, 0], [1, 1, 1]]
    moved = recentre(scores, thresholds)
    assert (predict(moved, Task.MULTILABEL) == (scores > thresholds)).all()
    assert moved[2:4].tolist() == [[0, 0, 0], [1, 1, 1]]
    for before, after in zip(scores.T, moved.T, strict=True):
        assert (np.diff(after[np.argsort(before)]) >= 0).all()


def test_one_half_moves_nothing() -> None:
    scores = np.linspace(0, 1, 9).reshape(-1, 1)
    assert (recentre(scores, [0.5]) == scores).all()


@pytest.mark.parametrize("thresholds", [[0.5], [0.5, 1.0], [0.0, 0.5], [0.5, float("nan")]])
def test_thresholds_that_do_not_fit_are_refused(thresholds: list[float]) -> None:
    with pytest.raises(EvaluationError, match="do not fit 2 labels"):
        recentre(np.zeros((1, 2)), thresholds)


def test_thresholds_need_probabilities() -> None:
    with pytest.raises(EvaluationError, match="a probability is in"):
        choose_thresholds(np.array([[0], [1]], np.uint8), np.array([[0.1], [3.0]]), 1)


# Priors.


def test_priors_are_shares() -> None:
    labels = np.array([[0], [0], [2], [0]], np.uint8)
    assert priors(labels, Task.MULTICLASS, 4).tolist() == [0.75, 0, 0.25, 0]
    labels = np.array([[0, 1], [1, 1], [0, 1], [0, 0]], np.uint8)
    assert priors(labels, Task.MULTILABEL, 2).tolist() == [0.25, 0.75]
    with pytest.raises(EvaluationError, match="no rows"):
        priors(labels[:0], Task.MULTILABEL, 2)


def test_corrected_scores_by_hand() -> None:
    # 0.6 / 0.75, 0.4 / 0.25 are as 1 to 2.
    found = correct_priors(np.array([[0.6, 0.4], [1, 0]]), np.array([0.75, 0.25]), Task.BINARY)
    assert found == near(np.array([[1 / 3, 2 / 3], [1, 0]]))
    # Odds 1/4 over prior odds 1/9.
    found = correct_priors(np.array([[0.2, 0.1]]), np.array([0.1, 0.1]), Task.MULTILABEL)
    assert found == near(np.array([[9 / 13, 1 / 2]]))


def test_scores_that_equal_the_priors_become_uniform() -> None:
    shares = np.array([0.5, 0.3, 0.2])
    found = correct_priors(shares.reshape(1, -1), shares, Task.ORDINAL)
    assert found == near(np.full((1, 3), 1 / 3))


def test_uniform_priors_change_nothing() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(4), 20)
    assert correct_priors(scores, np.full(4, 0.25), Task.MULTICLASS) == near(scores)
    assert correct_priors(scores, np.full(4, 0.5), Task.MULTILABEL) == near(scores)


def test_the_correction_finds_what_equal_classes_would_have_given() -> None:
    # Two Gaussians: the posterior under the train priors, corrected, is that under equal ones.
    x = np.linspace(-3, 3, 50)
    densities = np.stack([np.exp(-((x - mean) ** 2) / 2) for mean in (-1, 1)], axis=1)

    def posterior(shares: NDArray[np.float64]) -> Scores:
        joint = densities * shares
        shared: Scores = joint / joint.sum(axis=1, keepdims=True)
        return shared

    uneven = np.array([0.93, 0.07])
    equal = posterior(np.array([0.5, 0.5]))
    assert correct_priors(posterior(uneven), uneven, Task.BINARY) == near(equal)
    ones = correct_priors(posterior(uneven)[:, 1:], uneven[1:], Task.MULTILABEL)
    assert ones == near(equal[:, 1:])


def test_a_class_absent_from_train_keeps_its_zero() -> None:
    shares = np.array([0.5, 0.0, 0.5])
    found = correct_priors(np.array([[0.25, 0.0, 0.75]]), shares, Task.MULTICLASS)
    assert found == near(np.array([[0.25, 0.0, 0.75]]))
    found = correct_priors(np.array([[0.0, 1.0]]), np.array([0.0, 1.0]), Task.MULTILABEL)
    assert found.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("scores", "shares", "task", "words"),
    [
        ([[0.9, 0.1]], [1.0, 0.0], Task.BINARY, "row 0 has a score for what column 1 never is"),
        ([[0.9, 0.1]], [0.5, 0.0], Task.MULTILABEL, "column 1 never is"),
        ([[0.9, 0.1]], [1.0, 0.5], Task.MULTILABEL, "column 0 never is"),
        ([[0.9, 0.1]], [0.5, 0.3, 0.2], Task.BINARY, "3 priors for 2 columns"),
        ([[0.0, 0.0]], [0.5, 0.5], Task.BINARY, "sum to 0"),
    ],
)
def test_what_cannot_be_corrected_is_refused(
    scores: list[list[float]], shares: list[float], task: Task, words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        correct_priors(np.array(scores), np.array(shares), task)


def test_priors_without_the_query_itself() -> None:
    labels = np.array([[0], [0], [2], [0], [1]], np.uint8)
    found = priors(labels, Task.MULTICLASS, 4, labels[2:])
    assert found.tolist() == [[0.75, 0.25, 0, 0], [0.5, 0.25, 0.25, 0], [0.75, 0, 0.25, 0]]
    labels = np.array([[0, 1], [1, 1], [0, 1]], np.uint8)
    assert priors(labels, Task.MULTILABEL, 2, labels[:2]).tolist() == [[0.5, 1], [0, 1]]
    with pytest.raises(EvaluationError, match="no rows"):
        priors(labels[:1], Task.MULTILABEL, 2, labels[:1])


def test_each_row_may_have_its_own_priors() -> None:
    rng = np.random.default_rng(1)
    for task in (Task.MULTICLASS, Task.MULTILABEL):
        scores, shares = rng.dirichlet(np.ones(3), 6), rng.dirichlet(np.ones(3), 6)
        alone = [
            correct_priors(score[None], share, task)[0]
            for score, share in zip(scores, shares, strict=True)
        ]
        assert correct_priors(scores, shares, task).tolist() == np.array(alone).tolist()


@FEW
@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 1000), st.integers(0, 1000))
def test_votes_as_frequent_as_their_classes_tie(
    first: int, second: int, times: int, others: int
) -> None:
    # By the way of shares that are no binary fractions, as 2/5 over 20/51 and 3/5 over 30/51.
    counts = np.array([first * times, second * times, others])
    votes = np.array([[first, second, 0]]) / (first + second)
    found = correct_priors(votes, counts / counts.sum(), Task.MULTICLASS)
    assert found[0, 0] == found[0, 1]
    assert predict(found, Task.MULTICLASS).tolist() == [[0]]


def test_a_score_that_is_the_prior_is_one_half() -> None:
    shares = np.array([k / n for n in range(2, 20) for k in range(1, n)])
    assert set(correct_priors(shares[None], shares, Task.MULTILABEL)[0]) == {0.5}


# The choice of k.


def figures(accuracy: float, kappa: float | None = None, auc: float | None = None) -> Metrics:
    return Metrics(accuracy, None, kappa, None, auc, ())


def test_the_smallest_of_the_best_k() -> None:
    results = {21: figures(0.9), 5: figures(0.9), 1: figures(0.8), 11: figures(0.9)}
    assert choose_k(results) == 5


def test_another_metric_and_undefined_figures() -> None:
    results = {1: figures(0.9, auc=None), 3: figures(0.8, -0.5, 0.6), 5: figures(0.7, -0.2, 0.5)}
    assert choose_k(results, "kappa") == 5
    assert choose_k(results, "auc") == 3
    with pytest.raises(EvaluationError, match="precision is defined for no k"):
        choose_k(results, "precision")
    with pytest.raises(EvaluationError, match="accuracy is defined for no k"):
        choose_k({})


@pytest.mark.parametrize("name", ["acuracy", "notes"])
def test_another_name_is_no_metric(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown metric"):
        choose_k({1: figures(0.5)}, name)
