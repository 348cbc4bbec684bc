from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info

from embedder.errors import EvaluationError, UsageError
from embedder.types import Labels, Scores, Task, Vectors
from evaluate.logistic import CS, LogisticHead, LogisticProtocol, _has_risen, fit
from index.heads import scores

WIDTH = 6
FINE = LogisticProtocol(tolerance=1e-9, iterations=10_000, rises=len(CS))
"""Tries every C."""

Splits = tuple[Vectors, Labels, Vectors, Labels]


def splits(task: Task, classes: int, seed: int = 0) -> Splits:
    """Noisy linear classes, of features on very different scales, one of them constant."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((classes, WIDTH))
    pairs: list[NDArray[np.generic]] = []
    for count in (90, 60):
        plain = rng.standard_normal((count, WIDTH))
        logits = plain @ truth.T + 2 * rng.standard_normal((count, classes))
        best = logits.argmax(axis=1, keepdims=True)
        vectors = 3 + plain * 10.0 ** np.arange(-2, WIDTH - 2)
        vectors[:, 2] = 0.1
        pairs.append(vectors.astype(np.float32))
        pairs.append((logits > 1 if task is Task.MULTILABEL else best).astype(np.uint8))
    return tuple(pairs)  # type: ignore[return-value]


def pipeline(c: float, x: Vectors, y: NDArray[np.uint8]) -> Callable[[Vectors], Scores]:
    """scikit-learn's own: probabilities, float64 (N, classes)."""
    model = LogisticRegression(C=c, tol=1e-9, max_iter=10_000)
    # In float64, as otherwise it would stop at the precision of float32.
    made = make_pipeline(StandardScaler(), model).fit(x.astype(np.float64), y)
    return lambda vectors: np.asarray(made.predict_proba(vectors.astype(np.float64)))


def answers(head: LogisticHead, task: Task, vectors: Vectors) -> Scores:
    return scores(head.weight, head.bias, task, vectors)


@pytest.mark.parametrize(
    ("task", "classes"), [(Task.BINARY, 2), (Task.MULTICLASS, 4), (Task.ORDINAL, 3)]
)
def test_it_is_the_best_of_scikit_learns_pipelines(task: Task, classes: int) -> None:
    x, y, x_val, y_val = splits(task, classes)
    head = fit(x, y, x_val, y_val, task, classes, FINE)
    models = [pipeline(c, x, y[:, 0]) for c in CS]
    losses = [log_loss(y_val[:, 0], model(x_val), labels=range(classes)) for model in models]
    np.testing.assert_allclose(head.losses, [losses], rtol=0, atol=1e-6)
    best = int(np.argmin(losses))
    assert head.c == (CS[best],)
    assert 0 < best < len(CS) - 1
    np.testing.assert_allclose(answers(head, task, x_val), models[best](x_val), rtol=0, atol=1e-5)
    assert head.notes == ()
    assert head.weight.dtype == head.bias.dtype == np.float32


def test_each_label_is_a_regression_of_its_own() -> None:
    x, y, x_val, y_val = splits(Task.MULTILABEL, 3)
    head = fit(x, y, x_val, y_val, Task.MULTILABEL, 3, FINE)
    assert head.weight.shape == (3, WIDTH)
    found = answers(head, Task.MULTILABEL, x_val)
    for label in range(3):
        models = [pipeline(c, x, y[:, label]) for c in CS]
        losses = [log_loss(y_val[:, label], model(x_val)) for model in models]
        np.testing.assert_allclose(head.losses[label], losses, rtol=0, atol=1e-6)
        best = int(np.argmin(losses))
        assert head.c[label] == CS[best]
        np.testing.assert_allclose(found[:, label], models[best](x_val)[:, 1], rtol=0, atol=1e-5)


def test_it_is_the_optimum_of_its_definition() -> None:
    # sum of log(1 + exp(-s z)) + |w|^2 / (2 C) over standardised features, minimised by scipy.
    x, y, x_val, y_val = splits(Task.BINARY, 2)
    head = fit(x, y, x_val, y_val, Task.BINARY, 2, LogisticProtocol((0.1,), 1e-9, 10_000))
    known = np.delete(x.astype(np.float64), 2, axis=1)  # without the constant feature
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    sign = 2.0 * y[:, 0] - 1

    def cost(w: NDArray[np.float64]) -> float:
        z = (known - mean) / deviation @ w[1:] + w[0]
        return float(np.logaddexp(0, -sign * z).sum() + w[1:] @ w[1:] / 0.2)

    w = minimize(cost, np.zeros(WIDTH), method="BFGS", options={"gtol": 1e-6}).x
    z = (np.delete(x_val.astype(np.float64), 2, axis=1) - mean) / deviation @ w[1:] + w[0]
    expected = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(answers(head, Task.BINARY, x_val)[:, 1], expected, atol=1e-5)


