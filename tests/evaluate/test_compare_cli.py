from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss

from embedder.store import Store
from embedder.types import Task
from evaluate import results
from evaluate.compare_cli import main
from evaluate.knn import Protocol, evaluate
from evaluate.logistic import LogisticProtocol
from evaluate.probing import Probing
from evaluate.probing import evaluate as probe
from evaluate.replay import replay
from evaluate.thresholds import Criterion
from tests.evaluate.conftest import CellMaker, failure

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pair(store: Store, make_cell: CellMaker) -> list[Path]:
    """A vote and a probe on the same 40 queries of a binary task."""
    rng = np.random.default_rng(0)
    labels, truths = rng.integers(0, 2, 80), rng.integers(0, 2, 40)
    train = 1.5 * np.eye(2)[labels] + rng.standard_normal((80, 2))
    test = 1.5 * np.eye(2)[truths] + rng.standard_normal((40, 2))
    cell = make_cell(train, labels, test, truths, task=Task.BINARY, classes=("a", "b"))
    records = [
        *evaluate(cell, Protocol((3,))),
        *probe(cell, Probing(LogisticProtocol(cs=(1.0,))), store.root),
    ]
    return results.append(store.root / "results", records)


def compare(store: Store, *words: object) -> int:
    return main(["--store", str(store.root), *map(str, words)])


def test_two_results(store: Store, pair: list[Path], capsys: Capture) -> None:
    assert compare(store, *pair, "--json", "--resamples", "200") == 0
    facts = json.loads(capsys.readouterr().out)
    knn, head = (replay(record, store) for record in results.read(pair))
    right = [(one.scores[:, 1] > 0.5) == (one.labels[:, 0] == 1) for one in (knn, head)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    test = facts["mcnemar"]
    assert (test["only_first"], test["only_second"]) == (only_first, only_second)
    assert test["both"] == int((right[0] & right[1]).sum())
    expected = binomtest(only_first, only_first + only_second).pvalue
    assert test["method"] == "exact"
    assert test["p"] == pytest.approx(expected)
    accuracy = facts["differences"]["accuracy"]
    assert accuracy["first"] == pytest.approx(right[0].mean())
    assert accuracy["estimate"] == pytest.approx(right[0].mean() - right[1].mean())
    assert accuracy["low"] <= accuracy["estimate"] <= accuracy["high"]
    assert accuracy["resamples"] == 200
    for found, one in zip(facts["calibration"], (knn, head), strict=True):
        assert found["brier"] == pytest.approx(brier_score_loss(one.labels[:, 0], one.scores[:, 1]))


def test_in_words(store: Store, pair: list[Path], capsys: Capture) -> None:
    assert compare(store, *pair) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "toy, test split, 40 queries\n"
        "A: hog at 28 px, k-NN, k = 3\n"
        "B: hog at 28 px, logistic regression, cs 1.0\n"
    )
    assert "McNemar (exact): right in both" in out
    assert compare(store, pair[0], pair[0]) == 0
    out = capsys.readouterr().out
    assert "+0.00 [+0.00, +0.00]" in out
    assert "only A 0, only B 0" in out


def test_other_queries(
    store: Store, pair: list[Path], make_cell: CellMaker, capsys: Capture
) -> None:
    other = make_cell([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 0]], [0], name="zoo")
    (path,) = results.append(store.root / "results", evaluate(other, Protocol((1,))))
    assert compare(store, pair[0], path) == 1
    assert "toy test and zoo test are not the same queries" in failure(capsys)
    shifted = make_cell(
        [[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 0]], [0], variant="hog2", backbone="hog2"
    )
    (path,) = results.append(store.root / "results", evaluate(shifted, Protocol((1,))))
    assert compare(store, pair[0], path) == 1
    assert "have other queries, or labels" in failure(capsys)


def test_wrong_use(store: Store, pair: list[Path], capsys: Capture) -> None:
    assert compare(store, *pair, "--resamples", "0") == 2
    assert "--resamples takes a number" in failure(capsys)
    assert compare(store, pair[0], "nothing.json") == 1
    assert "nothing.json" in failure(capsys)


def test_scores_that_thresholds_moved_have_no_calibration(
    store: Store, make_cell: CellMaker, capsys: Capture
) -> None:
    rng = np.random.default_rng(0)
    labels, truths = rng.integers(0, 2, (60, 2)), rng.integers(0, 2, (40, 2))
    cell = make_cell(
        labels + rng.standard_normal((60, 2)), labels, truths + rng.standard_normal((40, 2)),
        truths, task=Task.MULTILABEL, classes=("a", "b"),
    )  # fmt: skip
    records = [
        *evaluate(cell, Protocol((3,))),
        *evaluate(cell, Protocol((3,), thresholds=Criterion.F1)),
    ]
    pair = results.append(store.root / "results", records)
    assert compare(store, *pair, "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["calibration"]
    assert first["ece"] >= 0
    assert second is None
    assert compare(store, *pair) == 0
    assert re.search(r"^B +- +- +-$", capsys.readouterr().out, re.MULTILINE)
