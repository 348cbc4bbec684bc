"""k-NN with class priors corrected and thresholds chosen on val, against plain loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, f1_score, multilabel_confusion_matrix
from sklearn.neighbors import NearestNeighbors

from embedder.erase import erase
from embedder.errors import EvaluationError, UsageError
from embedder.store import Cell, Store, read_cell
from embedder.types import Distance, Labels, Scores, Split, Task
from evaluate.knn import Protocol, evaluate, evaluate_best, find_neighbours, score
from evaluate.thresholds import Criterion, correct_priors, priors
from index.search import Neighbours
from index.vote import DistanceVote, MajorityVote, SoftmaxVote, Vote, count_votes
from tests.evaluate.conftest import CellMaker

Floats = NDArray[np.float64]


def uneven(make_cell: CellMaker, seed: int = 0, task: Task = Task.MULTICLASS) -> Cell:
    """Three classes, one of them rare, that overlap; of the binary task the first two."""
    rng = np.random.default_rng(seed)
    shares = [0.1, 0.9] if task is Task.BINARY else [0.7, 0.25, 0.05]
    count = len(shares)
    train, test = (rng.choice(count, rows, p=shares) for rows in (300, 120))

    def points(labels: NDArray[np.int64]) -> Floats:
        found: Floats = 2 * np.eye(3)[labels] + rng.standard_normal((len(labels), 3))
        return found

    return make_cell(
        points(train), train, points(test), test, task=task, classes=("ant", "bee", "cat")[:count]
    )


def findings(make_cell: CellMaker, seed: int = 0, rows: int = 400) -> Cell:
    """Three labels, carried by 4, 10 and 30 of a hundred cases; embeddings tell of each."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> tuple[Floats, Labels]:
        labels = (rng.random((count, 3)) < [0.04, 0.1, 0.3]).astype(np.uint8)
        labels[0], labels[1] = 0, 1
        axes = np.concatenate([1.5 * labels, np.ones((count, 1))], axis=1)
        return axes + rng.standard_normal((count, 4)), labels

    train, val, test = draw(rows), draw(rows // 2), draw(rows // 2)
    return make_cell(
        *train, *test, val=val, task=Task.MULTILABEL, classes=("mass", "hernia", "edema")
    )


def nearest(cell: Cell, split: Split, k: int, *, live: NDArray[np.int64] | None = None) -> Floats:
    """Labels of the k nearest of the ``live`` train cases by scikit-learn, (Q, k, 1 or L)."""
    rows = cell.live(Split.TRAIN) if live is None else live
    train, labels = cell.embeddings(Split.TRAIN)[rows], cell.labels(Split.TRAIN)[rows]
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(train)
    queries = None if split is Split.TRAIN else cell.embeddings(split)[cell.live(split)]
    found: Floats = labels[search.kneighbors(queries, return_distance=False)]
    return found


def corrected(neighbours: Floats, known: Floats, classes: int) -> Floats:
    """Saerens' formula with uniform new priors, a query and a class at a time."""
    scores = np.zeros((len(neighbours), classes))
    for query, voters in enumerate(neighbours):
        for c in range(classes):
            prior = sum(label == c for label in known[:, 0]) / len(known)
            posterior = sum(voter == c for voter in voters[:, 0]) / len(voters)
            scores[query, c] = (1 / classes) / prior * posterior if prior else 0
        scores[query] /= sum(scores[query])
    return scores


def corrected_labels(neighbours: Floats, known: Floats) -> Floats:
    """The same for each label, of which present and absent are the classes."""
    scores = np.zeros((len(neighbours), known.shape[1]))
    for label in range(known.shape[1]):
        both = corrected(neighbours[:, :, [label]], known[:, [label]], 2)
        scores[:, label] = both[:, 1]
    return scores


# Priors.


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.BINARY, Task.ORDINAL])
def test_the_priors_are_those_of_the_support(make_cell: CellMaker, task: Task) -> None:
    cell = uneven(make_cell, task=task)
    protocol = Protocol((7,), uniform_priors=True)
    (plain,), (record,) = evaluate(cell, Protocol((7,))), evaluate(cell, protocol)
    labels, truth = cell.labels(Split.TRAIN), cell.labels(Split.TEST)[:, 0]
    expected = corrected(nearest(cell, Split.TEST, 7), labels, len(cell.dataset.classes))
    found = score(cell, protocol, find_neighbours(cell, protocol))
    assert found == pytest.approx(expected, rel=0, abs=1e-11)
    predicted = np.round(expected, 9).argmax(axis=1)
    assert record.metrics.accuracy == pytest.approx((predicted == truth).mean())
    assert record.protocol == {**plain.protocol, "priors": "uniform"}
    balanced = balanced_accuracy_score(truth, predicted)
    assert record.metrics.balanced_accuracy == pytest.approx(balanced)
    rarest = int(np.bincount(labels[:, 0]).argmin())
    before, after = (np.array(r.confusion)[0, :, rarest] for r in (plain, record))
    assert (after >= before).all()
    assert after.sum() > before.sum()


