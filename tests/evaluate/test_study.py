from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from evaluate.study import Entry, Study, of_published, schemes_in_order


def study(*entries: Entry) -> Study:
    return Study("T", "S", entries, {"knn": "k-NN", "linear_probe": "probe"}, {"accuracy": "acc"})


def entry(dataset: str, scheme: str, model: str, size: int, **means: float) -> Entry:
    return Entry(dataset, scheme, model, size, means)


def test_axes_are_in_a_fixed_order() -> None:
    made = study(
        entry("zoo", "knn", "ant", 64, accuracy=1.0),
        entry("tissuemnist", "knn", "dino", 224, accuracy=2.0),
        entry("bloodmnist", "linear_probe", "vgg16", 28, accuracy=3.0),
    )
    assert made.datasets == ("bloodmnist", "tissuemnist", "zoo")
    assert made.models == ("vgg16", "dino", "ant")
    assert made.resolutions == (28, 64, 224)
    assert [tuple(figure) for figure in made.figures()] == [
        ("bloodmnist", "linear_probe", "vgg16", 28, 3.0),
        ("tissuemnist", "knn", "dino", 224, 2.0),
        ("zoo", "knn", "ant", 64, 1.0),
    ]


def test_what_is_missing_is_named() -> None:
    made = study(
        entry("a", "knn", "m", 28, accuracy=1.0), entry("b", "knn", "m", 28, accuracy=1.0),
        entry("a", "linear_probe", "m", 28, accuracy=1.0),
    )  # fmt: skip
    assert made.missing() == [("linear_probe", "m", 28, ("b",))]
    assert study(entry("a", "knn", "m", 28, auc=1.0)).figures() == []


def test_the_published_study_is_the_published_file() -> None:
    made = of_published()
    text = (files("evaluate") / "data" / "medmnistplus_published.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    assert len(rows) == sum(len(entry.means) for entry in made.entries) == 2400
    names = {"acc": "accuracy", "auc": "auc"}
    for number, row in enumerate(rows, 1):
        place = (row["dataset"], row["scheme"], row["model"], int(row["resolution"]))
        found, metric = made.by_place[place], names[row["metric"]]
        assert found.means[metric] == pytest.approx(float(row["mean"]))
        assert found.sources_of(metric) == (f"figure {number}",)
        if row["std"]:
            assert found.deviations[metric] == pytest.approx(float(row["std"]))
    assert made.missing() == []
    assert (len(made.datasets), len(made.models), made.resolutions) == (12, 10, (28, 64, 128, 224))


def test_schemes_come_in_the_order_of_their_numbers() -> None:
    names = [f"k-NN, k = {k}" for k in (21, 3, 11)]
    found = schemes_in_order({**dict(zip(names, names, strict=True)), "knn": "k-NN (k = 11)"})
    assert list(found) == ["knn", "k-NN, k = 3", "k-NN, k = 11", "k-NN, k = 21"]