def test_the_same_data_give_the_same_head() -> None:
    data = splits(Task.MULTICLASS, 4)
    copies = [array.copy() for array in data]
    seen: list[float] = []
    first = fit(*data, Task.MULTICLASS, 4, watch=seen.append)
    again = fit(*data, Task.MULTICLASS, 4)
    np.testing.assert_array_equal(first.weight, again.weight)
    np.testing.assert_array_equal(first.bias, again.bias)
    assert (first.c, first.losses) == (again.c, again.losses)
    assert seen == list(CS[: len(first.losses[0])])
    for array, kept in zip(data, copies, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("rises", [1, 2, 3])
def test_no_c_is_tried_after_the_loss_has_risen_so_often(rises: int) -> None:
    data = splits(Task.MULTILABEL, 3)
    seen: list[float] = []
    protocol = replace(FINE, rises=rises)
    head = fit(*data, Task.MULTILABEL, 3, protocol, watch=seen.append)
    whole = fit(*data, Task.MULTILABEL, 3, FINE)
    assert {len(line) for line in whole.losses} == {len(CS)}
    tried = [stop(line, rises) for line in whole.losses]
    assert any(count < len(CS) for count in tried)
    assert [len(line) for line in head.losses] == tried
    assert seen == [c for count in tried for c in CS[:count]]
    for label, count in enumerate(tried):
        expected = whole.losses[label][:count]  # each fit is what it would be alone
        np.testing.assert_array_equal(head.losses[label], expected)
        assert head.c[label] == CS[int(np.argmin(expected))]


def stop(losses: tuple[float, ...], rises: int) -> int:
    """How many of them there are until so many in a row have risen."""
    run = 0
    for count, (one, other) in enumerate(pairwise(losses), 2):
        run = run + 1 if other > one else 0
        if run == rises:
            return count
    return len(losses)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((), 0), ((1.0,), 1), ((1.0, 2.0), 2), ((1.0, 2.0, 3.0, 0.0), 3),
        ((1.0, 2.0, 2.0, 3.0, 4.0, 5.0), 5), ((3.0, 4.0, 1.0, 2.0, 3.0, 0.0), 5),
        ((1.0, 2.0, 1.0, 2.0, 1.0), 5),
    ],
)  # fmt: skip
def test_what_counts_as_two_rises(losses: tuple[float, ...], expected: int) -> None:
    assert stop(losses, 2) == expected
    ends = [n for n in range(len(losses) + 1) if _has_risen(list(losses[:n]), 2)]
    assert min(ends, default=len(losses)) == expected


def test_a_small_problem_has_one_thread() -> None:
    seen: list[int] = []
    data = splits(Task.BINARY, 2)
    before = threads()
    fit(*data, Task.BINARY, 2, watch=lambda c: seen.append(max(threads())))
    assert set(seen) == {1}
    assert threads() == before


def threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info()]


def test_weights_that_float32_does_not_hold() -> None:
    x, y, x_val, y_val = splits(Task.BINARY, 2)
    tiny = np.float32(1e-38)
    x, x_val = (x - 3) * tiny, (x_val - 3) * tiny
    with pytest.raises(EvaluationError, match="the weights of the head are not finite"):
        fit(x * np.float32(0.1), y, x_val, y_val, Task.BINARY, 2)


def test_the_scale_of_features_does_not_matter() -> None:
    x, y, x_val, y_val = splits(Task.MULTICLASS, 4)
    factors = (2.0 ** np.arange(-3, WIDTH - 3)).astype(np.float32)
    head = fit(x, y, x_val, y_val, Task.MULTICLASS, 4, FINE)
    other = fit(x * factors, y, x_val * factors, y_val, Task.MULTICLASS, 4, FINE)
    assert head.c == other.c
    np.testing.assert_allclose(head.weight, other.weight * factors, rtol=1e-4, atol=1e-7)


def test_embeddings_in_float16() -> None:
    x, y, x_val, y_val = splits(Task.MULTICLASS, 4)
    half = x.astype(np.float16)
    head = fit(half, y, x_val, y_val, Task.MULTICLASS, 4)  # type: ignore[arg-type]
    same = fit(half.astype(np.float32), y, x_val, y_val, Task.MULTICLASS, 4)
    np.testing.assert_array_equal(head.weight, same.weight)