def test_the_priors_of_labels(make_cell: CellMaker) -> None:
    cell = findings(make_cell)
    protocol = Protocol((9,), uniform_priors=True)
    expected = corrected_labels(nearest(cell, Split.TEST, 9), cell.labels(Split.TRAIN))
    found = score(cell, protocol, find_neighbours(cell, protocol))
    assert found == pytest.approx(expected, rel=0, abs=1e-11)
    (record,) = evaluate(cell, protocol)
    truth, predicted = cell.labels(Split.TEST), np.round(expected, 9) > 0.5
    assert record.metrics.accuracy == pytest.approx((predicted == truth).mean())


def test_erased_cases_are_no_part_of_the_priors(make_cell: CellMaker, store: Store) -> None:
    cell = uneven(make_cell)
    labels = cell.labels(Split.TRAIN)[:, 0]
    erase(store, cell.path, {Split.TRAIN: np.flatnonzero(labels == 0)[:150].tolist()})
    cell = read_cell(cell.path)
    protocol = Protocol((7,), uniform_priors=True)
    known = cell.labels(Split.TRAIN)[cell.live(Split.TRAIN)]
    assert len(known) == 150
    expected = corrected(nearest(cell, Split.TEST, 7), known, 3)
    found = score(cell, protocol, find_neighbours(cell, protocol))
    assert found == pytest.approx(expected, rel=0, abs=1e-11)


@pytest.mark.parametrize("make", [uneven, findings])
def test_a_query_is_no_part_of_its_own_priors(
    make_cell: CellMaker, make: Callable[[CellMaker], Cell]
) -> None:
    cell = make(make_cell)
    protocol = Protocol((7,), split=Split.TRAIN, uniform_priors=True)
    found = score(cell, protocol, find_neighbours(cell, protocol))
    labels, voters = cell.labels(Split.TRAIN), nearest(cell, Split.TRAIN, 7)
    for query in range(0, len(labels), 7):
        others = np.delete(labels, query, axis=0)
        line = voters[[query]]
        several = cell.dataset.task is Task.MULTILABEL
        expected = corrected_labels(line, others) if several else corrected(line, others, 3)
        assert found[query] == pytest.approx(expected[0], rel=0, abs=1e-11)


VOTES: tuple[Vote, ...] = (MajorityVote(), DistanceVote(), SoftmaxVote(0.01))


