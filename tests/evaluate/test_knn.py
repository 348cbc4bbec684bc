from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from itertools import combinations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from embedder.errors import DamagedCellError, SearchError, ZeroVectorError
from embedder.types import Distance, Split, Task
from evaluate.knn import Protocol, evaluate, find_neighbours
from index.build import Kind
from index.vote import DistanceVote, SoftmaxVote
from tests.evaluate.conftest import CellMaker

THREE = ([[1, 0], [0, 1], [-1, 0]], [0, 1, 2])
QUERIES = ([[2, 0.1], [0.1, 3], [-1, 0.1], [1, 0.2]], [0, 1, 2, 1])


def test_accuracy_by_hand(make_cell: CellMaker) -> None:
    # k = 1 gives 0 1 2 0; for k = 3 every class has one vote, and the lowest wins.
    nearest, all_three = evaluate(make_cell(*THREE, *QUERIES), Protocol((1, 3)))
    assert nearest.metrics.accuracy == 0.75
    assert nearest.metrics.balanced_accuracy == pytest.approx((1 + 0.5 + 1) / 3)
    assert all_three.metrics.accuracy == 0.25
    assert nearest.metrics.auc is all_three.metrics.auc is None


def test_the_published_protocol_is_the_default(make_cell: CellMaker) -> None:
    train = np.random.default_rng(0).standard_normal((30, 3)) + 5
    (record,) = evaluate(make_cell(train, [0, 1, 2] * 10, *QUERIES_OF_3), Protocol())
    assert record.protocol == {
        "k": 11, "distance": "cosine", "vote": "majority", "temperature": None,
        "support": "train", "leave_one_out": False, "tie": "lowest class", "index": "faiss",
    }  # fmt: skip
    assert record.split == "test"


QUERIES_OF_3 = ([[5, 5, 5], [5, 6, 5], [4, 6, 5]], [0, 1, 2])


def test_the_distance_decides(make_cell: CellMaker) -> None:
    cell = make_cell([[1, 0], [10, 10]], [0, 1], [[3, 3]], [1], classes=("a", "b"))
    assert find_neighbours(cell, Protocol((1,))).rows.tolist() == [[1]]
    euclidean = Protocol((1,), Distance.EUCLIDEAN)
    found = find_neighbours(cell, euclidean)
    assert found.rows.tolist() == [[0]]
    assert found.similarities.tolist() == [[pytest.approx(-np.sqrt(13))]]
    assert evaluate(cell, Protocol((1,)))[0].metrics.accuracy == 1
    assert evaluate(cell, euclidean)[0].metrics.accuracy == 0


def test_leave_one_out(make_cell: CellMaker) -> None:
    # Rows 0 and 1 are each other's nearest and differ; 2 and 3 agree.
    train, labels = [[1, 0], [1, 0.01], [0, 1], [0.01, 1]], [0, 1, 1, 1]
    cell = make_cell(train, labels, train, labels, task=Task.BINARY, classes=("a", "b"))
    protocol = Protocol((1,), split=Split.TRAIN)
    assert find_neighbours(cell, protocol).rows.tolist() == [[1], [0], [3], [2]]
    (record,) = evaluate(cell, protocol)
    assert record.metrics.accuracy == 0.5
    assert record.protocol["leave_one_out"] is True
    assert evaluate(cell, Protocol((1,)))[0].metrics.accuracy == 1


def test_leave_one_out_of_exact_duplicates(make_cell: CellMaker) -> None:
    train, labels = [[1, 1]] * 5, [0, 1, 1, 1, 1]
    cell = make_cell(train, labels, train, labels, task=Task.BINARY, classes=("a", "b"))
    found = find_neighbours(cell, Protocol((2,), split=Split.TRAIN))
    assert found.rows.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_one_row_of_the_queries(make_cell: CellMaker) -> None:
    cell = make_cell(*THREE, *QUERIES)
    assert find_neighbours(cell, Protocol((1,)), np.array([2])).rows.tolist() == [[2]]
    assert find_neighbours(cell, Protocol((1,)), np.array([], np.int64)).rows.shape == (0, 1)
    left_out = Protocol((2,), split=Split.TRAIN)
    assert find_neighbours(cell, left_out, np.array([1])).rows.tolist() == [[0, 2]]


def test_validation_split(make_cell: CellMaker) -> None:
    (record,) = evaluate(make_cell(*THREE, *QUERIES), Protocol((1,), split=Split.VAL))
    assert (record.split, record.metrics.accuracy) == ("val", 0.75)
    assert record.protocol["leave_one_out"] is False


def test_weighted_votes_have_an_auc(make_cell: CellMaker) -> None:
    cell = make_cell(*THREE, *QUERIES)
    (record,) = evaluate(cell, Protocol((3,), vote=SoftmaxVote(0.5)))
    assert record.metrics.accuracy == 0.75
    assert record.metrics.auc is not None
    assert (record.protocol["vote"], record.protocol["temperature"]) == ("softmax", 0.5)
    (record,) = evaluate(cell, Protocol((3,), vote=DistanceVote()))
    assert (record.protocol["vote"], record.protocol["temperature"]) == ("distance", None)


def test_multilabel(make_cell: CellMaker) -> None:
    # k = 3 takes the whole support: label 0 has 2 of 3, label 1 has 1 of 3.
    cell = make_cell(
        [[1, 0], [0, 1], [1, 1]], [[1, 0], [0, 1], [1, 0]], [[1, 2], [2, 1]], [[1, 0], [0, 0]],
        task=Task.MULTILABEL, classes=("mass", "hernia"),
    )  # fmt: skip
    (record,) = evaluate(cell, Protocol((3,)))
    assert record.metrics.accuracy == (0.5 + 1) / 2
    assert any("hernia" in note for note in record.metrics.notes)


