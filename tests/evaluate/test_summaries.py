from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from embedder.datasets import Dataset
from embedder.types import Task
from evaluate import published, summaries
from evaluate.grid import Grid, Mark
from evaluate.ledger import Line, gather
from evaluate.study import Entry, Study, of_published
from tests.evaluate.conftest import RecordMaker

_KEY = {"knn": "k-NN", "probe": "probe"}


def study(*entries: Entry) -> Study:
    return Study("T", "S", entries, _KEY, {"accuracy": "accuracy"})


def texts(grid: Grid) -> list[list[str]]:
    return [[item.text for item in row] for row in grid.rows]


def test_the_published_summary_against_numpy() -> None:
    made = of_published()
    accuracy, auc = summaries.summary(made)
    assert accuracy.title == "Accuracy (%), mean over 12 datasets"
    assert (len(accuracy.rows), len(auc.rows)) == (30, 20)
    rows = published.table()
    for row in accuracy.rows:
        scheme = next(key for key, name in made.schemes.items() if name == row[0].text)
        for size, item in zip(made.resolutions, row[2:], strict=True):
            mine = [
                r for r in rows
                if (r.scheme, r.model, r.resolution, r.metric)
                == (scheme, row[1].text, size, "acc")
            ]  # fmt: skip
            expected = [np.mean([r.mean for r in mine])]
            if scheme != "knn":
                expected.append(np.mean([r.std for r in mine if r.std is not None]))
            found = [float(word) for word in item.text.split(" ± ")]
            assert found == pytest.approx(expected, abs=0.005001)
            numbers = [int(name.split()[1]) for name in item.sources]
            assert [rows[number - 1] for number in numbers] == mine
    best = [row[1].text for row in accuracy.rows for item in row if item.mark is Mark.OF_ALL]
    assert best == ["densenet121"]


def test_a_mean_over_fewer_datasets_says_so_and_is_not_marked() -> None:
    made = study(
        Entry("a", "knn", "m", 28, {"accuracy": 50.0}),
        Entry("b", "knn", "m", 28, {"accuracy": 60.0}),
        Entry("a", "knn", "n", 28, {"accuracy": 99.0}),
        Entry("a", "probe", "n", 28, {"accuracy": 40.0}),
        Entry("b", "probe", "n", 28, {"accuracy": 41.0}),
    )
    (grid,) = summaries.summary(made)
    assert texts(grid) == [
        ["k-NN", "m", "55.00"], ["k-NN", "n", "99.00 (1 of 2)"], ["probe", "n", "40.50"],
    ]  # fmt: skip
    assert [row[2].mark for row in grid.rows] == [Mark.OF_ALL, Mark.NONE, Mark.NONE]
    assert any("says over how many" in note for note in grid.notes)


def test_one_dataset_has_its_interval_and_its_deviation() -> None:
    made = study(
        Entry("a", "knn", "m", 28, {"accuracy": 50.0}, bounds={"accuracy": (45.0, 55.5)}),
        Entry("a", "probe", "m", 28, {"accuracy": 52.0}, {"accuracy": 0.5}, replicates=3),
        Entry("a", "probe", "m", 64, {}),
    )
    (grid,) = summaries.summary(made)
    assert texts(grid) == [
        ["k-NN", "m", "50.00 [45.00, 55.50]", "-"], ["probe", "m", "52.00 ± 0.50", "-"],
    ]  # fmt: skip
    (table,) = summaries.per_dataset(made)
    assert texts(table) == texts(grid)
    assert len(table.notes) == 3


def test_each_dataset_has_a_table_of_its_own_resolutions() -> None:
    made = study(
        Entry("a", "knn", "m", 28, {"accuracy": 50.0, "auc": 70.0}, sources=("one",)),
        Entry("b", "knn", "m", 64, {"accuracy": 60.0}, sources=("two",)),
    )
    first, second = summaries.per_dataset(made)
    assert first.head == ("scheme", "model", "accuracy, 28 px", "AUC, 28 px")
    assert second.head == ("scheme", "model", "accuracy, 64 px")
    assert first.rows[0][3].sources == ("one",)


