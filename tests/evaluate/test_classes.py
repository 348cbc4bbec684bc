from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from embedder.types import Task
from evaluate.classes import confusion, figures


def one_hot(classes: list[int], count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.eye(count)[classes]


def test_a_matrix_by_hand() -> None:
    truth = np.array([[0], [0], [1], [2], [2], [2]], np.uint8)
    scores = one_hot([0, 1, 1, 2, 2, 0], 3)
    (table,) = confusion(truth, scores, Task.MULTICLASS, 3)
    assert table == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    found = figures([table], ["a", "b", "c"])
    assert [(f.name, f.count) for f in found] == [("a", 2), ("b", 1), ("c", 3)]
    assert [f.recall for f in found] == [0.5, 1, pytest.approx(2 / 3)]
    assert [f.precision for f in found] == [0.5, 0.5, 1]
    assert [f.f1 for f in found] == [0.5, pytest.approx(2 / 3), pytest.approx(0.8)]


def test_a_matrix_for_each_label() -> None:
    truth = np.array([[1, 0], [1, 1], [0, 0]], np.uint8)
    scores = np.array([[0.9, 0.6], [0.4, 0.9], [0.5, 0.1]])
    tables = confusion(truth, scores, Task.MULTILABEL, 2)
    assert tables == [[[1, 0], [1, 1]], [[1, 1], [0, 1]]]
    found = figures(tables, ["x", "y"])
    assert [(f.count, f.recall, f.precision) for f in found] == [(2, 0.5, 1), (1, 1, 0.5)]


def test_what_is_undefined() -> None:
    """No row of the class, or none predicted as it."""
    (table,) = confusion(np.array([[0], [0]], np.uint8), one_hot([0, 1], 3), Task.MULTICLASS, 3)
    found = figures([table], ["a", "b", "c"])
    assert (found[1].recall, found[1].precision, found[1].f1) == (None, 0, 0)
    assert (found[2].recall, found[2].precision, found[2].f1) == (None, None, None)


@given(
    st.integers(2, 6).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), min_size=1),
        )
    )
)
def test_as_scikit_learn_has_it(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = case
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    labels = np.array(truth, np.uint8)[:, None]
    (table,) = confusion(labels, one_hot(predicted, count), Task.ORDINAL, count)
    assert table == confusion_matrix(truth, predicted, labels=range(count)).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=range(count), zero_division=np.nan
    )
    for number, found in enumerate(figures([table], [str(n) for n in range(count)])):
        assert found.count == support[number]
        for ours, theirs in (
            (found.recall, recall), (found.precision, precision), (found.f1, f1),
        ):  # fmt: skip
            if ours is None:
                assert np.isnan(theirs[number])
            else:
                assert ours == pytest.approx(theirs[number])
