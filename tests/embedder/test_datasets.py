from __future__ import annotations

import re
from pathlib import Path

import pytest

from embedder.datasets import (
    DATASETS,
    FAMILIES,
    MEDMNIST,
    PHANTOM,
    SIZES,
    Dataset,
    expand,
    is_path,
)
from embedder.errors import DatasetError, UnknownNameError
from embedder.types import Split, Task

TASKS = {
    "binary-class": Task.BINARY,
    "multi-class": Task.MULTICLASS,
    "ordinal-regression": Task.ORDINAL,
    "multi-label, binary-class": Task.MULTILABEL,
}

PUBLISHED = """
bloodmnist      multi-class   8 3  11959  1712  3421
breastmnist     binary        2 1    546    78   156
chestmnist      multi-label  14 1  78468 11219 22433
dermamnist      multi-class   7 3   7007  1003  2005
octmnist        multi-class   4 1  97477 10832  1000
organamnist     multi-class  11 1  34561  6491 17778
organcmnist     multi-class  11 1  12975  2392  8216
organsmnist     multi-class  11 1  13932  2452  8827
pathmnist       multi-class   9 3  89996 10004  7180
pneumoniamnist  binary        2 1   4708   524   624
retinamnist     ordinal       5 3   1080   120   400
tissuemnist     multi-class   8 1 165466 23640 47280
"""


def test_rows_are_those_of_the_medmnist_package() -> None:
    from medmnist.info import INFO

    theirs = {
        name: Dataset(
            name,
            TASKS[row["task"]],
            row["n_channels"],
            (row["n_samples"]["train"], row["n_samples"]["val"], row["n_samples"]["test"]),
            tuple(row["label"][str(number)] for number in range(len(row["label"]))),
            row["license"],
        )
        for name, row in INFO.items()
        if not name.endswith("3d")
    }
    assert {row.name: row for row in MEDMNIST} == theirs


def test_rows_are_those_of_the_published_table() -> None:
    ours = [
        [row.name, row.task, str(len(row.classes)), str(row.channels), *map(str, row.counts)]
        for row in MEDMNIST
    ]
    assert ours == [line.split() for line in PUBLISHED.strip().splitlines()]
    assert [row.name for row in MEDMNIST if row.licence != "CC BY 4.0"] == ["dermamnist"]


def test_every_size_has_an_address_and_an_md5() -> None:
    from medmnist.info import INFO

    assert SIZES == (28, 64, 128, 224)
    for row in MEDMNIST:
        for suffix in ("", "_64", "_128", "_224"):
            assert f"/{row.name}{suffix}.npz" in INFO[row.name][f"url{suffix}"]
            assert re.fullmatch("[0-9a-f]{32}", INFO[row.name][f"MD5{suffix}"])


def test_phantoms_have_every_task_and_both_channels() -> None:
    assert [row.task for row in PHANTOM] == list(Task)
    assert {row.channels for row in PHANTOM} == {1, 3}


@pytest.mark.parametrize("row", [*MEDMNIST, *PHANTOM], ids=lambda row: str(row.name))
def test_every_row_is_sound(row: Dataset) -> None:
    assert DATASETS[row.name] is row
    assert not is_path(row.name)
    assert len(set(row.classes)) == len(row.classes) >= 2
    assert (len(row.classes) == 2) == (row.task is Task.BINARY)
    assert [row.count(split) for split in Split] == list(row.counts)


def test_count() -> None:
    row = DATASETS["breastmnist"]
    assert [row.count(Split.TRAIN), row.count(Split.VAL), row.count(Split.TEST)] == [546, 78, 156]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["retinamnist", "bloodmnist"], ["retinamnist", "bloodmnist"]),
        (["all"], [line.split()[0] for line in PUBLISHED.strip().splitlines()]),
        (
            ["phantom"],
            ["phantom-nodule", "phantom-cells", "phantom-grade", "phantom-findings"],
        ),
        (
            ["phantom-cells", "phantom", "phantom-cells"],
            ["phantom-cells", "phantom-nodule", "phantom-grade", "phantom-findings"],
        ),
        (["./a", "b.npz", "c/d", "./a"], ["./a", "b.npz", "c/d"]),
    ],
)  # fmt: skip
def test_expand(names: list[str], expected: list[str]) -> None:
    assert expand(names) == expected


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("pnemoniamnist", "did you mean pneumoniamnist"),
        ("PneumoniaMNIST", "did you mean pneumoniamnist"),
        ("phantoms", "did you mean phantom"),
        ("organmnist", "organamnist"),
        ("ALL", "did you mean all"),
        ("qqq", "known: bloodmnist, breastmnist"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown dataset '{name}'; .*{nearest}"):
        expand(["bloodmnist", name])


def test_families_are_of_known_rows() -> None:
    assert FAMILIES == {"all": MEDMNIST, "phantom": PHANTOM}
    assert len(DATASETS) == 16


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.npz", True),
        ("folder/", True),
        ("./folder", True),
        ("/data/folder", True),
        ("C:\\folder", True),
        (".", True),
        ("..", True),
        (str(Path("a") / "b.npz"), True),
        ("pathmnist", False),
        ("phantom-cells", False),
        ("folder", False),
        ("npz", False),
    ],
)
def test_is_path(name: str, expected: bool) -> None:
    assert is_path(name) is expected


def test_only_rows_that_are_there_are_known() -> None:
    dataset = DATASETS["breastmnist"]
    assert [dataset.known_row(Split.VAL, row) for row in (0, 77)] == [0, 77]
    for row in (-1, 78):
        with pytest.raises(DatasetError, match=f"breastmnist has no row {row} of val; .* 0 to 77"):
            dataset.known_row(Split.VAL, row)
