from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import casebook
from embedder import cli as embed
from embedder.datasets import DATASETS
from embedder.phantom import PhantomSource
from embedder.store import Cell, Store
from embedder.types import Task
from evaluate import neighbours
from evaluate.gallery import legend
from tests.evaluate.conftest import CellMaker, failure

TRAIN, LABELS = [[4, 0], [0, 4], [4, 3], [3, 4]], [0, 1, 2, 2]
TEST, TRUTHS = [[2, 0], [0, 3], [1, 1]], [0, 1, 0]

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cell(make_cell: CellMaker) -> Cell:
    return make_cell(TRAIN, LABELS, TEST, TRUTHS)


def ask(store: Store, *arguments: str) -> int:
    return neighbours.main([*arguments, "--store", str(store.root)])


@pytest.mark.usefixtures("cell")
def test_text(store: Store, capsys: Capture) -> None:
    assert ask(store, "--k", "3") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "toy/test/0 by hog at 28 px: cat (score 0.67); labelled ant\n"
        "\n"
        "  rank  case         label      similarity\n"
        "------  -----------  -------  ------------\n"
        "     1  toy/train/0  ant            1.0000\n"
        "     2  toy/train/2  cat            0.8000\n"
        "     3  toy/train/3  cat            0.6000\n"
    )


@pytest.mark.usefixtures("cell")
def test_json(store: Store, capsys: Capture) -> None:
    assert ask(store, "--k", "3", "--json", "--vote", "distance", "--case", "toy/test/0") == 0
    answer = json.loads(capsys.readouterr().out)
    weight = 1 + np.float32(0.8) + np.float32(0.6)
    assert answer.pop("scores") == pytest.approx({"ant": 1 / weight, "bee": 0, "cat": 1.4 / weight})
    nearest = answer.pop("neighbours")
    assert answer.pop("fingerprint")["checkpoint"] == "scikit-image:hog"
    how = answer.pop("protocol")
    assert (how["k"], how["distance"], how["vote"]) == (3, "cosine", "distance")
    assert answer == {
        "case": "toy/test/0", "model": "hog", "res": 28, "label": "ant", "prediction": "cat",
    }  # fmt: skip
    assert nearest == [
        {"id": "toy/train/0", "label": "ant", "similarity": 1, "agrees": False},
        {"id": "toy/train/2", "label": "cat", "similarity": pytest.approx(0.8), "agrees": True},
        {"id": "toy/train/3", "label": "cat", "similarity": pytest.approx(0.6), "agrees": True},
    ]


