from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedder.errors import EvaluationError
from embedder.types import Labels, Scores, Task
from evaluate.metrics import Metrics, measure, predict

SINGLE = [Task.BINARY, Task.MULTICLASS, Task.ORDINAL]
MEDMNIST_TASKS = {
    Task.BINARY: "binary-class",
    Task.MULTICLASS: "multi-class",
    Task.ORDINAL: "ordinal-regression",
    Task.MULTILABEL: "multi-label, binary-class",
}
FEW = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # it makes ~/.medmnist
        import medmnist.evaluator  # type: ignore[import-untyped]

        yield medmnist.evaluator


def column(*labels: int) -> Labels:
    return np.array(labels, dtype=np.uint8).reshape(-1, 1)


def two(*ones: float) -> Scores:
    """Binary scores from those of class 1."""
    return np.array([[1 - one, one] for one in ones], dtype=np.float64)


def votes(predicted: list[int], classes: int) -> Scores:
    return np.eye(classes, dtype=np.float64)[predicted]


def near(value: float) -> Any:
    return pytest.approx(value, rel=0, abs=1e-12)


@st.composite
def cases(draw: st.DrawFn, complete: bool = False) -> tuple[Task, Labels, Scores]:
    """Up to 60 random rows, half the time with many ties; complete: with every class present."""
    task = draw(st.sampled_from(list(Task)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = 2 if task is Task.BINARY else draw(st.integers(2, 9))
    size = 2 if task is Task.MULTILABEL else columns
    rows = draw(st.integers(size if complete else 2, 60))
    labels = rng.integers(0, size, (rows, columns if task is Task.MULTILABEL else 1))
    if complete:
        labels[:size] = np.arange(size)[:, np.newaxis]
    scores = rng.random((rows, columns))
    if draw(st.booleans()):
        scores = np.round(scores * 4) / 4
    return task, labels.astype(np.uint8), scores


def outcomes(
    task: Task, labels: Labels, scores: Scores
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8], int]]:
    """Truth, prediction and class count, once per label column."""
    size = 2 if task is Task.MULTILABEL else scores.shape[1]
    predicted = predict(scores, task)
    return [(labels[:, i], predicted[:, i], size) for i in range(labels.shape[1])]


def all_present(task: Task, labels: Labels, scores: Scores) -> bool:
    return all(set(range(size)) == set(t.tolist()) for t, _, size in outcomes(task, labels, scores))


# Literal values, worked out by hand.


def test_binary_by_hand() -> None:
    # Predicted 0 0 1 1 0 1 against 0 0 0 1 1 1: hits 2 of 3 in each class, each predicted 3 times.
    # Of the 9 pairs of a 1 and a 0, score 0.8 loses none, 0.4 loses to 0.6, 0.9 none.
    labels = column(0, 0, 0, 1, 1, 1)
    scores = two(0.1, 0.2, 0.6, 0.8, 0.4, 0.9)
    expected = Metrics(near(2 / 3), near(2 / 3), near(1 / 3), near(2 / 3), near(8 / 9), ())
    assert measure(labels, scores, Task.BINARY, ("well", "ill"), with_auc=True) == expected


