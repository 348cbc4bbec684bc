from __future__ import annotations

import csv
import io

import pytest

from evaluate import tables
from tests.evaluate.conftest import RecordMaker


def test_models_by_resolutions(make_record: RecordMaker) -> None:
    records = [
        make_record(dataset="a", variant="hog", size=28, accuracy=0.5),
        make_record(dataset="b", variant="hog", size=28, accuracy=0.75),
        make_record(dataset="a", variant="hog", size=224, accuracy=0.9),
        make_record(dataset="b", variant="hog", size=224, accuracy=1),
        make_record(dataset="a", variant="dino", size=28, accuracy=1 / 3),
        make_record(dataset="b", variant="dino", size=28, accuracy=2 / 3),
    ]
    assert tables.summary(records) == (
        "accuracy (%), k = 11, cosine, majority vote, test split; mean over 2 datasets\n"
        "\n"
        "model      28 px    224 px\n"
        "-------  -------  --------\n"
        "dino       50.00         -\n"
        "hog        62.50     95.00"
    )


def test_a_mean_over_fewer_datasets_says_so(make_record: RecordMaker) -> None:
    records = [
        make_record(dataset="a", variant="hog", accuracy=0.5),
        make_record(dataset="b", variant="hog", accuracy=0.7),
        make_record(dataset="b", variant="dino", accuracy=0.8),
    ]
    lines = tables.summary(records).splitlines()
    assert lines[4].split(None, 1) == ["dino", "80.00 (1 of 2)"]
    assert lines[5].split() == ["hog", "60.00"]


def test_an_undefined_figure_is_no_zero(make_record: RecordMaker) -> None:
    why = "class 1 (bee) is absent from the labels: AUC is undefined"
    records = [
        make_record(dataset="a", auc=0.5),
        make_record(dataset="b", auc=None, notes=(why,)),
        make_record(dataset="b", variant="dino", auc=None, notes=(why,)),
    ]
    lines = tables.summary(records, "auc").splitlines()
    assert lines[0].startswith("AUC (%), k = 11")
    assert lines[4].split() == ["dino", "-"]
    assert lines[5].split(None, 1) == ["hog", "50.00 (1 of 2)"]
    assert lines[6:] == ["", f"b: {why}"]


def test_a_table_per_k(make_record: RecordMaker) -> None:
    records = [make_record(k=11, accuracy=0.5), make_record(k=1, accuracy=0.25)]
    text = tables.summary(records)
    assert text.index("k = 1, ") < text.index("25.00") < text.index("k = 11, ")
    assert text.index("k = 11, ") < text.index("50.00")
    assert "; toy" in text


def test_untrained_models_are_marked(make_record: RecordMaker) -> None:
    records = [make_record(variant="resnet18-random0", checkpoint="random:0"), make_record()]
    for text in (tables.summary(records), tables.per_dataset(records)):
        assert text.endswith("\n\nuntrained, random weights: resnet18-random0")
    assert "untrained" not in tables.summary(records[1:])


def test_the_latest_record_of_a_cell_counts(make_record: RecordMaker) -> None:
    new = make_record(accuracy=0.9, created="2026-02-01")
    old = make_record(accuracy=0.1, created="2026-01-01")
    assert tables.summary([new, old]).splitlines()[4].split() == ["hog", "90.00"]


def test_the_protocol_is_in_the_title(make_record: RecordMaker) -> None:
    record = make_record(vote="softmax", temperature=0.07, distance="euclidean", split="train")
    assert tables.summary([record]).splitlines()[0] == (
        "accuracy (%), k = 11, euclidean, softmax vote at temperature 0.07, train split, "
        "leave-one-out; toy"
    )


def test_per_dataset(make_record: RecordMaker) -> None:
    records = [
        make_record(dataset="b", size=64, accuracy=1),
        make_record(dataset="a", size=28, k=5, auc=0.875),
        make_record(dataset="a", size=28, k=1),
    ]
    assert tables.per_dataset(records) == (
        "cosine, majority vote, test split\n"
        "\n"
        "dataset    model      px    k    queries    accuracy    balanced    kappa    precision"
        "    AUC\n"
        "---------  -------  ----  ---  ---------  ----------  ----------  -------  -----------"
        "  -----\n"
        "a          hog        28    1      2,000       50.00       25.00   -12.50        75.00"
        "      -\n"
        "a          hog        28    5      2,000       50.00       25.00   -12.50        75.00"
        "  87.50\n"
        "b          hog        64   11      2,000      100.00       25.00   -12.50        75.00"
        "      -"
    )


@pytest.mark.parametrize("name", ["007", "1e5", "nan", "-1"])
def test_names_like_numbers_stay_names(make_record: RecordMaker, name: str) -> None:
    records = [make_record(variant=name, dataset=name)]
    assert tables.summary(records).splitlines()[4].split() == [name, "50.00"]
    assert tables.per_dataset(records).splitlines()[4].split()[:2] == [name, name]


def test_csv_parses_back(make_record: RecordMaker) -> None:
    notes = ('class 0 ("a, b") is absent', "another")
    records = [
        make_record(accuracy=1 / 3, notes=notes),
        make_record(vote="softmax", temperature=0.07, auc=0.75, k=5),
    ]
    first, second = csv.DictReader(io.StringIO(tables.as_csv(records)))
    assert float(first["accuracy"]) == 1 / 3
    assert first["auc"] == first["temperature"] == ""
    assert first["notes"] == 'class 0 ("a, b") is absent; another'
    assert second == {
        "dataset": "toy", "task": "multi-class", "model": "hog", "res": "28", "split": "test",
        "k": "5", "distance": "cosine", "vote": "softmax", "temperature": "0.07",
        "priors": "", "thresholds": "", "shots": "", "draw": "",
        "support": "100", "queries": "2000", "accuracy": "0.5", "balanced_accuracy": "0.25",
        "kappa": "-0.125", "precision": "0.75", "auc": "0.75", "notes": "",
        "checkpoint": "scikit-image:hog", "created": "2026-01-01T00:00:00.000000+00:00",
    }  # fmt: skip


THRESHOLDS = {"criterion": "f1", "values": [0.25, 0.5], "notes": ["label 1 keeps 0.5"]}


def test_corrections_are_in_the_title(make_record: RecordMaker) -> None:
    record = make_record(priors="uniform", thresholds=THRESHOLDS)
    lines = tables.summary([record]).splitlines()
    assert lines[0] == (
        "accuracy (%), k = 11, cosine, majority vote, uniform priors, thresholds by val f1, "
        "test split; toy"
    )
    assert lines[-1] == "toy: label 1 keeps 0.5"
    assert tables.per_dataset([record]).endswith("\n\ntoy: label 1 keeps 0.5")


def test_csv_of_corrections_and_draws(make_record: RecordMaker) -> None:
    records = [
        make_record(priors="uniform", thresholds=THRESHOLDS),
        make_record(shots=4, draw=0, k_asked=11),
    ]
    first, second = csv.DictReader(io.StringIO(tables.as_csv(records)))
    names = ("priors", "thresholds", "shots", "draw")
    assert [first[name] for name in names] == ["uniform", "f1", "", ""]
    assert [second[name] for name in names] == ["", "", "4", "0"]