def test_a_class_without_training_rows_is_never_predicted() -> None:
    x, y, x_val, y_val = splits(Task.MULTICLASS, 4)
    kept, seen = y[:, 0] != 2, y_val[:, 0] != 2
    assert not seen.all()
    head = fit(x[kept], y[kept], x_val, y_val, Task.MULTICLASS, 4, FINE)
    model = pipeline(head.c[0] or 0, x[kept], y[kept, 0])
    found = answers(head, Task.MULTICLASS, x_val)
    assert (found[:, 2] == 0).all()
    np.testing.assert_allclose(np.delete(found, 2, axis=1), model(x_val), rtol=0, atol=1e-5)
    expected = log_loss(y_val[seen, 0], model(x_val[seen]))
    assert min(head.losses[0]) == pytest.approx(expected, abs=1e-6)
    assert head.notes == ("class 2 has no training row: it is never predicted",)


def test_two_of_three_classes_and_one_alone() -> None:
    x, y, x_val, y_val = splits(Task.MULTICLASS, 3)
    two = y[:, 0] != 0
    found = answers(fit(x[two], y[two], x_val, y_val, Task.MULTICLASS, 3), Task.MULTICLASS, x_val)
    assert (found[:, 0] == 0).all()
    assert set(found.argmax(axis=1)) == {1, 2}
    one = y[:, 0] == 1
    head = fit(x[one], y[one], x_val, y_val, Task.MULTICLASS, 3)
    np.testing.assert_array_equal(answers(head, Task.MULTICLASS, x_val), [[0, 1, 0]] * len(x_val))
    assert (head.c, head.losses, len(head.notes)) == ((None,), ((),), 2)


@pytest.mark.parametrize("value", [0, 1])
def test_a_constant_label_stays_constant(value: int) -> None:
    x, y, x_val, y_val = splits(Task.MULTILABEL, 3)
    y[:, 1] = value
    head = fit(x, y, x_val, y_val, Task.MULTILABEL, 3)
    assert (answers(head, Task.MULTILABEL, x_val)[:, 1] == value).all()
    assert head.c[1] is None
    assert head.c[0] in CS
    expected = f"label 1 is {value} in every training row, and so in every prediction"
    assert head.notes == (expected,)


def test_what_did_not_converge_is_said() -> None:
    data = splits(Task.MULTICLASS, 4)
    hasty = LogisticProtocol((1.0, 10.0), 1e-9, iterations=2)
    head = fit(*data, Task.MULTICLASS, 4, hasty)
    assert head.notes == (
        "C = 1: L-BFGS stopped after 2 iterations, not yet converged",
        "C = 10: L-BFGS stopped after 2 iterations, not yet converged",
    )
    data = splits(Task.MULTILABEL, 2)
    notes = fit(*data, Task.MULTILABEL, 2, hasty).notes
    assert [note.split(":")[0] for note in notes] == ["label 0", "label 0", "label 1", "label 1"]


def test_wrong_data_are_refused() -> None:
    x, y, x_val, y_val = splits(Task.BINARY, 2)
    with pytest.raises(EvaluationError, match="val has 0 rows"):
        fit(x, y, x_val[:0], y_val[:0], Task.BINARY, 2)
    with pytest.raises(EvaluationError, match="train has width 6, val 5"):
        fit(x, y, x_val[:, 1:], y_val, Task.BINARY, 2)
    zeros, ones = np.zeros_like(y), np.ones_like(y_val)
    zeros[0] = 2
    with pytest.raises(EvaluationError, match="no row of val has a class of train"):
        fit(x, zeros, x_val, ones, Task.MULTICLASS, 3)


@pytest.mark.parametrize(
    "made",
    [
        lambda: LogisticProtocol(()),
        lambda: LogisticProtocol((0.0,)),
        lambda: LogisticProtocol((1.0, 1.0)),
        lambda: LogisticProtocol((2.0, 1.0)),
        lambda: LogisticProtocol((math.inf,)),
        lambda: LogisticProtocol(tolerance=0),
        lambda: LogisticProtocol(iterations=0),
        lambda: LogisticProtocol(rises=0),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(made: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        made()


def test_the_protocol_as_it_is_recorded() -> None:
    assert LogisticProtocol().describe() == {
        "solver": "lbfgs", "cs": [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0], "tolerance": 1e-6,
        "iterations": 1000, "rises": 2, "standardised": True,
    }  # fmt: skip