def test_unequal_binary_by_hand() -> None:
    # Table [[3, 1], [0, 1]]: recall 3/4 and 1, precision 1 and 1/2, chance (4*3 + 1*2) / 25.
    found = measure(
        column(0, 0, 0, 0, 1), two(0.1, 0.2, 0.3, 0.9, 0.8), Task.BINARY, 2, with_auc=True
    )
    assert found.accuracy == near(0.8)
    assert found.balanced_accuracy == near(0.875)
    assert found.kappa == near((0.8 - 0.56) / (1 - 0.56))
    assert found.precision == near(0.75)
    assert found.auc == near(0.75)


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.ORDINAL])
def test_several_classes_by_hand(task: Task) -> None:
    # Predicted 0 1 1 2 0 against 0 0 1 2 2: table [[1, 1, 0], [0, 1, 0], [1, 0, 1]].
    # Recall 1/2, 1, 1/2; precision 1/2, 1/2, 1; chance (2*2 + 1*2 + 2*1) / 25 = 0.32.
    # Pairs won: class 0 5 of 6, class 1 3.5 of 4 (one tie), class 2 4 of 6.
    labels = column(0, 0, 1, 2, 2)
    scores = np.array(
        [[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.5, 0.35, 0.15]]
    )
    found = measure(labels, scores, task, 3, with_auc=True)
    assert found.accuracy == near(0.6)
    assert found.balanced_accuracy == near(2 / 3)
    assert found.kappa == near((0.6 - 0.32) / (1 - 0.32))
    assert found.precision == near(2 / 3)
    assert found.auc == near((5 / 6 + 3.5 / 4 + 4 / 6) / 3)
    assert found.notes == ()


def test_multilabel_by_hand() -> None:
    # Label 0: 0 0 1 1 predicted 0 1 1 1. Label 1: 1 0 0 0 predicted 0 0 0 0 (0.5 is not above 0.5).
    labels = np.array([[0, 1], [0, 0], [1, 0], [1, 0]], dtype=np.uint8)
    scores = np.array([[0.1, 0.5], [0.8, 0.5], [0.7, 0.2], [0.9, 0.1]])
    found = measure(labels, scores, Task.MULTILABEL, ("mass", "hernia"), with_auc=True)
    assert found.accuracy == near((3 / 4 + 3 / 4) / 2)
    assert found.balanced_accuracy == near((3 / 4 + 1 / 2) / 2)
    assert found.kappa == near((1 / 2 + 0) / 2)
    assert found.precision == near(((1 + 2 / 3) / 2 + (3 / 4 + 0) / 2) / 2)
    assert found.auc == near((3 / 4 + 5 / 6) / 2)
    assert found.notes == ()


def test_opposite_predictions() -> None:
    found = measure(column(0, 1), two(1.0, 0.0), Task.BINARY, 2, with_auc=True)
    assert found == Metrics(0.0, 0.0, -1.0, 0.0, 0.0, ())


def test_perfect_predictions() -> None:
    found = measure(column(0, 1, 2), votes([0, 1, 2], 3), Task.MULTICLASS, 3, with_auc=True)
    assert found == Metrics(1.0, 1.0, 1.0, 1.0, 1.0, ())


def test_same_prediction_for_all() -> None:
    # Classes 1 and 2 are present and never predicted: their precision is 0.
    found = measure(column(0, 0, 1, 2), votes([0] * 4, 3), Task.MULTICLASS, 3, with_auc=True)
    assert found == Metrics(0.5, near(1 / 3), 0.0, near(1 / 6), 0.5, ())


# Predictions.


def test_half_is_not_above_the_threshold() -> None:
    above = np.nextafter(0.5, 1)
    assert predict(two(0.5, above, 0.4), Task.BINARY).tolist() == [[0], [1], [0]]
    assert predict(np.array([[0.5, above]]), Task.MULTILABEL).tolist() == [[0, 1]]


def test_binary_looks_at_class_1_only() -> None:
    assert predict(np.array([[0.9, 0.6], [0.1, 0.4]]), Task.BINARY).tolist() == [[1], [0]]


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.ORDINAL])
def test_a_tie_goes_to_the_lowest_class(task: Task) -> None:
    scores = np.array([[0.2, 0.4, 0.4], [0.3, 0.3, 0.3], [0.4, 0.2, 0.4]])
    assert predict(scores, task).tolist() == [[1], [0], [0]]


@FEW
@given(cases())
def test_predictions_have_the_form_of_labels(case: tuple[Task, Labels, Scores]) -> None:
    task, labels, scores = case
    found = predict(scores, task)
    assert found.dtype == np.uint8
    assert found.shape == labels.shape


