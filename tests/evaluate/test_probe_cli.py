from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from embedder.store import Store
from evaluate.probe_cli import main
from tests.commands import run
from tests.conftest import write_npz
from tests.evaluate.conftest import CellMaker, failure

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def _cells(make_cell: CellMaker) -> None:
    """Two datasets that are easy to tell apart, one of them at two sizes."""
    rng = np.random.default_rng(0)
    for name, size in (("toy", 28), ("toy", 64), ("zoo", 28)):
        labels, truths = rng.integers(0, 3, 60), rng.integers(0, 3, 30)
        train = 3 * np.eye(3)[labels] + rng.standard_normal((60, 3))
        test = 3 * np.eye(3)[truths] + rng.standard_normal((30, 3))
        make_cell(train, labels, test, truths, name=name, size=size)


def probe(store: Store, *words: str) -> int:
    return main(["--store", str(store.root), *words])


QUICK = ("--seeds", "1,2", "--epochs", "3", "--learning-rate", "0.1")


@pytest.mark.usefixtures("_cells")
def test_a_summary(store: Store, capsys: Capture) -> None:
    assert probe(store, *QUICK, "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 6
    assert probe(store, *QUICK) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "accuracy (%), linear probe (AdamW, learning rate 0.1), mean ± std of 2 seeds, test "
        "split; mean over 2 datasets\n"
    )
    by_seed = np.array(
        [
            [r["metrics"]["accuracy"] for r in records if r["protocol"]["seed"] == seed
             and r["size"] == 28]
            for seed in (1, 2)
        ]
    ).mean(axis=1)  # fmt: skip
    line = next(line for line in out.splitlines() if line.startswith("hog"))
    mean, spread = 100 * by_seed.mean(), 100 * by_seed.std(ddof=1)
    assert f"{mean:.2f} ± {spread:.2f}" in line
    assert "(1 of 2)" in line  # at 64 px


@pytest.mark.usefixtures("_cells")
def test_a_line_per_cell_and_per_head(store: Store, capsys: Capture) -> None:
    assert probe(store, *QUICK, "--per-dataset", "--dataset", "toy") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("toy")] == [
        ["toy", "hog", "28"], ["toy", "hog", "64"],
    ]  # fmt: skip
    assert probe(store, *QUICK, "--intervals", "50", "--dataset", "zoo") == 0
    out = capsys.readouterr().out
    assert "[95 % interval]: 50 bootstrap resamples of the queries" in out
    assert len([line for line in out.splitlines() if line.startswith("zoo")]) == 2
    assert probe(store, *QUICK, "--csv", "--dataset", "zoo") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["seed"] for row in rows] == ["1", "2"]
    assert all(Path(store.root / row["head"]).exists() for row in rows)


@pytest.mark.usefixtures("_cells")
def test_logistic_regression(store: Store, capsys: Capture) -> None:
    assert probe(store, "--solver", "lbfgs", "--dataset", "zoo") == 0
    assert "logistic regression (L-BFGS), C chosen on val" in capsys.readouterr().out


@pytest.mark.usefixtures("_cells")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--solver", "lbfgs", "--epochs", "3"), "--epochs belongs to --solver adamw"),
        (("--solver", "lbfgs", "--sweep"), "--sweep belongs to --solver adamw"),
        (("--sweep", "--learning-rate", "1"), "--sweep tries a grid; drop --learning-rate"),
        (("--epochs", "0"), "epochs 0 is not 1 or more"),
        (("--learning-rate", "0"), "learning rates (0.0,) are not all above 0"),
        (("--seeds", "x"), "--seeds 'x' is no number from 1 on"),
        (("--intervals", "-1"), "--intervals takes a number"),
        (("--against", "published", "--metric", "auc"), "--against compares accuracies"),
        (("--against", "published", "--json"), "--against is for tables"),
        (("--per-dataset", "--metric", "auc"), "--per-dataset shows every metric"),
        (("--dataset", "tow"), "did you mean toy?"),
        (("--dataset", "bloodmnist"), "no embeddings of bloodmnist are stored; run embed"),
    ],
)
def test_wrong_use(store: Store, capsys: Capture, words: tuple[str, ...], message: str) -> None:
    assert probe(store, *words) == 2
    assert message in failure(capsys)


def test_a_sweep_by_the_command(tmp_path: Path) -> None:
    write_npz(tmp_path / "tiny.npz", counts=(40, 8, 10))
    run(tmp_path, "embed", "--model", "hog", "--dataset", "./tiny.npz")
    words = ("probe-eval", "--sweep", "--epochs", "2", "--json")
    records = json.loads(run(tmp_path, *words).stdout)
    assert {record["protocol"]["seed"] for record in records} == {9930641, 115149041, 252139603}
    assert len(records[0]["protocol"]["learning_rates"]) == 5
    folder = tmp_path / "store/heads/tiny/28/hog"
    assert len(list(folder.glob("*.safetensors"))) == 3
    run(tmp_path, "casebook", "probe-eval", "--epochs", "1")
