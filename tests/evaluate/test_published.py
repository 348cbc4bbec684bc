from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from embedder.errors import EvaluationError, UnknownNameError, UsageError
from evaluate import published

DATA = files("evaluate") / "data"


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of data that a test may change, read in place of ours."""
    (tmp_path / "data").mkdir()
    for name in ("medmnistplus_published.csv", "big_published.csv"):
        (tmp_path / "data" / name).write_text((DATA / name).read_text())
    monkeypatch.setattr(published, "files", lambda package: tmp_path)
    caches = (published.table, published.averages)
    for kept in caches:
        kept.cache_clear()
    yield tmp_path / "data"
    for kept in caches:
        kept.cache_clear()


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        (
            "medmnistplus_published.csv",
            "247d97f29a3feb2bcf1c9db7e5c64e7cc4c3d8997e334a6210e34ee1eddc1891",
        ),
        ("big_published.csv", "4d906a334e43cfd2145a62e05fa88f6e209c6dd36d266006fdc4d9cca1ee167a"),
    ],
)
def test_the_rows_are_those_transcribed_and_the_source_is_named(name: str, digest: str) -> None:
    lines = (DATA / name).read_text().splitlines(keepends=True)
    head = [line for line in lines if line.startswith("# ")]
    assert hashlib.sha256("".join(lines[len(head) :]).encode()).hexdigest() == digest
    for word in ("Source: ", "Licence: "):
        assert any(word in line for line in head)


def test_the_table() -> None:
    rows = published.table()
    assert len(rows) == 2400
    assert rows is published.table()
    assert rows[0] == published.Published(
        "bloodmnist", "end_to_end", "vgg16", 28, "acc", 94.85, 0.47
    )
    assert {row.std is None for row in rows if row.scheme == "knn"} == {True}
    assert {row.metric for row in rows if row.scheme == "knn"} == {"acc"}


def test_the_averages_are_in_percent() -> None:
    rows = published.averages()
    assert len(rows) == 168
    assert rows[0] == published.Averaged("mm_pt", "resnet18", 28, "auc", 77.74, None)
    (vgg16,) = (r for r in rows if (r.scheme, r.model, r.resolution, r.metric)
                == ("end_to_end", "vgg16", 28, "cohen_kappa"))  # fmt: skip
    assert (vgg16.mean, vgg16.std) == (65.6, 1.56)


def test_both_publications_agree_on_the_mean_auc_but_where_we_know_they_do_not() -> None:
    apart = {}
    for row in published.averages():
        if (row.scheme, row.metric) == ("end_to_end", "auc"):
            same = [
                r.mean
                for r in published.table()
                if (r.scheme, r.metric, r.model, r.resolution)
                == ("end_to_end", "auc", row.model, row.resolution)
            ]
            assert len(same) == 12
            difference = row.mean - float(np.mean(same))
            if abs(difference) > 0.02:
                apart[row.model, row.resolution] = round(difference, 2)
    assert apart == {
        ("alexnet", 64): -0.03, ("efficientnet_b4", 28): -0.03,
        ("sam", 28): -0.35, ("eva02", 128): -0.4,
    }  # fmt: skip


def test_find_by_the_names_of_casebook_and_of_the_table() -> None:
    row = published.find("bloodmnist", "linear_probe", "vgg16", 28, "acc")
    assert row is not None
    assert (row.mean, row.std) == (74.95, 0.02)
    for names in (("probe", "vgg16", "accuracy"), ("linear_probe", "timm:vgg16.tv_in1k", "acc")):
        scheme, model, metric = names
        assert published.find("bloodmnist", scheme, model, 28, metric) is row


@pytest.mark.parametrize(
    "key",
    [
        ("phantom-cells", "knn", "vgg16", 28, "acc"),
        ("bloodmnist", "knn", "vgg16", 28, "auc"),
        ("bloodmnist", "knn", "hog", 28, "acc"),
        ("bloodmnist", "knn", "timm:resnet18.tv_in1k", 28, "acc"),
        ("bloodmnist", "knn", "vgg16", 32, "acc"),
    ],
)
def test_what_is_not_published_is_not_found(key: tuple[str, str, str, int, str]) -> None:
    assert published.find(*key) is None


def test_equal_values_share_the_better_rank() -> None:
    rank = published.rank_among("breastmnist", 64, "knn", "accuracy", 81.41)
    assert (rank.rank, rank.of) == (4, 11)
    assert rank.above == ("dino", "eva02", "sam")
    assert set(rank.equal) == {"alexnet", "resnet18", "efficientnet_b4"}
    assert rank.below == ("vgg16", "vit", "clip", "densenet121")


@pytest.mark.parametrize(
    ("value", "rank"), [(100, 1), (81.4149, 4), (81.42, 4), (81.40, 7), (2, 11)]
)
def test_ranks_are_at_the_decimals_of_the_table(value: float, rank: int) -> None:
    assert published.rank_among("breastmnist", 64, "knn", "acc", value).rank == rank


def test_every_published_value_has_the_rank_that_its_table_shows() -> None:
    groups: dict[tuple[str, str, int, str], list[float]] = {}
    for row in published.table():
        key = (row.dataset, row.scheme, row.resolution, row.metric)
        groups.setdefault(key, []).append(row.mean)
    for row in published.table():
        values = groups[row.dataset, row.scheme, row.resolution, row.metric]
        rank = published.rank_among(row.dataset, row.resolution, row.scheme, row.metric, row.mean)
        assert rank.rank == 1 + sum(value > row.mean for value in values)
        assert row.model in rank.equal


@pytest.mark.parametrize("value", [0.91, 1.0, 0.0, -3, 100.5, float("nan")])
def test_a_fraction_is_no_percentage(value: float) -> None:
    with pytest.raises(UsageError, match="no percentage"):
        published.rank_among("bloodmnist", 28, "knn", "acc", value)


def test_ranks_that_cannot_be() -> None:
    with pytest.raises(EvaluationError, match="no AUC of k-NN"):
        published.rank_among("bloodmnist", 28, "knn", "auc", 90)
    with pytest.raises(EvaluationError, match="at 32 px"):
        published.rank_among("bloodmnist", 32, "knn", "acc", 90)
    with pytest.raises(UnknownNameError, match="did you mean bloodmnist"):
        published.rank_among("bloodmnits", 28, "knn", "acc", 90)
    with pytest.raises(UnknownNameError, match="unknown published scheme"):
        published.rank_among("bloodmnist", 28, "probes", "kappa", 90)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bloodmnist,end_to_end,vgg16,28,acc,94.85,0.47\n", "", "1 rows are missing or unknown"),
        ("bloodmnist,end_to_end,vgg16,64", "bloodmnist,end_to_end,vgg16,28", "a row stands twice"),
        ("bloodmnist,end_to_end,vgg16,28", "bloodmnits,end_to_end,vgg16,28", "2 rows are missing"),
        ("vgg16,28,acc,94.85,0.47", "vgg16,28,acc,94.85,", "line 8 has a deviation where none"),
        ("vgg16,28,acc,94.85,", "vgg16,28,acc,nan,", "line 8 has something else for a number"),
        ("vgg16,28,acc,94.85,", "vgg16,32,acc,94.85,", "line 8 has something else for a number"),
        ("vgg16,28,acc,94.85,", "vgg16,28,acc,194.85,", "line 8 is no percentage"),
        ("vgg16,28,acc,94.85,", "vgg16,28,acc,94.85,1,", "line 8 has 8 cells"),
        ("dataset,scheme", "scheme,dataset", "its columns are not"),
    ],
)
def test_a_changed_table_is_refused(changed: Path, old: str, new: str, message: str) -> None:
    path = changed / "medmnistplus_published.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(EvaluationError) as caught:
        published.table()
    assert message in str(caught.value)
    assert "install casebook again" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mm_pt,vit,28,auc,0.8986,\n", "", "1 rows are missing"),
        ("mm_pt,vit,28,auc,0.8986,", "mm_pt,vit,28,auc,0.8986,0.1", "deviation where none"),
        ("mm_pt,vit,28,auc,0.8986,", "mm_pt,vit,28,auc,89.86,", "is no percentage"),
    ],
)
def test_changed_averages_are_refused(changed: Path, old: str, new: str, message: str) -> None:
    path = changed / "big_published.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(EvaluationError, match=message):
        published.averages()