def test_the_last_of_256_classes_fits() -> None:
    assert predict(votes([255], 256), Task.MULTICLASS).tolist() == [[255]]


# Undefined figures.


def test_an_absent_class_is_named() -> None:
    found = measure(
        column(0, 0, 2), votes([0, 1, 2], 3), Task.ORDINAL, ["low", "middle", "high"], with_auc=True
    )
    note = (
        "class 1 (middle) is absent from the labels:"
        " balanced accuracy, precision and AUC are undefined"
    )
    # Table [[1, 1, 0], [0, 0, 0], [0, 0, 1]]: chance (2*1 + 0*1 + 1*1) / 9.
    assert found == Metrics(near(2 / 3), None, near(0.5), None, None, (note,))


def test_a_class_without_a_name_and_without_auc() -> None:
    found = measure(column(0, 0), two(0.1, 0.9), Task.BINARY, 2, with_auc=False)
    note = "class 1 is absent from the labels: balanced accuracy and precision are undefined"
    assert found == Metrics(0.5, None, 0.0, None, None, (note,))


def test_every_absent_class_has_its_note() -> None:
    found = measure(column(1, 1), votes([1, 0], 4), Task.MULTICLASS, 4, with_auc=True)
    assert [note.split(" is ")[0] for note in found.notes] == ["class 0", "class 2", "class 3"]


@pytest.mark.parametrize("value", [0, 1])
def test_a_constant_label_is_named(value: int) -> None:
    labels = np.array([[0, value], [1, value]], dtype=np.uint8)
    scores = np.array([[0.1, 0.2], [0.9, 0.7]])
    found = measure(labels, scores, Task.MULTILABEL, ["mass", "hernia"], with_auc=True)
    note = (
        f"label 1 (hernia) is {value} in every row:"
        " balanced accuracy, precision and AUC are undefined"
    )
    assert found == Metrics(0.75, None, 0.5, None, None, (note,))


def test_a_constant_label_always_predicted_has_no_kappa() -> None:
    labels = np.array([[0, 1], [1, 1]], dtype=np.uint8)
    scores = np.array([[0.1, 0.8], [0.9, 0.7]])
    found = measure(labels, scores, Task.MULTILABEL, ["mass", "hernia"], with_auc=False)
    assert found == Metrics(
        1.0,
        None,
        None,
        None,
        None,
        (
            "label 1 (hernia) is 1 in every row: balanced accuracy and precision are undefined",
            "label 1 (hernia) is 1 in every row and every prediction: Cohen's kappa is undefined",
        ),
    )


@pytest.mark.parametrize("task", SINGLE)
@pytest.mark.parametrize("right", [True, False])
def test_a_single_row(task: Task, right: bool) -> None:
    scores = votes([1 if right else 0], 2)
    found = measure(column(1), scores, task, ("no", "yes"), with_auc=True)
    assert found.accuracy == float(right)
    assert found.kappa == (None if right else 0.0)
    assert (found.balanced_accuracy, found.precision, found.auc) == (None, None, None)
    kappa = "every label and every prediction is class 1 (yes): Cohen's kappa is undefined"
    assert found.notes[0].startswith("class 0 (no) is absent")
    assert found.notes[1:] == ((kappa,) if right else ())


@pytest.mark.parametrize("names", [("mass", "hernia"), ("mass",)])
def test_a_single_row_of_several_labels(names: tuple[str, ...]) -> None:
    labels = np.ones((1, len(names)), dtype=np.uint8)
    found = measure(labels, np.full(labels.shape, 0.7), Task.MULTILABEL, names, with_auc=True)
    assert (found.accuracy, found.kappa, found.auc) == (1.0, None, None)
    assert len(found.notes) == 2 * len(names)


def test_auc_is_left_out_without_a_note() -> None:
    found = measure(column(0, 1), two(0.2, 0.7), Task.BINARY, 2, with_auc=False)
    assert found == Metrics(1.0, 1.0, 1.0, 1.0, None, ())


