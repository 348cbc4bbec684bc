from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import casebook
from embedder import cli as embed
from embedder.errors import StoreError
from embedder.store import Store
from embedder.types import Task
from evaluate import audit_cli
from evaluate.gallery import Picture
from evaluate.sheets import draw_sheet
from tests.conftest import NpzMaker
from tests.evaluate.conftest import CellMaker, failure

Capture = pytest.CaptureFixture[str]
Arrays = dict[str, NDArray[np.uint8]]


def ask(store: Store, *arguments: str) -> int:
    return audit_cli.main([*arguments, "--store", str(store.root)])


def answer(store: Store, capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert ask(store, "--json", *arguments) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def stripes(rng: np.random.Generator, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Noisy stripes of 28 px: across, along, or none."""
    wave = 70 * np.sin(np.arange(28))
    kinds = np.stack([np.tile(wave, (28, 1)), np.tile(wave, (28, 1)).T, np.zeros((28, 28))])
    noise = rng.normal(0, 25, (len(labels), 28, 28))
    return np.clip(128 + kinds[labels] + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def planted(make_npz: NpzMaker, store: Store, capsys: Capture) -> Path:
    """Copies, one changed in a few pixels, and three wrong labels, embedded; where they lie."""
    rng = np.random.default_rng(3)
    arrays: Arrays = {}
    for split, count in (("train", 90), ("val", 12), ("test", 15)):
        labels = (np.arange(count) % 3).astype(np.uint8)
        arrays[f"{split}_images"] = stripes(rng, labels)
        arrays[f"{split}_labels"] = labels[:, None]
    train = arrays["train_images"]
    train[80] = train[5]
    arrays["val_images"][1] = train[10]
    arrays["test_images"][2] = train[20]
    arrays["test_images"][4] = train[31]
    arrays["test_images"][4][:2, :2] ^= 32
    arrays["train_labels"][6], arrays["train_labels"][40] = 1, 0
    arrays["test_labels"][9] = 1
    path = make_npz("planted.npz", **arrays)
    assert embed.main(["--dataset", str(path), "--store", str(store.root)]) == 0
    capsys.readouterr()
    return path


COPIES = {
    ("train/80", "train/5", "identical image"),
    ("val/1", "train/10", "identical image"),
    ("test/2", "train/20", "identical image"),
    ("test/4", "train/31", "near"),
}


def test_what_was_planted_is_found(
    store: Store, planted: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "found"
    assert ask(store, "--dataset", str(planted), "--out", str(out)) == 0
    text, err = capsys.readouterr()
    assert err == f"wrote {out}/planted-28-hog*\n"
    assert sorted(path.name for path in out.iterdir()) == [
        "planted-28-hog-duplicates.csv", "planted-28-hog-duplicates.png",
        "planted-28-hog-suspects.csv", "planted-28-hog-suspects.png", "planted-28-hog.json",
    ]  # fmt: skip
    found = json.loads((out / "planted-28-hog.json").read_text())
    listed = {
        (d["case"].removeprefix("planted/"), d["twin"].removeprefix("planted/"), d["kind"])
        for d in found["duplicates"]
    }
    assert listed == COPIES
    assert {s["case"] for s in found["suspects"]} == {
        "planted/train/6", "planted/train/40", "planted/test/9",
    }  # fmt: skip
    assert "test in train        15                  1                      0       1" in text
    assert "3 of 3" in text
    for noun in ("duplicates", "suspects"):
        with (out / f"planted-28-hog-{noun}.csv").open(newline="") as stream:
            lines = list(csv.DictReader(stream))
        assert [line["case"] for line in lines] == [row["case"] for row in found[noun]]
        assert list(lines[0]) == list(found[noun][0])
    assert lines[0]["neighbours"].split() == found["suspects"][0]["neighbours"]
    splits = {split["split"]: split for split in found["splits"]}
    with np.load(planted) as arrays:
        for name, split in splits.items():
            counts = np.bincount(arrays[f"{name}_labels"][:, 0])
            p = counts / counts.sum()
            assert split["counts"] == counts.tolist()
            assert split["equitability"] == pytest.approx(-(p * np.log(p)).sum() / np.log(3))


def test_the_sheets_show_the_pictures(
    store: Store, planted: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "found"
    arguments = ("--dataset", str(planted), "--out", str(out), "--show", "1")
    found = answer(store, capsys, *arguments)
    assert found["images"] == "compared"
    with np.load(planted) as arrays:
        images = {name: arrays[f"{name}_images"] for name in ("train", "val", "test")}
    pair = found["duplicates"][0]
    suspect = found["suspects"][0]
    shown = {"duplicates": [pair["case"], pair["twin"]],
             "suspects": [suspect["case"], *suspect["neighbours"][:5]]}  # fmt: skip
    for noun, cases in shown.items():
        with Image.open(out / f"planted-28-hog-{noun}.png") as image:
            canvas = np.asarray(image.convert("L")).astype(int)
        heads = [0.62 + 0.19 * extra for extra in range(6)]
        sides = (np.arange(28) + 0.5) * 1.35 * 150 / 28
        errors = []
        for head in heads:  # wherever the heading ends
            rows = (head * 150 + sides).astype(int)
            drawn = [
                canvas[np.ix_(rows, ((0.25 + column * 1.49) * 150 + sides).astype(int))]
                for column in range(len(cases))
            ]
            asked = [images[c.split("/")[1]][int(c.split("/")[2])] for c in cases]
            inner = (slice(None), slice(2, -2), slice(2, -2))
            errors.append(np.abs(np.array(drawn)[inner] - np.array(asked)[inner]).max())
        assert min(errors) <= 2


def test_without_images(store: Store, planted: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "found"
    assert ask(store, "--out", str(out)) == 0
    text = capsys.readouterr().out
    reason = "where the images of planted lie is not known; give --dataset PATH"
    assert f"pixels were not compared: {reason}" in text
    assert "test in train        15                  -                      1       1" in text
    assert not list(out.glob("*.png"))
    planted.rename(planted.with_name("away.npz"))
    assert f"no file {planted}" in answer(store, capsys, "--dataset", str(planted))["images"]


def test_other_images_are_not_compared(
    store: Store, planted: Path, make_npz: NpzMaker, capsys: Capture
) -> None:
    other = make_npz("other/planted.npz")
    found = answer(store, capsys, "--dataset", str(other))
    assert found["images"] == f"{other} is not what was embedded"
    assert {pair["same_pixels"] for pair in found["duplicates"]} == {None}


def test_the_threshold_is_chosen_or_given(store: Store, planted: Path, capsys: Capture) -> None:
    chosen = answer(store, capsys)
    assert chosen["near_chosen"] is True
    assert 0.9 < chosen["near"] < 1
    given = answer(store, capsys, "--near", "1")
    assert (given["near"], given["near_chosen"]) == (1, False)
    assert "near" not in {pair["kind"] for pair in given["duplicates"]}
    loose = answer(store, capsys, "--near", "0.5")
    assert len(loose["duplicates"]) > 50


def test_a_multilabel_table(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    make_cell(
        [[1, 0], [1, 1], [0, 1], [1, 2]], [[1, 0], [1, 0], [1, 0], [0, 0]], [[2, 1]], [[0, 0]],
        task=Task.MULTILABEL, classes=("mass", "hernia"),
    )  # fmt: skip
    assert ask(store, "--k", "2") == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["mass", "3", "(0.811)", "0", "(0.000)", "0", "(0.000)"] in lines
    assert ["mean", "equitability", "0.406", "0.000", "0.000"] in lines
    assert "no threshold for near ones could be chosen; give --near" in text
    assert "toy/train/3  no mass  mass" in text


def test_every_index_answers_alike(store: Store, planted: Path, capsys: Capture) -> None:
    found = [answer(store, capsys, "--index", name) for name in ("faiss", "reference")]
    assert [one.pop("index") for one in found] == ["faiss", "reference"]
    assert found[0] == found[1]


def test_several_cells_and_a_failure(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    for size in (28, 64):
        make_cell([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 2]], [0], size=size)
    make_cell([[1, 0], [0, 1]], [0, 1], [[1, 2]], [0], name="few")
    assert ask(store, "--k", "2") == 1
    out, err = capsys.readouterr()
    assert err == (
        "failed: hog few 28 px: k = 2, but a case of few/train has 1 others; lower --k\n"
        "error: 1 of 3 cells failed\n"
    )
    assert "hog toy 28 px\n" in out
    assert "hog toy 64 px\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--near", "0"), "--near 0.0 is no cosine above 0 and up to 1"),
        (("--near", "1.5"), "--near 1.5 is no cosine above 0 and up to 1"),
        (("--near", "nan"), "--near nan is no cosine"),
        (("--k", "0"), "--k '0' is no number from 1 on"),
        (("--k", "1,2"), "--k takes one number here"),
        (("--show", "1,2"), "--show takes one number here"),
        (("--show", "x"), "--show 'x' is no number from 1 on"),
        (("--dataset", "toi"), "unknown stored dataset 'toi'; did you mean toy?"),
    ],
)
def test_wrong_use(
    store: Store, make_cell: CellMaker, capsys: Capture, arguments: tuple[str, ...], message: str
) -> None:
    make_cell([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 2]], [0])
    assert ask(store, *arguments) == 2
    assert message in failure(capsys)


def test_a_place_that_cannot_be_written(
    store: Store, make_cell: CellMaker, tmp_path: Path, capsys: Capture
) -> None:
    make_cell([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 2]], [0])
    (tmp_path / "file").touch()
    assert ask(store, "--k", "1", "--out", str(tmp_path / "file" / "found")) == 1
    assert "check --out" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_noticed_before_the_work(
    store: Store, make_cell: CellMaker, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_cell([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 2]], [0])

    def never(*arguments: object) -> None:
        raise AssertionError("a cell was searched")

    monkeypatch.setattr("evaluate.audit.audit", never)
    (tmp_path / "file").touch()
    assert ask(store, "--k", "1", "--out", str(tmp_path / "file")) == 1
    assert "check --out" in failure(capsys)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_findings_are_printed_where_writing_fails(
    store: Store, planted: Path, tmp_path: Path, capsys: Capture, form: tuple[str, ...],
) -> None:  # fmt: skip
    out = tmp_path / "found"
    (out / "planted-28-hog.json").mkdir(parents=True)
    assert ask(store, "--out", str(out), *form) == 1
    text, err = capsys.readouterr()
    assert "planted/train/6" in text
    assert err.startswith(f"failed: hog planted 28 px: cannot use {out}: ")
    assert err.endswith("error: 1 of 1 cells failed\n")


def test_a_write_that_fails_leaves_the_earlier_files(
    store: Store, planted: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "found"
    arguments = ("--dataset", str(planted), "--out", str(out))
    assert ask(store, *arguments) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert ask(store, *arguments, "--show", "1") == 1
    text, err = capsys.readouterr()
    assert text.startswith("hog planted 28 px\n")
    assert "no room to write" in err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_sheet_that_fails_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((8, 8, 1), np.uint8)
    path = tmp_path / "sheet.png"
    draw_sheet([[Picture(pixels, "a", "train/0", True)]], 1, ["one"], path)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no room"):
        draw_sheet([[Picture(pixels, "b", "train/1", True)]], 1, ["two"], path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_sheet_of_an_earlier_run_does_not_stay(
    store: Store, planted: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "found"
    arguments = ("--dataset", str(planted), "--out", str(out))
    assert ask(store, *arguments) == 0
    assert len(list(out.glob("*.png"))) == 2
    (out / "other-28-hog-duplicates.png").touch()
    assert ask(store, *arguments, "--k", "60") == 0  # no label is contradicted by so many
    assert {path.name for path in out.glob("*.png")} == {
        "other-28-hog-duplicates.png", "planted-28-hog-duplicates.png",
    }  # fmt: skip
    assert ask(store, "--out", str(out)) == 0  # without images
    assert [path.name for path in out.glob("*.png")] == ["other-28-hog-duplicates.png"]
    assert len(list(out.glob("planted*"))) == 3


def test_through_the_door(store: Store, make_cell: CellMaker, capsys: Capture) -> None:
    make_cell([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 2]], [0])
    assert casebook.main(["audit", "--k", "1", "--store", str(store.root)]) == 0
    assert capsys.readouterr().out.startswith("hog toy 28 px\n")


def test_the_real_pneumoniamnist(real_data: Path, store: Store, capsys: Capture) -> None:
    assert embed.main(
        ["--dataset", "pneumoniamnist", "--store", str(store.root), "--data", str(real_data)]
    ) == 0  # fmt: skip
    capsys.readouterr()
    found = answer(store, capsys, "--data", str(real_data))
    kinds = [(d["case"].split("/")[1], d["twin"].split("/")[1], d["kind"])
             for d in found["duplicates"]]  # fmt: skip
    assert {kind: kinds.count(kind) for kind in kinds} == {
        ("train", "train", "identical image"): 18, ("val", "train", "identical image"): 8,
        ("test", "test", "identical image"): 3,
    }  # fmt: skip
    assert all(pair["same_label"] for pair in found["duplicates"])
    with np.load(real_data / "pneumoniamnist.npz") as arrays:
        images = arrays["train_images"].reshape(4708, -1)
        assert 4708 - len(np.unique(images, axis=0)) == 18
    assert [split["equitability"] for split in found["splits"]] == pytest.approx(
        [0.8235, 0.8231, 0.9544], abs=1e-4
    )