def test_what_is_missing() -> None:
    made = study(
        Entry("a", "knn", "m", 28, {}), Entry("b", "knn", "m", 28, {}),
        Entry("a", "probe", "m", 28, {}), Entry("a", "knn", "n", 28, {}),
    )  # fmt: skip
    grid = summaries.missing(made)
    assert grid is not None
    assert texts(grid) == [
        ["k-NN", "n", "28 px", "1 of 2", "b"],
        ["probe", "m", "28 px", "1 of 2", "b"],
        ["probe", "n", "28 px", "0 of 2", "all"],
    ]
    assert summaries.missing(of_published()) is None


def test_datasets_known_by_name_or_by_the_store() -> None:
    made = study(Entry("bloodmnist", "knn", "m", 28, {}), Entry("mine", "knn", "m", 28, {}))
    assert texts(summaries.datasets(made, {}))[1] == ["mine", *"------"]
    mine = Dataset("mine", Task.BINARY, 1, (1000, 2, 3), ("no", "yes"), "CC0")
    assert texts(summaries.datasets(made, {"mine": mine})) == [
        ["bloodmnist", "multi-class", "8", "3", "11,959", "1,712", "3,421"],
        ["mine", "binary", "2", "1", "1,000", "2", "3"],
    ]


def test_records_and_their_places_beside_the_published(make_record: RecordMaker) -> None:
    dino = make_record(
        dataset="bloodmnist", variant="dino", accuracy=0.9, size=224,
        checkpoint="timm:vit_base_patch16_224.dino",
        counts={"queries": 3421, "support": 11959, "classes": 8, "erased": 0},
    )  # fmt: skip
    ledger = gather([Line("x.json", dino), Line("y.json", make_record(auc=0.25))], "here")
    grid = summaries.records(ledger)
    assert texts(grid) == [
        ["1", "bloodmnist", "k-NN (k = 11)", "dino", "224", "-", "90.00", "-",
         "2026-01-01T00:00:00", "x.json"],
        ["2", "toy", "k-NN (k = 11)", "hog", "28", "-", "50.00", "25.00",
         "2026-01-01T00:00:00", "y.json"],
    ]  # fmt: skip
    theirs = published.find("bloodmnist", "knn", "dino", 224, "acc")
    assert theirs is not None
    standings = summaries.standings(ledger)
    (first,) = texts(standings)
    assert first[:4] == ["bloodmnist", "k-NN (k = 11)", "dino", "224 px"]
    assert first[4:7] == ["90.00", f"{theirs.mean:.2f}", f"{90 - theirs.mean:+.2f}"]
    assert standings.notes[1] == "Left out are results of other datasets or protocols: 1."


def test_the_csv_has_every_figure_unrounded() -> None:
    third = 100 / 3
    made = study(
        Entry("a", "knn", "m", 28, {"accuracy": third, "kappa": 1.0},
              bounds={"accuracy": (1.5, 2.5)}, sources=("x", "y")),
        Entry("b", "knn", "m", 28, {"accuracy": 2.0}, {"accuracy": 0.1}, replicates=3),
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(summaries.figures_csv(made))))
    assert [row["metric"] for row in rows] == ["accuracy", "kappa", "accuracy"]
    assert float(rows[0]["mean"]) == third
    assert (rows[0]["low"], rows[0]["high"], rows[0]["sources"]) == ("1.5", "2.5", "x; y")
    assert (rows[2]["deviation"], rows[2]["replicates"]) == ("0.1", "3")


def test_the_published_csv_against_its_file() -> None:
    rows = list(csv.DictReader(io.StringIO(summaries.figures_csv(of_published()))))
    assert len(rows) == 2400
    assert sum(float(row["mean"]) for row in rows) == pytest.approx(
        sum(row.mean for row in published.table())
    )