def test_scores_further_apart_than_the_largest_float() -> None:
    most = float(np.finfo(np.float64).max)
    scores = np.array([[0.0, -most], [0.0, most], [0.0, most], [0.0, -most]])
    found = measure(column(0, 1, 1, 0), scores, Task.BINARY, 2, with_auc=True)
    assert found.auc == 1.0


def test_scores_that_hardly_differ() -> None:
    found = measure(
        column(0, 1), np.array([[0.0, 0.0], [0.0, 5e-324]]), Task.BINARY, 2, with_auc=True
    )
    assert found.auc == 1.0


# Against independent computations.


@FEW
@given(case=cases())
def test_accuracy_is_that_of_medmnist(
    evaluator: ModuleType, case: tuple[Task, Labels, Scores]
) -> None:
    task, labels, scores = case
    found = measure(labels, scores, task, scores.shape[1], with_auc=False)
    assert found.accuracy == evaluator.getACC(labels, scores, MEDMNIST_TASKS[task])


@FEW
@given(case=cases(complete=True))
def test_auc_is_that_of_medmnist(evaluator: ModuleType, case: tuple[Task, Labels, Scores]) -> None:
    task, labels, scores = case
    found = measure(labels, scores, task, scores.shape[1], with_auc=True)
    assert found.auc == evaluator.getAUC(labels, scores, MEDMNIST_TASKS[task])


@FEW
@given(cases(complete=True))
def test_the_other_figures_follow_their_definitions(case: tuple[Task, Labels, Scores]) -> None:
    task, labels, scores = case
    recalls, precisions, kappas = [], [], []
    for truth, guess, size in outcomes(task, labels, scores):
        hit = truth == guess
        recalls.append(np.mean([hit[truth == c].mean() for c in range(size)]))
        precisions.append(
            np.mean([hit[guess == c].mean() if c in guess else 0.0 for c in range(size)])
        )
        chance = sum((truth == c).mean() * (guess == c).mean() for c in range(size))
        kappas.append((hit.mean() - chance) / (1 - chance))
    found = measure(labels, scores, task, scores.shape[1], with_auc=False)
    assert found.balanced_accuracy == near(float(np.mean(recalls)))
    assert found.precision == near(float(np.mean(precisions)))
    assert found.kappa == near(float(np.mean(kappas)))
    assert found.notes == ()


@FEW
@given(cases(complete=True))
def test_the_other_figures_agree_with_scikit_learn(case: tuple[Task, Labels, Scores]) -> None:
    from sklearn.metrics import (  # type: ignore[import-untyped]
        balanced_accuracy_score,
        cohen_kappa_score,
        precision_score,
    )

    task, labels, scores = case
    pairs = [(truth, guess) for truth, guess, _ in outcomes(task, labels, scores)]
    found = measure(labels, scores, task, scores.shape[1], with_auc=False)
    assert found.balanced_accuracy == near(np.mean([balanced_accuracy_score(*p) for p in pairs]))
    assert found.kappa == near(np.mean([cohen_kappa_score(*p) for p in pairs]))
    assert found.precision == near(
        np.mean([precision_score(*p, average="macro", zero_division=0) for p in pairs])
    )


@FEW
@given(cases(), st.booleans())
def test_figures_are_in_range_or_explained(
    case: tuple[Task, Labels, Scores], with_auc: bool
) -> None:
    task, labels, scores = case
    found = measure(labels, scores, task, scores.shape[1], with_auc=with_auc)
    present = all_present(task, labels, scores)
    assert 0 <= found.accuracy <= 1
    for figure in (found.balanced_accuracy, found.precision, found.auc if with_auc else None):
        assert figure is None or 0 <= figure <= 1
    assert (found.balanced_accuracy is not None) == (found.precision is not None) == present
    assert (found.auc is not None) == (present and with_auc)
    assert found.kappa is None or -1 <= found.kappa <= 1
    assert any("kappa" in note for note in found.notes) == (found.kappa is None)
    assert any("precision" in note for note in found.notes) == (not present)
    assert all(type(f) in (float, type(None)) for f in list(vars(found).values())[:-1])


