from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from embedder.erase import erase
from embedder.errors import EvaluationError
from embedder.store import Cell, Store
from embedder.types import Split, Task
from evaluate.logistic import LogisticProtocol
from evaluate.metrics import measure
from evaluate.probe import SEEDS, Grid, ProbeProtocol
from evaluate.probing import Probing, evaluate
from index import heads
from tests.evaluate.conftest import CellMaker

QUICK = ProbeProtocol(seeds=(1, 2), epochs=4)


@pytest.fixture
def cell(make_cell: CellMaker) -> Cell:
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((3, 6))
    train_labels, test_labels = rng.integers(0, 3, 90), rng.integers(0, 3, 40)
    train = centres[train_labels] + rng.standard_normal((90, 6))
    test = centres[test_labels] + rng.standard_normal((40, 6))
    return make_cell(train, train_labels.tolist(), test, test_labels.tolist())


def test_a_record_for_each_seed_of_the_published_protocol(cell: Cell, tmp_path: Path) -> None:
    records = evaluate(cell, Probing(), tmp_path)
    assert [record.protocol["seed"] for record in records] == list(SEEDS)
    how = records[0].protocol
    assert {name: how[name] for name in ("solver", "learning_rate", "batch", "patience")} == {
        "solver": "adamw", "learning_rate": 1e-4, "batch": 64, "patience": 5,
    }  # fmt: skip
    assert {record.kind for record in records} == {"probe"}
    assert records[0].counts == {"support": 90, "queries": 40, "classes": 3, "erased": 0}
    assert records[0].intervals is None


def test_a_figure_is_that_of_the_head_it_names(cell: Cell, tmp_path: Path) -> None:
    steps = []
    found = evaluate(cell, Probing(QUICK, resamples=50), tmp_path, lambda: steps.append(0))
    assert len(steps) == 4
    for record in found:
        head = heads.read(tmp_path / record.protocol["head"], cell)
        vectors = torch.from_numpy(np.array(cell.embeddings(Split.TEST)))
        layer = nn.Linear(6, 3)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(head.weight))
            layer.bias.copy_(torch.from_numpy(head.bias))
            predicted = layer(vectors).argmax(dim=1).numpy()
        truth = cell.labels(Split.TEST)[:, 0]
        assert record.metrics.accuracy == pytest.approx((predicted == truth).mean())
        assert record.intervals is not None
        bounds = record.intervals["accuracy"]
        assert bounds["low"] <= record.metrics.accuracy <= bounds["high"]
        assert head.provenance.seed == record.protocol["seed"]
        assert head.provenance.counts == {"train": 90, "val": 40, "erased": 0}


def test_the_chosen_point_of_a_sweep_is_in_the_record(cell: Cell, tmp_path: Path) -> None:
    sweep = ProbeProtocol(seeds=(1, 2), grid=Grid((1e-5, 1e-1), (0.0, 0.01)), epochs=3)
    records = evaluate(cell, Probing(sweep), tmp_path)
    assert len(records) == 2
    assert {record.protocol["learning_rate"] for record in records} == {1e-1}
    assert records[0].metrics.accuracy > 0.9


def test_logistic_regression_is_one_record(cell: Cell, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    (record,) = evaluate(cell, Probing(LogisticProtocol(cs=(1.0,))), tmp_path)
    assert record.protocol["seed"] is None
    assert record.protocol["cs"] == [1.0]
    scaler = StandardScaler().fit(cell.embeddings(Split.TRAIN).astype(np.float64))
    plain = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(
        scaler.transform(cell.embeddings(Split.TRAIN)), cell.labels(Split.TRAIN)[:, 0]
    )
    predicted = plain.predict(scaler.transform(cell.embeddings(Split.TEST)))
    assert record.metrics.accuracy == (predicted == cell.labels(Split.TEST)[:, 0]).mean()


def test_another_split(cell: Cell, tmp_path: Path) -> None:
    (record,) = evaluate(cell, Probing(LogisticProtocol(), Split.TRAIN), tmp_path)
    assert (record.split, record.counts["queries"]) == ("train", 90)
    head = heads.read(tmp_path / record.protocol["head"], cell)
    scores = head.scores(cell.embeddings(Split.TRAIN))
    expected = measure(
        cell.labels(Split.TRAIN), scores, Task.MULTICLASS, cell.dataset.classes, with_auc=True
    )
    assert record.metrics == expected


def test_erased_cases_are_neither_learned_nor_measured(cell: Cell) -> None:
    root = cell.path.parents[2]
    store = Store(root)
    erase(store, cell.path, {Split.TRAIN: range(80), Split.TEST: [0, 1]})
    (record,) = evaluate(store.read(cell.path), Probing(LogisticProtocol(cs=(1.0,))), root)
    assert record.counts == {"support": 10, "queries": 38, "classes": 3, "erased": 82}
    head = heads.read(root / record.protocol["head"])
    assert head.provenance.counts == {"train": 10, "val": 40, "erased": 82}


def test_nothing_is_left_to_learn_from(cell: Cell) -> None:
    root = cell.path.parents[2]
    store = Store(root)
    erase(store, cell.path, {Split.VAL: range(40)})
    with pytest.raises(EvaluationError, match="val has 0 rows"):
        evaluate(store.read(cell.path), Probing(QUICK), root)
