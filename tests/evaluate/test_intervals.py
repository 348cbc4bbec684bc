from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.errors import EvaluationError, UsageError
from embedder.types import Labels, Scores, Task
from evaluate import intervals as module
from evaluate.intervals import Interval, draw, intervals, percentiles, remarks, replicates
from evaluate.metrics import measure

FEW = settings(max_examples=40, deadline=None, derandomize=True)
FIGURES = ("accuracy", "balanced_accuracy", "kappa", "precision", "auc")


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-12, nan_ok=True)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Task, Labels, Scores]:
    """A few rows of any task, half the time with many ties, scores of the classes summing to 1."""
    task = draw(st.sampled_from(list(Task)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    columns = 2 if task is Task.BINARY else columns
    size, width = (2, columns) if task is Task.MULTILABEL else (columns, 1)
    labels = rng.integers(0, size, (rows, width)).astype(np.uint8)
    scores = rng.random((rows, columns)) + 0.01
    if draw(st.booleans()):
        scores = np.ceil(scores * 3)
    scores /= scores.max() if task is Task.MULTILABEL else scores.sum(axis=1, keepdims=True)
    return task, labels, scores


def resampled(rows: int, resamples: int, seed: int) -> list[np.ndarray[Any, Any]]:
    """The rows of each resample, drawn one after the other."""
    generator = np.random.default_rng(seed)
    return [np.sort(generator.integers(rows, size=rows)) for _ in range(resamples)]


# Against the definition.


@FEW
@given(cases(), st.integers(0, 1000))
def test_each_resample_is_measured_as_its_rows_are(
    case: tuple[Task, Labels, Scores], seed: int
) -> None:
    task, labels, scores = case
    found = replicates(
        labels, scores, task, scores.shape[1], with_auc=True, resamples=15, seed=seed
    )
    assert tuple(found) == FIGURES
    for i, rows in enumerate(resampled(len(labels), 15, seed)):
        slow = measure(labels[rows], scores[rows], task, scores.shape[1], with_auc=True)
        for name in FIGURES:
            expected = getattr(slow, name)
            assert found[name][i] == near(np.nan if expected is None else expected), name


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS, Task.MULTILABEL])
def test_auc_is_that_of_weighted_rows_in_scikit_learn(task: Task) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    columns, rows = 2 if task is Task.BINARY else 3, 300
    width = columns if task is Task.MULTILABEL else 1
    labels = (rng.random((rows, width)) < 0.2).astype(np.uint8)  # one side is rare
    if task is Task.MULTICLASS:
        labels = rng.choice(3, (rows, 1), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    scores = np.round(rng.random((rows, columns)), 1)
    truths = labels == np.arange(3) if task is Task.MULTICLASS else labels
    ranked = scores[:, 1:] if task is Task.BINARY else scores
    found = replicates(labels, scores, task, columns, with_auc=True, resamples=4, seed=9)["auc"]
    weights = np.concatenate(list(draw(rows, 4, 9)), axis=1).T
    for value, weight in zip(found, weights, strict=True):
        pairs = zip(truths.T, ranked.T, strict=True)
        assert value == near(np.mean([roc_auc_score(*p, sample_weight=weight) for p in pairs]))


def test_the_interval_holds_the_percentiles_of_the_resamples() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (50, 1)).astype(np.uint8)
    scores = rng.dirichlet(np.ones(3), 50)
    found = intervals(
        labels, scores, Task.ORDINAL, 3, with_auc=True, level=0.9, resamples=99, seed=5
    )
    rows = resampled(50, 99, 5)
    slow = [measure(labels[r], scores[r], Task.ORDINAL, 3, with_auc=True) for r in rows]
    whole = measure(labels, scores, Task.ORDINAL, 3, with_auc=True)
    for name, interval in found.items():
        low, high = np.percentile([getattr(m, name) for m in slow], [5, 95])
        assert interval == Interval(getattr(whole, name), near(low), near(high), 0.9, 99, 5, 0, ())


def test_accuracy_is_as_uncertain_as_the_binomial_says() -> None:
    from scipy.stats import binom

    labels = np.zeros((1000, 1), np.uint8)
    labels[:100] = 1
    scores = np.tile([1.0, 0.0], (1000, 1))
    found = intervals(labels, scores, Task.BINARY, 2, with_auc=False, resamples=5000)["accuracy"]
    assert found.estimate == 0.9
    assert (found.low, found.high) == pytest.approx(
        tuple(binom.ppf([0.025, 0.975], 1000, 0.9) / 1000), abs=0.0015
    )


# The resamples.