def test_kappa_of_many_rows_is_exact() -> None:
    # Products of counts pass 2**31 here. Table [[30000, 10000], [5000, 5000]].
    labels = column(*([0] * 40_000 + [1] * 10_000))
    guesses = [0] * 30_000 + [1] * 10_000 + [0] * 5_000 + [1] * 5_000
    found = measure(labels, votes(guesses, 2), Task.BINARY, 2, with_auc=False)
    chance = Fraction(40 * 35 + 10 * 15, 50 * 50)
    assert found.kappa == near(float((Fraction(7, 10) - chance) / (1 - chance)))


# What is refused.


@pytest.mark.parametrize(
    ("labels", "scores", "task", "classes", "words"),
    [
        (np.zeros((0, 1), np.uint8), np.zeros((0, 2)), Task.BINARY, 2, "no rows"),
        (column(0), np.zeros(2), Task.BINARY, 2, "shape (2,)"),
        (column(0), np.zeros((1, 2), np.int64), Task.BINARY, 2, "scores are int64"),
        (column(0), np.zeros((1, 1)), Task.BINARY, 1, "1 columns; the binary task needs 2"),
        (column(0), np.zeros((1, 3)), Task.BINARY, 3, "3 columns; the binary task needs 2"),
        (column(0), np.zeros((1, 1)), Task.ORDINAL, 1, "1 columns; the ordinal task needs 2 to"),
        (column(0), np.zeros((1, 257)), Task.MULTICLASS, 257, "257 columns"),
        (np.zeros((1, 0), np.uint8), np.zeros((1, 0)), Task.MULTILABEL, 0, "0 columns"),
        (column(0), np.zeros((1, 3)), Task.MULTICLASS, 4, "expected 4, one per class"),
        (column(0), np.zeros((1, 3)), Task.MULTICLASS, ("a", "b"), "expected 2, one per class"),
        (column(0, 1), np.zeros((1, 2)), Task.BINARY, 2, "labels are uint8 of shape (2, 1)"),
        (np.zeros(1, np.uint8), np.zeros((1, 2)), Task.BINARY, 2, "labels are uint8 of shape (1,)"),
        (column(0), np.zeros((1, 2)), Task.MULTILABEL, 2, "needs uint8 (1, 2)"),
        (np.zeros((1, 1)), np.zeros((1, 2)), Task.BINARY, 2, "labels are float64"),
        (column(0, 2), np.zeros((2, 2)), Task.BINARY, 2, "row 1, column 0 is 2; expected 0 to 1"),
        (column(3), np.zeros((1, 3)), Task.MULTICLASS, 3, "column 0 is 3; expected 0 to 2"),
        (np.array([[-1]]), np.zeros((1, 2)), Task.BINARY, 2, "is -1; expected 0 to 1"),
        (np.array([[0, 2]], np.uint8), np.zeros((1, 2)), Task.MULTILABEL, 2, "column 1 is 2"),
        (column(0), np.array([[0.0, np.nan]]), Task.BINARY, 2, "row 0, column 1 is nan"),
        (column(0), np.array([[np.inf, 0.0]]), Task.MULTICLASS, 2, "row 0, column 0 is inf"),
    ],
)
def test_wrong_input_is_refused_on_one_line(
    labels: Labels, scores: Scores, task: Task, classes: tuple[str, ...] | int, words: str
) -> None:
    with pytest.raises(EvaluationError) as caught:
        measure(labels, scores, task, classes, with_auc=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_predict_refuses_scores_that_are_not_finite() -> None:
    with pytest.raises(EvaluationError, match=r"row 0, column 0 is nan \(2 such in all\)"):
        predict(np.full((1, 2), np.nan), Task.MULTILABEL)
