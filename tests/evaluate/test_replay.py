from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedder.erase import erase
from embedder.errors import EvaluationError, StoreError
from embedder.store import Cell, Store
from embedder.types import Split, Task
from evaluate.knn import Protocol, evaluate
from evaluate.logistic import LogisticProtocol
from evaluate.metrics import measure
from evaluate.probing import Probing
from evaluate.probing import evaluate as probe
from evaluate.replay import replay
from evaluate.results import Record
from evaluate.shots import evaluate_shots
from evaluate.thresholds import Criterion
from index.vote import DistanceVote, SoftmaxVote
from tests.evaluate.conftest import CellMaker


@pytest.fixture
def cell(make_cell: CellMaker) -> Cell:
    rng = np.random.default_rng(0)
    train_labels, test_labels = rng.integers(0, 3, 60), rng.integers(0, 3, 25)
    train = 2 * np.eye(3)[train_labels] + rng.standard_normal((60, 3))
    test = 2 * np.eye(3)[test_labels] + rng.standard_normal((25, 3))
    return make_cell(train, train_labels, test, test_labels)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol((5,)), Protocol((3,), vote=DistanceVote()), Protocol((7,), split=Split.TRAIN),
        Protocol((9,), vote=SoftmaxVote(0.2), split=Split.VAL),
        Protocol((5,), uniform_priors=True),
        Protocol((5,), vote=DistanceVote(), split=Split.TRAIN, uniform_priors=True),
    ],
)  # fmt: skip
def test_the_vote_of_a_record(cell: Cell, store: Store, protocol: Protocol) -> None:
    (record,) = evaluate(cell, protocol)
    found = replay(record, store)
    again = measure(
        found.labels, found.scores, Task.MULTICLASS, cell.dataset.classes,
        with_auc=protocol.vote.weighted,
    )  # fmt: skip
    assert again == record.metrics
    assert len(found.rows) == record.counts["queries"]


@pytest.mark.parametrize("uniform", [False, True])
def test_the_thresholds_of_a_record(make_cell: CellMaker, store: Store, uniform: bool) -> None:
    rng = np.random.default_rng(1)
    labels, truths = (rng.random((60, 2)) < 0.2, rng.random((25, 2)) < 0.2)
    val_labels = rng.random((25, 2)) < 0.2
    train, test, val = (
        2 * y + rng.standard_normal(y.shape) for y in (labels, truths, val_labels)
    )  # fmt: skip
    cell = make_cell(
        train, labels, test, truths, val=(val, val_labels), task=Task.MULTILABEL,
        classes=("mass", "hernia"),
    )  # fmt: skip
    protocol = Protocol(
        (5,), vote=SoftmaxVote(), uniform_priors=uniform, thresholds=Criterion.BALANCED
    )
    (made,) = evaluate(cell, protocol)
    record = Record.from_json(made.to_json())
    assert record == made
    assert record.protocol["thresholds"]["values"] != [0.5, 0.5]
    found = replay(record, store)
    again = measure(
        found.labels, found.scores, Task.MULTILABEL, cell.dataset.classes, with_auc=True
    )
    assert again == record.metrics


def test_the_draw_of_a_record(cell: Cell, store: Store) -> None:
    protocol = Protocol((3,), vote=SoftmaxVote(), uniform_priors=True)
    for made in evaluate_shots(cell, protocol, (1, 4), 3):
        record = Record.from_json(made.to_json())
        assert record == made
        found = replay(record, store)
        again = measure(
            found.labels, found.scores, Task.MULTICLASS, cell.dataset.classes, with_auc=True
        )
        assert again == record.metrics


def test_the_head_of_a_record(cell: Cell, store: Store) -> None:
    (record,) = probe(cell, Probing(LogisticProtocol(cs=(1.0,))), store.root)
    found = replay(record, store)
    again = measure(
        found.labels, found.scores, Task.MULTICLASS, cell.dataset.classes, with_auc=True
    )
    assert again == record.metrics


def test_a_cell_that_was_made_anew(cell: Cell, store: Store, make_cell: CellMaker) -> None:
    (record,) = evaluate(cell, Protocol((5,)))
    cell.path.unlink()
    with pytest.raises(StoreError, match="no cell at"):
        replay(record, store)
    make_cell([[1, 0], [0, 1]], [0, 1], [[1, 0]], [0], checksum="crc:2")
    with pytest.raises(EvaluationError, match=r"is not what the record of hog toy 28 px .* was"):
        replay(record, store)


def test_a_case_that_was_erased_since(cell: Cell, store: Store) -> None:
    (record,) = evaluate(cell, Protocol((5,)))
    erase(store, cell.path, {Split.TEST: [0]})
    with pytest.raises(EvaluationError, match="has other figures now; evaluate again"):
        replay(record, store)


def test_a_head_that_is_gone(cell: Cell, store: Store) -> None:
    (record,) = probe(cell, Probing(LogisticProtocol(cs=(1.0,))), store.root)
    Path(store.root / record.protocol["head"]).unlink()
    with pytest.raises(StoreError):
        replay(record, store)