@settings(max_examples=80)
@given(st.data())
def test_no_vote_scores_what_its_support_lacks(data: st.DataObject) -> None:
    # Of a class without a case, or a label that all have or none, no score is left to correct.
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    task = data.draw(st.sampled_from(list(Task)))
    rows, k = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 5))
    classes = 2 if task is Task.BINARY else 4
    several = task is Task.MULTILABEL
    highest = 2 if several else data.draw(st.integers(1, classes))
    labels = rng.integers(0, highest, (rows, classes if several else 1)).astype(np.uint8)
    if several:
        labels[:, 0], labels[:, 1] = 0, 1
    voters = rng.integers(0, rows, (6, k))
    found = Neighbours(voters, np.sort(rng.uniform(-1, 1, (6, k)).astype(np.float32))[:, ::-1])
    vote = data.draw(st.sampled_from(VOTES))
    scores = count_votes(found, labels, task, classes, vote, Distance.COSINE)
    corrected_scores = correct_priors(scores, priors(labels, task, classes), task)
    assert np.isfinite(corrected_scores).all()
    if several:
        assert (corrected_scores[:, :2] == [0, 1]).all()
    else:
        assert (corrected_scores[:, highest:] == 0).all()


# Thresholds.


def worth(truth: Labels, predicted: NDArray[np.bool_], criterion: Criterion) -> float:
    if criterion is Criterion.F1:
        return float(f1_score(truth, predicted, zero_division=0))
    return float(balanced_accuracy_score(truth, predicted))


def label_scores(cell: Cell, split: Split, k: int, *, uniform: bool) -> Scores:
    voters = nearest(cell, split, k)
    if uniform:
        return corrected_labels(voters, cell.labels(Split.TRAIN))
    shares: Scores = voters.mean(axis=1)
    return shares


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("criterion", list(Criterion))
def test_thresholds_by_brute_force(
    make_cell: CellMaker, criterion: Criterion, uniform: bool
) -> None:
    cell = findings(make_cell)
    protocol = Protocol((11,), uniform_priors=uniform, thresholds=criterion)
    (record,) = evaluate(cell, protocol)
    chosen = record.protocol["thresholds"]
    assert (chosen["criterion"], chosen["notes"]) == (str(criterion), [])
    assert record.protocol.get("priors") == ("uniform" if uniform else None)
    val = np.round(label_scores(cell, Split.VAL, 11, uniform=uniform), 11)
    test = np.round(label_scores(cell, Split.TEST, 11, uniform=uniform), 11)
    truth = cell.labels(Split.TEST)
    for label, threshold in enumerate(chosen["values"]):
        known, scores = cell.labels(Split.VAL)[:, label], val[:, label]
        best = max(worth(known, scores > t, criterion) for t in [*np.unique(scores), 0.5, -1])
        assert worth(known, scores > threshold, criterion) == pytest.approx(best)
    truth, predicted = cell.labels(Split.TEST), test > chosen["values"]
    assert record.confusion == multilabel_confusion_matrix(truth, predicted).tolist()
    assert record.metrics.accuracy == pytest.approx((predicted == truth).mean())
    by_label = [balanced_accuracy_score(*pair) for pair in zip(truth.T, predicted.T, strict=True)]
    assert record.metrics.balanced_accuracy == pytest.approx(np.mean(by_label))


def test_accuracy_says_nothing_of_rare_labels(make_cell: CellMaker) -> None:
    # As in chestmnist: predicting no label at all is most often right, and nearly what is done.
    cell = findings(make_cell, rows=1000)
    none = (cell.labels(Split.TEST)[:, :2] == 0).mean()
    (plain,) = evaluate(cell, Protocol((11,)))
    (chosen,) = evaluate(cell, Protocol((11,), thresholds=Criterion.BALANCED))
    assert none > 0.9

    def rare(matrices: list[list[list[int]]] | None) -> tuple[float, float]:
        """Accuracy and balanced accuracy of the two rare labels."""
        tables = np.array(matrices)[:2]
        hits = tables.diagonal(axis1=1, axis2=2)
        return float(hits.sum() / tables.sum()), float((hits / tables.sum(axis=2)).mean())

    before, after = rare(plain.confusion), rare(chosen.confusion)
    assert before[0] == pytest.approx(none, abs=0.02)
    assert before[1] < 0.6
    assert after[1] > before[1] + 0.1
    assert after[0] < before[0]


