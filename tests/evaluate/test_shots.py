from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from embedder.erase import erase
from embedder.errors import EvaluationError, UsageError
from embedder.store import Cell, Store, read_cell
from embedder.types import Distance, Rows, Split, Task, Vectors
from evaluate.knn import Protocol, find_neighbours
from evaluate.shots import Draw, evaluate_shots, order
from index.search import SupportSet
from index.vote import DistanceVote
from tests.evaluate.conftest import CellMaker

CLASSES = ("ant", "bee", "cat")
TEN = [0, 1, 2, 0, 1, 0, 2, 0, 1, 0]
QUERIES = ([[1, 0.5], [0.5, 1]], [0, 1])


def labelled(make_cell: CellMaker, labels: list[int], **facts: object) -> Cell:
    """Embeddings that say nothing."""
    points = np.random.default_rng(len(labels)).standard_normal((len(labels), 2))
    return make_cell(points, labels, *QUERIES, classes=CLASSES, **facts)


# The order of a draw.


def test_the_order_never_changes() -> None:
    assert order(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert order(8, 1).tolist() == [2, 4, 7, 5, 0, 6, 3, 1]


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000))
def test_more_rows_do_not_reorder_the_others(few: int, more: int, number: int) -> None:
    longer = order(few + more, number)
    assert sorted(longer) == list(range(few + more))
    assert longer[longer < few].tolist() == order(few, number).tolist()


def test_every_row_comes_first_equally_often() -> None:
    counts = np.bincount([order(8, number)[0] for number in range(2000)], minlength=8)
    expected = 2000 / 8
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi-square, 7 degrees, p = 0.001


# What is drawn.


def test_a_draw_by_hand(make_cell: CellMaker) -> None:
    draw = Draw.of(labelled(make_cell, TEN[:8]), 0)
    # In the order 3 2 1 6 0 7 4 5: ants 3 0 7 5, bees 1 4, cats 2 6.
    assert {name: rows.tolist() for name, rows in draw.groups.items()} == {
        "class 0 (ant)": [3, 0, 7, 5], "class 1 (bee)": [1, 4], "class 2 (cat)": [2, 6],
    }  # fmt: skip
    assert draw.support(1).tolist() == [1, 2, 3]
    assert draw.support(2).tolist() == [0, 1, 2, 3, 4, 6]
    assert draw.notes(2) == ()
    assert draw.support(3).tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert draw.notes(3) == (
        "class 1 (bee) has 2 training cases: fewer than 3 shots",
        "class 2 (cat) has 2 training cases: fewer than 3 shots",
    )
    with pytest.raises(EvaluationError, match=r"no class of toy/train has 5 cases; .* up to 4"):
        draw.support(5)


def test_labels_of_one_case_by_hand(make_cell: CellMaker) -> None:
    labels = [[0, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 0], [0, 1], [1, 0]]
    points = np.eye(8)
    cell = make_cell(
        points, labels, points[:2], labels[:2], task=Task.MULTILABEL, classes=("mass", "hernia")
    )
    draw = Draw.of(cell, 0)  # 3 2 1 6 0 7 4 5
    assert {name: rows.tolist() for name, rows in draw.groups.items()} == {
        "label 0 (mass)": [1, 7, 4], "label 1 (hernia)": [2, 1, 6], "no finding": [3, 0, 5],
    }  # fmt: skip
    assert draw.support(1).tolist() == [1, 2, 3]
    assert draw.support(2).tolist() == [0, 1, 2, 3, 7]  # 1 serves both labels


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 2), min_size=3, max_size=40), st.integers(0, 50),
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
)  # fmt: skip
def test_few_are_among_more(labels: list[int], number: int, shots: list[int]) -> None:
    draw = drawn(labels, number)
    sizes = Counter(labels)
    before: set[int] = set()
    for count in sorted(shots):
        if count > max(sizes.values()):
            break
        rows = draw.support(count).tolist()
        assert rows == sorted(set(rows))
        found = Counter(labels[row] for row in rows)
        assert all(found[label] == min(count, size) for label, size in sizes.items())
        assert before <= set(rows)
        before = set(rows)


def drawn(labels: list[int], number: int) -> Draw:
    """By a loop: the rows of each class in the order of the draw."""
    rows = order(len(labels), number).tolist()
    return Draw("toy", {
        str(label): np.array([row for row in rows if labels[row] == label], np.int64)
        for label in range(3)
    })  # fmt: skip


def test_every_model_size_and_vote_sees_the_same_cases(make_cell: CellMaker) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    cells = [
        make_cell(
            rng.standard_normal((60, width)), labels, rng.standard_normal((5, width)), [0] * 5,
            backbone=backbone, size=size,
        )
        for width, backbone, size in ((4, "hog", 28), (9, "dino", 28), (4, "hog", 224))
    ]  # fmt: skip
    for number in range(5):
        supports = {tuple(Draw.of(cell, number).support(4)) for cell in cells}
        assert len(supports) == 1
        loop = drawn(labels.tolist(), number)
        assert supports == {tuple(loop.support(4))}
    assert len({tuple(Draw.of(cells[0], number).support(4)) for number in range(20)}) == 20


