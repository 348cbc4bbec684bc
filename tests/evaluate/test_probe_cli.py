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
        "accuracy (%), linear probe (AdamW, learning rate 0.1, epochs 3), mean ± std of 2 seeds, "
        "test split; mean over 2 datasets\n"
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
def test_every_seed_that_the_protocol_takes(store: Store, capsys: Capture) -> None:
    seeds = [0, 1234567890, 2**63 - 1]
    words = ("--seeds", ",".join(map(str, seeds)), "--epochs", "1", "--dataset", "zoo", "--json")
    assert probe(store, *words) == 0
    records = json.loads(capsys.readouterr().out)
    assert sorted(record["protocol"]["seed"] for record in records) == seeds


@pytest.mark.usefixtures("_cells")
def test_one_head_has_an_interval_beside_the_published(store: Store, capsys: Capture) -> None:
    words = ("--against", "published", "--intervals", "60", "--dataset", "zoo")
    assert probe(store, *words, "--seeds", "0", "--epochs", "1") == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("zoo"))
    assert "[" in line
    assert probe(store, *words, "--solver", "lbfgs") == 0


@pytest.mark.usefixtures("_cells")
@pytest.mark.parametrize(("words", "chosen"), [
    (QUICK, "the epoch"), (("--solver", "lbfgs"), "C"),
    (("--sweep", "--epochs", "1"), "the learning rate, the weight decay and the epoch"),
])  # fmt: skip
def test_figures_on_val_flatter(
    store: Store, capsys: Capture, words: tuple[str, ...], chosen: str
) -> None:
    given = ("--dataset", "zoo", *words)
    assert probe(store, *given, "--split", "val") == 0
    line = f"\n\nval chose {chosen} of each head: its figures flatter; see --split test\n"
    assert capsys.readouterr().out.endswith(line)
    assert probe(store, *given, "--split", "test") == 0
    assert "flatter" not in capsys.readouterr().out


def test_a_cell_of_no_use_does_not_end_the_others(
    make_cell: CellMaker, store: Store, capsys: Capture
) -> None:
    labels = [0, 1, 2] * 10
    rows = np.eye(3)[labels] + 0.1 * np.random.default_rng(0).standard_normal((30, 3))
    make_cell(rows * 1e-39, labels, rows * 1e-39, labels, name="dim")
    make_cell(rows, labels, rows, labels, name="zoo")
    assert probe(store, "--solver", "lbfgs", "--csv") == 1
    out, err = capsys.readouterr()
    assert [row["dataset"] for row in csv.DictReader(io.StringIO(out))] == ["zoo"]
    assert "the weights of the head are not finite" in err
    assert "1 of 2 cells failed" in err


@pytest.mark.usefixtures("_cells")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--solver", "lbfgs", "--epochs", "3"), "--epochs belongs to --solver adamw"),
        (("--solver", "lbfgs", "--sweep"), "--sweep belongs to --solver adamw"),
        (("--sweep", "--learning-rate", "1"), "--sweep tries a grid; drop --learning-rate"),
        (("--epochs", "0"), "epochs 0 is not 1 or more"),
        (("--learning-rate", "0"), "learning rates (0.0,) are not all above 0"),
        (("--seeds", "x"), "--seeds 'x' is no number from 0 to 9223372036854775807"),
        (("--seeds", "-1"), "--seeds '-1' is no number from 0"),
        (("--seeds", "9223372036854775808"), "is no number from 0 to 9223372036854775807"),
        (("--against", "published", "--intervals"), "the mean over seeds, which has no interval"),
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