@pytest.mark.parametrize("rows", [1, 7, 100_000])
def test_resamples_are_row_counts(rows: int) -> None:
    parts = list(draw(rows, 130, 4))
    counts = np.concatenate(parts, axis=1)
    assert counts.shape == (rows, 130)
    assert (counts.sum(axis=0) == rows).all()
    assert max(part.size for part in parts) <= 1 << 22
    for column, drawn in zip(counts.T[:3], resampled(rows, 3, 4), strict=True):
        assert (np.repeat(np.arange(rows), column.astype(int)) == drawn).all()


def test_more_resamples_begin_with_the_same() -> None:
    few, more = (np.concatenate(list(draw(20, n, 0)), axis=1) for n in (70, 200))
    assert (more[:, :70] == few).all()


def test_how_many_are_held_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.tile(np.array([[0], [1], [2]], np.uint8), (10, 1))
    scores = np.random.default_rng(0).dirichlet(np.ones(3), 30)

    def figures() -> dict[str, Interval]:
        return intervals(labels, scores, Task.MULTICLASS, 3, with_auc=True, resamples=100)

    expected = figures()
    monkeypatch.setattr(module, "_AT_ONCE", 70)
    assert figures() == expected


def test_the_seed_decides() -> None:
    labels = np.tile(np.array([[0], [1]], np.uint8), (30, 1))
    ones = np.random.default_rng(0).random(60)
    scores = np.stack([1 - ones, ones], axis=1)
    first, again, other = (
        intervals(labels, scores, Task.BINARY, 2, with_auc=True, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first["auc"].low != other["auc"].low


def test_a_large_split_fits_in_little_memory() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, (47_280, 1)).astype(np.uint8)
    scores = rng.dirichlet(np.ones(8), 47_280)
    tracemalloc.start()
    try:
        replicates(labels, scores, Task.MULTICLASS, 8, with_auc=True, resamples=64)
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


# Undefined figures.


def test_resamples_without_a_class_are_counted_and_named() -> None:
    labels = np.array([[0], [0], [0], [1]], np.uint8)
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    found = intervals(labels, scores, Task.BINARY, 2, with_auc=True, resamples=400, seed=2)
    lost = sum(len(set(labels[rows, 0])) < 2 for rows in resampled(4, 400, 2))
    assert 100 < lost < 170  # about (3 / 4)^4
    assert found["accuracy"].undefined == 0
    assert found["accuracy"].notes == ()
    for name, words in (("auc", "AUC"), ("balanced_accuracy", "balanced accuracy")):
        assert found[name].undefined == lost
        (note,) = found[name].notes
        assert note.startswith(f"{words} is undefined in {lost} of 400 resamples")
    assert found["auc"].estimate == 1.0
    assert (found["auc"].low, found["auc"].high) == (1.0, 1.0)
    assert found["kappa"].undefined < lost


def test_a_figure_that_the_split_lacks_has_no_interval() -> None:
    labels = np.array([[0], [2], [2]], np.uint8)
    found = intervals(labels, np.eye(3)[[0, 1, 2]], Task.ORDINAL, 3, with_auc=True, resamples=20)
    for name in ("balanced_accuracy", "precision", "auc"):
        assert found[name] == Interval(None, None, None, 0.95, 20, 0, 20, ())
    assert found["accuracy"].estimate == near(2 / 3)


def test_without_auc_there_is_none() -> None:
    labels = np.array([[0], [1]], np.uint8)
    found = intervals(labels, np.eye(2), Task.BINARY, 2, with_auc=False, resamples=5)
    assert tuple(found) == FIGURES[:-1]


def test_percentiles_by_hand() -> None:
    figures = np.arange(101.0)
    assert percentiles(figures, 0.9) == near((5.0, 95.0))
    assert percentiles(figures[:2], 0.5) == (0.25, 0.75)
    assert percentiles(np.append(figures, np.nan), 0.5) == (25.0, 75.0)
    assert percentiles(np.full(3, np.nan), 0.9) == (None, None)


def test_a_few_undefined_resamples_have_no_note() -> None:
    assert remarks("kappa", 50, 1000) == ()
    (note,) = remarks("kappa", 51, 1000)
    assert note.startswith("kappa is undefined in 51 of 1,000 resamples")


# What is refused.


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"level": 1.0}, "the level 1.0 of an interval"),
        ({"level": 0.0}, "the level 0.0 of an interval"),
        ({"level": float("nan")}, "the level nan of an interval"),
        ({"resamples": 0}, "0 resamples give no interval"),
        ({"seed": -1}, "the seed -1 is negative"),
    ],
)
def test_a_bootstrap_that_cannot_be_is_refused(plan: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        intervals(np.array([[0], [1]], np.uint8), np.eye(2), Task.BINARY, 2, with_auc=True, **plan)


def test_what_measure_refuses_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no rows"):
        replicates(np.zeros((0, 1), np.uint8), np.zeros((0, 2)), Task.BINARY, 2, with_auc=True)
