from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from embedder.erase import erase
from embedder.errors import EvaluationError, StoreError
from embedder.store import Cell, Store
from embedder.types import Split, Task
from evaluate.logistic import CS, LogisticProtocol
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
    assert (record.protocol["cs"], record.protocol["c"]) == ([1.0], [1.0])
    scaler = StandardScaler().fit(cell.embeddings(Split.TRAIN).astype(np.float64))
    plain = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(
        scaler.transform(cell.embeddings(Split.TRAIN)), cell.labels(Split.TRAIN)[:, 0]
    )
    predicted = plain.predict(scaler.transform(cell.embeddings(Split.TEST)))
    assert record.metrics.accuracy == (predicted == cell.labels(Split.TEST)[:, 0]).mean()


def test_the_grid_and_the_chosen_c_are_both_in_the_record(cell: Cell, tmp_path: Path) -> None:
    (record,) = evaluate(cell, Probing(LogisticProtocol()), tmp_path)
    how = record.protocol
    assert how["cs"] == list(CS)
    (losses,) = how["losses"]
    assert how["c"] == [CS[int(np.argmin(losses))]]
    known = heads.read(tmp_path / how["head"]).provenance
    assert known.chosen == {"c": how["c"], "losses": how["losses"], "notes": []}


@pytest.mark.parametrize("solver", [QUICK, LogisticProtocol(cs=(0.1, 1.0))])
def test_nothing_that_was_chosen_hides_how_it_was_trained(
    cell: Cell, tmp_path: Path, solver: ProbeProtocol | LogisticProtocol
) -> None:
    record = evaluate(cell, Probing(solver), tmp_path)[0]
    known = heads.read(tmp_path / record.protocol["head"]).provenance
    assert not set(known.protocol) & {*known.chosen, "seed", "head"}
    assert known.protocol == solver.describe()
    assert known.protocol.items() <= record.protocol.items()


@pytest.fixture
def findings(make_cell: CellMaker) -> Cell:
    """Three labels."""
    rng = np.random.default_rng(1)
    labels, truths = rng.integers(0, 2, (60, 3)), rng.integers(0, 2, (30, 3))
    train, test = labels + rng.standard_normal((60, 3)), truths + rng.standard_normal((30, 3))
    return make_cell(train, labels, test, truths, name="findings", task=Task.MULTILABEL)


def test_each_label_has_its_c_and_its_losses(findings: Cell, tmp_path: Path) -> None:
    (record,) = evaluate(findings, Probing(LogisticProtocol()), tmp_path)
    how = record.protocol
    assert (len(how["c"]), len(how["losses"])) == (3, 3)
    for c, losses in zip(how["c"], how["losses"], strict=True):
        assert c == how["cs"][int(np.argmin(losses))]


@pytest.mark.parametrize(("solver", "steps"), [
    (LogisticProtocol(cs=(0.1, 1.0), rises=2), 6), (QUICK, 4), (replace(QUICK, patience=1), 4),
])  # fmt: skip
def test_the_most_steps_there_are(
    findings: Cell, tmp_path: Path, solver: ProbeProtocol | LogisticProtocol, steps: int
) -> None:
    told = []
    probing = Probing(solver)
    assert probing.steps(findings.dataset) == steps
    evaluate(findings, probing, tmp_path, lambda: told.append(0))
    if solver.describe()["solver"] == "lbfgs":
        assert len(told) == steps
    assert 0 < len(told) <= steps


def test_a_store_that_cannot_be_written_fails_before_training(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "heads").write_text("a file is in the way")
    told = []
    with pytest.raises(StoreError, match="check --store"):
        evaluate(cell, Probing(QUICK), tmp_path, lambda: told.append(0))
    assert told == []


def test_embeddings_too_small_for_a_head(make_cell: CellMaker, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    rows = (np.eye(3)[labels] + 0.1 * rng.standard_normal((40, 3))) * 1e-39
    cell = make_cell(rows, labels, rows, labels)
    with pytest.raises(EvaluationError, match="the weights of the head are not finite"):
        evaluate(cell, Probing(LogisticProtocol()), tmp_path)


def test_a_device_but_the_cpu_is_in_the_record(cell: Cell, tmp_path: Path) -> None:
    assert Probing(QUICK).describe() == QUICK.describe()
    assert Probing(QUICK, device="cuda").describe() == {**QUICK.describe(), "device": "cuda"}
    record = evaluate(cell, Probing(QUICK, device="cpu:0"), tmp_path)[0]
    assert record.protocol["device"] == "cpu:0"
    known = heads.read(tmp_path / record.protocol["head"]).provenance
    assert known.protocol["device"] == "cpu:0"
    assert "device" not in evaluate(cell, Probing(QUICK), tmp_path)[0].protocol


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