@pytest.mark.parametrize("distance", list(Distance))
def test_accuracy_is_scikit_learns(make_cell: CellMaker, distance: Distance) -> None:
    rng = np.random.default_rng(1)
    train, test = rng.standard_normal((400, 6)), rng.standard_normal((150, 6))
    labels, truths = (np.digitize(x[:, 0], [-0.5, 0.5]) for x in (train, test))
    cell = make_cell(train, labels, test, truths)
    for record in evaluate(cell, Protocol((1, 5, 11), distance)):
        other = KNeighborsClassifier(
            record.protocol["k"], metric=str(distance), algorithm="brute"
        ).fit(train, labels)
        assert record.metrics.accuracy == pytest.approx(other.score(test, truths))


def test_several_k_are_as_each_alone(make_cell: CellMaker) -> None:
    rng = np.random.default_rng(2)
    cell = make_cell(
        rng.integers(1, 3, (60, 4)), rng.integers(0, 3, 60), rng.integers(1, 3, (30, 4)),
        rng.integers(0, 3, 30),
    )  # fmt: skip
    ks = (9, 1, 4)
    together = evaluate(cell, Protocol(ks))
    assert [record.protocol["k"] for record in together] == [9, 1, 4]
    for k, record in zip(ks, together, strict=True):
        assert evaluate(cell, Protocol((k,)))[0].metrics == record.metrics


def test_every_index_gives_the_same_figures(make_cell: CellMaker) -> None:
    rng = np.random.default_rng(3)
    cell = make_cell(
        rng.integers(1, 3, (60, 4)), rng.integers(0, 3, 60), rng.integers(1, 3, (30, 4)),
        rng.integers(0, 3, 30),
    )  # fmt: skip
    (fast,) = evaluate(cell, Protocol((5,), index=Kind.CPU))
    (plain,) = evaluate(cell, Protocol((5,), index=Kind.REFERENCE))
    assert fast.metrics == plain.metrics
    assert (fast.protocol["index"], plain.protocol["index"]) == ("faiss", "reference")
    assert "faiss" in fast.versions
    assert "faiss" not in plain.versions


def test_float16_cells(make_cell: CellMaker) -> None:
    (half,) = evaluate(make_cell(*THREE, *QUERIES, storage="float16"), Protocol((1,)))
    assert half.metrics.accuracy == 0.75
    assert half.fingerprint["storage"] == "float16"


def test_a_record_has_the_whole_provenance(make_cell: CellMaker) -> None:
    before = datetime.now(UTC)
    cell = make_cell(*THREE, *QUERIES, variant="hog-float32")
    (record,) = evaluate(cell, Protocol((1,)))
    assert before <= datetime.fromisoformat(record.created) <= datetime.now(UTC)
    assert record.kind == "knn"
    assert (record.dataset, record.task, record.size) == ("toy", "multi-class", 28)
    assert (record.variant, record.split) == ("hog-float32", "test")
    assert record.fingerprint == asdict(cell.header.fingerprint)
    assert record.fingerprint["dataset_checksum"] == "crc:1"
    assert record.counts == {"support": 3, "queries": 4, "classes": 3, "erased": 0}
    assert record.embedding_versions == {"torch": "9.9", "numpy": "8.8"}
    assert {"python", "numpy", "scikit-learn", "faiss", "casebook"} <= record.versions.keys()
    assert record.timings.keys() == {"search", "vote"}
    assert all(seconds > 0 for seconds in record.timings.values())


def test_a_zero_vector_is_named(make_cell: CellMaker) -> None:
    train, labels = THREE
    cell = make_cell([*train, [0, 0]], [*labels, 0], *QUERIES)
    with pytest.raises(ZeroVectorError, match="toy/train/3 is a zero vector"):
        evaluate(cell, Protocol((1,)))
    assert evaluate(cell, Protocol((1,), Distance.EUCLIDEAN))[0].metrics.accuracy == 0.75


@pytest.mark.parametrize("rows", [None, [2]])
def test_a_zero_query_is_named(make_cell: CellMaker, rows: list[int] | None) -> None:
    cell = make_cell(*THREE, [[1, 1], [1, 2], [0, 0]], [0, 1, 2])
    with pytest.raises(ZeroVectorError, match="toy/test/2 is a zero vector"):
        find_neighbours(cell, Protocol((1,)), None if rows is None else np.array(rows))


def test_more_neighbours_than_cases(make_cell: CellMaker) -> None:
    cell = make_cell(*THREE, *QUERIES)
    with pytest.raises(SearchError, match=r"k = 4, but toy/train has 3 .* use a --k from 1 to 3"):
        evaluate(cell, Protocol((1, 4)))
    with pytest.raises(SearchError, match=r"k = 3, but toy/train has 2 .* use a --k from 1 to 2"):
        evaluate(cell, Protocol((3,), split=Split.TRAIN))


def test_labels_out_of_range(make_cell: CellMaker) -> None:
    with pytest.raises(DamagedCellError, match="test/labels holds 7, which is no class"):
        evaluate(make_cell(*THREE, QUERIES[0], [0, 1, 2, 7]), Protocol((1,)))


def test_votes_of_a_symmetric_set(make_cell: CellMaker) -> None:
    # Every pair of three axes: each query has its two axes nearest, a tie of the two classes.
    pairs = list(combinations(range(3), 2))
    queries = [[float(axis in pair) for axis in range(3)] for pair in pairs]
    cell = make_cell(np.eye(3), [0, 1, 2], queries, [pair[0] for pair in pairs])
    assert evaluate(cell, Protocol((2,)))[0].metrics.accuracy == 1