def test_an_erasure_changes_no_other_choice(make_cell: CellMaker, store: Store) -> None:
    labels = np.random.default_rng(1).integers(0, 3, 40)
    cell = labelled(make_cell, labels.tolist())
    before = [set(Draw.of(cell, number).support(3)) for number in range(8)]
    gone = next(row for row in sorted(before[0]) if labels[row] == 2)
    erase(store, cell.path, {Split.TRAIN: [gone]})
    cell = read_cell(cell.path)
    for number, old in enumerate(before):
        new = set(Draw.of(cell, number).support(3))
        assert gone not in new
        if gone not in old:
            assert new == old
            continue
        (added,) = new - old
        assert old - new == {gone}
        assert labels[added] == 2


# Figures.


@pytest.mark.parametrize("distance", list(Distance))
def test_accuracy_is_scikit_learns_on_what_was_drawn(
    make_cell: CellMaker, distance: Distance
) -> None:
    rng = np.random.default_rng(2)
    labels, truths = rng.integers(0, 3, 200), rng.integers(0, 3, 80)
    train, test = (2 * np.eye(3)[y] + rng.standard_normal((len(y), 3)) for y in (labels, truths))
    cell = make_cell(train, labels, test, truths)
    told: list[int] = []
    records = evaluate_shots(
        cell, Protocol((3,), distance), (1, 4, 8), 3, lambda: told.append(len(told))
    )
    assert len(told) == len(records) == 9
    assert [(r.protocol["draw"], r.protocol["shots"], r.protocol["k"]) for r in records] == [
        (draw, shots, min(shots, 3)) for draw in range(3) for shots in (1, 4, 8)
    ]
    for record in records:
        how = record.protocol
        rows = drawn(labels.tolist(), how["draw"]).support(how["shots"])
        other = KNeighborsClassifier(how["k"], metric=str(distance), algorithm="brute")
        other.fit(train.astype(np.float32)[rows], labels[rows])
        assert record.metrics.accuracy == pytest.approx(
            other.score(test.astype(np.float32), truths)
        )
        assert record.counts["support"] == 3 * how["shots"]
        assert record.counts["queries"] == 80
    assert len({record.metrics.accuracy for record in records}) > 3


def test_the_record_of_a_draw(make_cell: CellMaker) -> None:
    cell = labelled(make_cell, TEN)
    (record,) = evaluate_shots(cell, Protocol(vote=DistanceVote()), (4,), 1)
    assert record.protocol == {
        "k": 4, "k_asked": 11, "shots": 4, "draw": 0, "distance": "cosine", "vote": "distance",
        "temperature": None, "support": "train", "leave_one_out": False, "tie": "lowest class",
        "index": "faiss",
    }  # fmt: skip
    assert record.kind == "knn"
    assert record.counts == {"support": 9, "queries": 2, "classes": 3, "erased": 0}
    assert record.metrics.notes[:2] == (
        "class 1 (bee) has 3 training cases: fewer than 4 shots",
        "class 2 (cat) has 2 training cases: fewer than 4 shots",
    )


def test_priors_are_those_of_what_was_drawn(make_cell: CellMaker) -> None:
    # Of 40 ants 4 are drawn, and both bees. Near the first query lie 3 ants and a bee, near the
    # second 2 and 2: over priors of 4 to 2 an ant and a bee; over those of 40 to 2 both bees.
    degrees = np.radians([*np.linspace(10, 20, 40), 25, 90, 24, 60])
    points = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    cell = make_cell(
        points[:42], [0] * 40 + [1] * 2, points[42:], [0, 1], task=Task.BINARY,
        classes=("ant", "bee"),
    )  # fmt: skip
    plain = evaluate_shots(cell, Protocol((4,)), (4,), 4)
    even = evaluate_shots(cell, Protocol((4,), uniform_priors=True), (4,), 4)
    assert [record.confusion for record in plain] == [[[[1, 0], [1, 0]]]] * 4
    assert [record.confusion for record in even] == [[[[1, 0], [0, 1]]]] * 4
    assert {record.protocol["priors"] for record in even} == {"uniform"}


def test_only_what_is_drawn_is_copied(
    make_cell: CellMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = labelled(make_cell, TEN * 20)
    kept: list[int] = []
    usual = SupportSet.of

    def watched(
        vectors: Vectors, distance: Distance, name: str, rows: Rows | None = None
    ) -> SupportSet:
        made = usual(vectors, distance, name, rows)
        kept.append(len(made.points))
        return made

    monkeypatch.setattr(SupportSet, "of", watched)
    evaluate_shots(cell, Protocol(), (2,), 3)
    assert kept == [6, 6, 6]


def test_queries_are_not_from_train(make_cell: CellMaker) -> None:
    cell = labelled(make_cell, TEN)
    with pytest.raises(UsageError, match="its queries come from --split val or test"):
        evaluate_shots(cell, Protocol((1,), split=Split.TRAIN), (1,), 1)
    with pytest.raises(UsageError, match="--shots draws from train"):
        find_neighbours(cell, Protocol((1,), split=Split.TRAIN), support=np.array([0, 1]))