def test_thresholds_of_k_chosen_on_val(make_cell: CellMaker) -> None:
    cell = findings(make_cell)
    ks = (1, 5, 15)
    protocol = Protocol(ks, thresholds=Criterion.BALANCED)
    (best,) = evaluate_best(cell, protocol, "balanced_accuracy")
    alone = {record.protocol["k"]: record for record in evaluate(cell, protocol)}
    truth = cell.labels(Split.VAL)
    figures = {}
    for k in ks:
        predicted = label_scores(cell, Split.VAL, k, uniform=False) > np.array(
            alone[k].protocol["thresholds"]["values"]
        )
        figures[k] = np.mean(
            [balanced_accuracy_score(*pair) for pair in zip(truth.T, predicted.T, strict=True)]
        )
    expected = max(ks, key=lambda k: (round(figures[k], 12), -k))
    assert best.protocol["k"] == expected
    assert (best.protocol["k_from"], best.protocol["k_by"]) == ([1, 5, 15], "val balanced_accuracy")
    assert best.protocol["thresholds"] == alone[expected].protocol["thresholds"]
    assert best.metrics == alone[expected].metrics


def test_k_chosen_with_priors(make_cell: CellMaker) -> None:
    cell = uneven(make_cell)
    ks = (1, 9, 31)
    (best,) = evaluate_best(cell, Protocol(ks, uniform_priors=True), "balanced_accuracy")
    on_val = evaluate(cell, Protocol(ks, split=Split.VAL, uniform_priors=True))
    expected = max(on_val, key=lambda r: (r.metrics.balanced_accuracy or 0, -r.protocol["k"]))
    assert best.protocol["k"] == expected.protocol["k"]
    assert best.protocol["priors"] == "uniform"
    assert best.metrics == expected.metrics  # val is test here


def test_thresholds_are_for_labels(make_cell: CellMaker) -> None:
    cell, protocol = uneven(make_cell), Protocol((1, 3), thresholds=Criterion.F1)
    for run in (evaluate, evaluate_best):
        with pytest.raises(EvaluationError, match="for multi-label tasks, and toy is multi-class"):
            run(cell, protocol)


def test_thresholds_are_not_measured_on_val() -> None:
    with pytest.raises(UsageError, match="cannot be measured there; drop --split val"):
        Protocol(split=Split.VAL, thresholds=Criterion.F1)


def test_a_label_that_val_lacks_keeps_one_half(make_cell: CellMaker) -> None:
    cell = make_cell(
        [[1, 0], [0, 1], [1, 1]], [[1, 0], [0, 1], [1, 0]], [[1, 2], [2, 1]], [[1, 0], [0, 1]],
        val=([[2, 1], [1, 2]], [[1, 0], [0, 0]]), task=Task.MULTILABEL, classes=("mass", "hernia"),
    )  # fmt: skip
    (record,) = evaluate(cell, Protocol((1,), thresholds=Criterion.F1))
    assert record.protocol["thresholds"] == {
        "criterion": "f1", "values": [0.5, 0.5],
        "notes": ["label 1 (hernia) is 0 in every row of val: its threshold stays 0.5"],
    }  # fmt: skip


def test_weighted_votes_keep_their_auc(make_cell: CellMaker) -> None:
    cell = findings(make_cell)
    (plain,) = evaluate(cell, Protocol((11,), vote=SoftmaxVote()))
    (moved,) = evaluate(cell, Protocol((11,), vote=SoftmaxVote(), thresholds=Criterion.F1))
    assert moved.metrics.auc == pytest.approx(plain.metrics.auc)
    (even,) = evaluate(cell, Protocol((11,), vote=SoftmaxVote(), uniform_priors=True))
    assert even.metrics.auc == pytest.approx(plain.metrics.auc)  # order within a label stays