@pytest.mark.usefixtures("cell")
def test_a_training_case_is_not_its_own_neighbour(store: Store, capsys: Capture) -> None:
    assert ask(store, "--k", "3", "--case", "train/2", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["case"] == "toy/train/2"
    assert answer["label"] == "cat"
    ids = [case["id"] for case in answer["neighbours"]]
    assert ids == ["toy/train/3", "toy/train/0", "toy/train/1"]
    assert answer["prediction"] == "ant"  # one vote each


@pytest.mark.usefixtures("cell")
def test_euclidean_distance(store: Store, capsys: Capture) -> None:
    assert ask(store, "--k", "1", "--distance", "euclidean", "--case", "val/1", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    (nearest,) = answer["neighbours"]
    assert (nearest["id"], nearest["similarity"]) == ("toy/train/1", -1)
    assert answer["case"] == "toy/val/1"


def test_a_case_names_its_dataset(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    for name in ("toy", "zoo"):
        make_cell(TRAIN, LABELS, TEST, TRUTHS, name=name)
    assert ask(store, "--k", "1", "--case", "zoo/test/1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["case"] == "zoo/test/1"
    assert ask(store, "--k", "1", "--case", "zoo/test/1", "--dataset", "zoo") == 0
    capsys.readouterr()
    assert ask(store, "--k", "1", "--case", "zoo/test/1", "--dataset", "toy") == 2
    assert "--case zoo/test/1 is not of --dataset toy" in failure(capsys)
    assert ask(store, "--k", "1", "--case", "zo/test/1") == 2
    assert "unknown stored dataset 'zo'; did you mean zoo?" in failure(capsys)


def two_labels(make_cell: CellMaker, labels: list[list[int]], truth: list[int]) -> None:
    make_cell(
        [[4, 0], [4, 1], [4, 2]], labels, [[4, 0]], [truth], task=Task.MULTILABEL,
        classes=("mass", "hernia", "device"),
    )  # fmt: skip


def test_multilabel_text(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    two_labels(make_cell, [[0, 1, 0], [1, 1, 0], [1, 1, 0]], [1, 0, 1])
    assert ask(store, "--k", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy/test/0 by hog at 28 px: hernia 1.00, mass 0.67; labelled mass, device"
    assert [line.split(None, 2)[2].split("  ")[0] for line in lines[4:]] == [
        "hernia", "mass, hernia", "mass, hernia",
    ]  # fmt: skip


def test_multilabel_without_a_finding(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    two_labels(make_cell, [[0, 0, 1], [0, 0, 0], [0, 0, 0]], [0, 0, 0])
    assert ask(store, "--k", "3") == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "toy/test/0 by hog at 28 px: no finding (highest: device 0.33); labelled no finding"
    )
    assert ask(store, "--k", "3", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["prediction"] == "no finding"
    assert [case["agrees"] for case in answer["neighbours"]] == [False, True, True]


# The picture.


@pytest.fixture
def embedded(store: Store, make_npz: Callable[..., Path], capsys: Capture) -> Path:
    """A dataset of random images, embedded; where it lies."""
    path = make_npz("shots.npz", channels=3)
    assert embed.main(["--dataset", str(path), "--store", str(store.root)]) == 0
    capsys.readouterr()
    return path


def test_draw_them(store: Store, embedded: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "cases.png"
    arguments = ("--dataset", str(embedded), "--k", "5", "--out", str(out), "--json")
    assert ask(store, *arguments) == 0
    text, err = capsys.readouterr()
    assert len(json.loads(text)["neighbours"]) == 5
    assert err == f"wrote {out}\n"
    with Image.open(out) as image:
        canvas = np.asarray(image.convert("RGB"))
    with np.load(embedded) as arrays:
        query = arrays["test_images"][0]
    # The middle of the query's 16 pixels of a side, at 480 dots: 17 to a pixel.
    row, column = np.array([0.62 + 0.19, 0.25]) * 150 + 480 * 10.5 / 28
    assert np.abs(canvas[int(row), int(column)].astype(int) - query[10, 10]).max() <= 2


def test_draw_a_built_in_dataset(
    store: Store, make_cell: CellMaker, tmp_path: Path, capsys: Capture
) -> None:
    row = DATASETS["phantom-cells"]
    make_cell(
        TRAIN, LABELS, TEST, TRUTHS, name=row.name, classes=row.classes,
        checksum=PhantomSource(row, 28).checksum,
    )  # fmt: skip
    out = tmp_path / "cases.svg"
    assert ask(store, "--dataset", "phantom", "--k", "2", "--out", str(out)) == 0
    text, err = capsys.readouterr()
    assert text.startswith("phantom-cells/test/0 by hog at 28 px: lymphocyte (score 0.50)")
    assert err == f"wrote {out}\n"
    drawing = out.read_text()
    assert "phantom-cells/test/0 by hog at 28 px" in drawing
    assert "solid blue: agrees with the prediction; dashed orange: does not" in drawing
    assert "train/0  1.000" in drawing
    assert "label: lymphocyte" in drawing


def test_draw_cases_of_several_labels(store: Store, make_cell: CellMaker, tmp_path: Path) -> None:
    row = DATASETS["phantom-findings"]
    make_cell(
        TRAIN, [[place == n for place in range(6)] for n in LABELS], TEST, [[0] * 6] * 3,
        task=Task.MULTILABEL, name=row.name, classes=row.classes,
        checksum=PhantomSource(row, 28).checksum,
    )  # fmt: skip
    out = tmp_path / "cases.svg"
    assert ask(store, "--dataset", "phantom", "--k", "2", "--out", str(out)) == 0
    drawing = " ".join(re.findall(r"<!-- (.*) -->", out.read_text()))
    assert legend(Task.MULTILABEL) in drawing


def test_images_that_are_absent(
    store: Store, make_cell: CellMaker, tmp_path: Path, capsys: Capture
) -> None:
    make_cell(TRAIN, LABELS, TEST, TRUTHS, name="bloodmnist", size=64)
    out = tmp_path / "cases.png"
    assert ask(store, "--k", "1", "--data", str(tmp_path), "--out", str(out)) == 1
    expected = f"error: the images are not at {tmp_path / 'bloodmnist_64.npz'}; give --data, or "
    assert failure(capsys) == f"{expected}drop --out\n"
    assert not out.exists()
    assert ask(store, "--k", "1", "--data", str(tmp_path)) == 0


@pytest.mark.usefixtures("cell")
def test_images_of_an_unknown_place(store: Store, tmp_path: Path, capsys: Capture) -> None:
    assert ask(store, "--k", "1", "--out", str(tmp_path / "cases.png")) == 1
    expected = "error: where the images of toy lie is not known; give --dataset PATH\n"
    assert failure(capsys) == expected
    missing = tmp_path / "gone" / "toy.npz"
    assert ask(store, "--k", "1", "--out", "cases.png", "--dataset", str(missing)) == 1
    assert f"no file {missing}" in failure(capsys)


def test_images_that_were_not_embedded(
    store: Store, embedded: Path, make_npz: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    other = make_npz("other/shots.npz", channels=3, seed=1)
    out = tmp_path / "cases.png"
    assert ask(store, "--k", "1", "--out", str(out), "--dataset", str(other)) == 1
    assert f"{other} is not what was embedded" in failure(capsys)
    assert not out.exists()


def test_a_picture_that_cannot_be_written(
    store: Store, embedded: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = embedded / "cases.png"
    assert ask(store, "--k", "1", "--out", str(out), "--dataset", str(embedded)) == 1
    assert f"cannot write {out}: " in failure(capsys)


# What goes wrong.


@pytest.mark.usefixtures("cell")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "cases.jpg"), "--out cases.jpg must end in .png, .svg or .pdf"),
        (("--out", "cases"), "--out cases must end in .png, .svg or .pdf"),
        (("--case", "test"), "--case 'test' is no case; write it as test/0"),
        (("--case", "test/x"), "--case 'test/x' is no case; write it as test/0"),
        (("--case", "test/-1"), "--case 'test/-1' is no case; write it as test/0"),
        (("--case", "exam/0"), "--case 'exam/0' is no case; write it as test/0"),
        (("--case", ""), "--case '' is no case; write it as test/0"),
        (("--case", "test/3"), "test of toy has rows 0 to 2"),
        (("--case", "train/4"), "train of toy has rows 0 to 3"),
        (("--k", "1,2"), "--k takes one number here"),
        (("--k", "0"), "--k '0' is no number from 1 on"),
        (("--model", "hgo"), "unknown stored model 'hgo'; did you mean hog?"),
        (("--dataset", "toi"), "unknown stored dataset 'toi'; did you mean toy?"),
        (("--temperature", "1"), "--temperature belongs to --vote softmax"),
        (("--case",), "see casebook neighbours --help"),
    ],
)
def test_wrong_use(store: Store, capsys: Capture, arguments: tuple[str, ...], message: str) -> None:
    assert neighbours.main(["--store", str(store.root), *arguments]) == 2
    assert message in failure(capsys)


@pytest.mark.usefixtures("cell")
def test_more_neighbours_than_cases(store: Store, capsys: Capture) -> None:
    assert ask(store) == 1
    assert "k = 11, but toy/train has 4 cases to offer; use a --k from 1 to 4" in failure(capsys)


def test_several_cells_match(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    for size in (28, 64, 128, 224):
        make_cell(TRAIN, LABELS, TEST, TRUTHS, size=size)
    make_cell(TRAIN, LABELS, TEST, TRUTHS, size=28, backbone="dino")
    assert ask(store, "--k", "1") == 2
    assert failure(capsys) == (
        "error: 5 cells match (dino toy 28 px, hog toy 28 px, hog toy 64 px, hog toy 128 px ...); "
        "give --model, --dataset and --res\n"
    )
    assert ask(store, "--k", "1", "--res", "64") == 0


def test_a_zero_vector_is_named(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    make_cell(TRAIN, LABELS, [[1, 1], [0, 0]], [0, 1])
    assert ask(store, "--k", "1", "--case", "test/1") == 1
    assert "toy/test/1 is a zero vector, which has no cosine" in failure(capsys)
    assert ask(store, "--k", "1", "--case", "test/0") == 0


def test_a_damaged_cell(store: Store, cell: Cell, capsys: Capture) -> None:
    cell.path.write_bytes(b"")
    assert ask(store) == 1
    assert str(cell.path) in failure(capsys)


def test_an_empty_store(store: Store, capsys: Capture) -> None:
    assert ask(store) == 1
    assert "run embed first" in failure(capsys)


@pytest.mark.usefixtures("cell")
def test_through_the_door(store: Store, capsys: Capture) -> None:
    assert casebook.main(["neighbours", "--k", "1", "--store", str(store.root)]) == 0
    assert capsys.readouterr().out.startswith("toy/test/0 by hog at 28 px: ant (score 1.00)")


def test_a_neighbour_with_every_predicted_label_agrees(
    store: Store, make_cell: CellMaker, capsys: Capture
) -> None:
    make_cell(
        [[1, 0], [1, 0.1], [1, 0.2], [0, 1]], [[1, 0], [1, 1], [0, 1], [0, 0]],
        [[1, 0]], [[1, 0]], task=Task.MULTILABEL, classes=("mass", "hernia"),
    )  # fmt: skip
    assert ask(store, "--k", "3", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["prediction"] == "mass, hernia"
    assert [case["agrees"] for case in answer["neighbours"]] == [False, True, False]
    assert ask(store, "--k", "4", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["prediction"] == "no finding"
    assert [case["agrees"] for case in answer["neighbours"]] == [False, False, False, True]


def test_the_text_shows_a_distance_without_a_sign(
    store: Store, make_cell: CellMaker, capsys: Capture
) -> None:
    make_cell([[0, 0], [0, 3]], [0, 1], [[0, 1]], [0])
    assert ask(store, "--k", "2", "--distance", "euclidean") == 0
    out = capsys.readouterr().out
    assert "distance" in out
    assert "2.0000" in out
    assert "-2.0000" not in out
