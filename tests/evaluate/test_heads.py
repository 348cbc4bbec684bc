"""Heads that are kept in the store."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.metrics import log_loss

from embedder.errors import EvaluationError, FingerprintError, StoreError, StoreFullError
from embedder.fingerprint import Fingerprint
from embedder.store import Cell, Store
from embedder.types import Split, Task
from evaluate.logistic import NEVER
from index import heads
from index.heads import Head, Provenance, scores
from tests.evaluate.conftest import CellMaker

CLASSES = ("ant", "bee", "cat")
TRAIN = ([[1, 0], [0, 1], [-1, 0]], [0, 1, 2])
TEST = ([[2, 0.1], [0.1, 3]], [0, 1])


@pytest.fixture
def cell(make_cell: CellMaker) -> Cell:
    return make_cell(*TRAIN, *TEST)


def head_of(cell: Cell, **changes: Any) -> Head:
    weight = np.array([[1, 0.5], [0, 0.1], [-1, 0.25]], np.float32)
    return Head(weight, np.array([0, 1, -1], np.float32), provenance_of(cell, **changes))


def provenance_of(cell: Cell, **changes: Any) -> Provenance:
    facts = {
        "dataset": cell.dataset.name,
        "variant": cell.header.variant,
        "task": cell.dataset.task,
        "classes": cell.dataset.classes,
        "fingerprint": cell.header.fingerprint,
        "counts": {"train": 3, "val": 2, "erased": 0},
        "solver": "adamw",
        "protocol": {"batch": 64, "seeds": [5, 6]},
        "seed": 5,
        "chosen": {"learning_rate": 1e-4, "weight_decay": 0.01, "best_epoch": 7, "loss": 0.25},
        "versions": {"numpy": "2"},
    }
    return Provenance(**(facts | changes))  # type: ignore[arg-type]


def test_a_head_comes_back_as_it_was(cell: Cell, store: Store) -> None:
    head = head_of(cell)
    place = heads.write(store.root, head)
    found = heads.read(place, cell)
    np.testing.assert_array_equal(found.weight, head.weight)
    np.testing.assert_array_equal(found.bias, head.bias)
    assert found.provenance == head.provenance
    assert found.weight.dtype == found.bias.dtype == np.float32


def test_where_it_lies(cell: Cell, store: Store) -> None:
    digest = hashlib.sha256(b'{"batch": 64, "seeds": [5, 6]}').hexdigest()[:12]
    place = heads.write(store.root, head_of(cell))
    folder = store.root / "heads" / "toy" / "28" / "hog"
    assert place == folder / f"adamw-{digest}-5.safetensors"
    assert list(folder.iterdir()) == [place]  # nothing else is left there
    assert heads.write(store.root, head_of(cell)) == place
    other = heads.write(store.root, head_of(cell, seed=6))
    third = heads.write(store.root, head_of(cell, seed=None, solver="lbfgs", protocol={"cs": [1]}))
    digest = hashlib.sha256(b'{"cs": [1]}').hexdigest()[:12]
    assert third.name == f"lbfgs-{digest}.safetensors"
    assert heads.paths(store.root, "toy", 28, "hog") == [place, other, third]
    assert heads.paths(store.root, "toy", 64, "hog") == []
    assert list(store.paths()) == [cell.path]  # heads are not taken for cells


def test_the_file_is_what_the_document_says(cell: Cell, store: Store) -> None:
    """Read byte by byte: a length, a JSON header, and the arrays."""
    head = head_of(cell)
    data = heads.write(store.root, head).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header.pop("__metadata__")["casebook"])
    assert (facts.pop("format"), facts.pop("schema")) == ("casebook-head", 1)
    assert facts == {
        "dataset": "toy", "variant": "hog", "task": "multi-class", "classes": list(CLASSES),
        "fingerprint": json.loads(cell.header.fingerprint.to_json()),
        "counts": {"train": 3, "val": 2, "erased": 0}, "solver": "adamw",
        "protocol": {"batch": 64, "seeds": [5, 6]}, "seed": 5,
        "chosen": {"learning_rate": 1e-4, "weight_decay": 0.01, "best_epoch": 7, "loss": 0.25},
        "versions": {"numpy": "2"},
    }  # fmt: skip
    assert {name: (a["dtype"], a["shape"]) for name, a in header.items()} == {
        "weight": ("F32", [3, 2]), "bias": ("F32", [3]),
    }  # fmt: skip
    for name, expected in (("weight", head.weight), ("bias", head.bias)):
        first, last = header[name]["data_offsets"]
        stored = np.frombuffer(data[8 + length + first : 8 + length + last], "<f4")
        np.testing.assert_array_equal(stored, expected.ravel())


def test_the_same_head_gives_the_same_bytes(cell: Cell, tmp_path: Path) -> None:
    head = head_of(cell)
    across = Head(np.asfortranarray(head.weight), head.bias, head.provenance)
    paths = [heads.write(tmp_path / str(n), head) for n in range(5)]
    assert len({path.read_bytes() for path in paths}) == 1
    assert heads.write(tmp_path / "t", across).read_bytes() == paths[0].read_bytes()


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(Task)), st.floats(0, 100))
def test_scores_are_softmax_or_sigmoid_in_float64(seed: int, task: Task, size: float) -> None:
    rng = np.random.default_rng(seed)
    weight = (size * rng.standard_normal((3, 5))).astype(np.float32)
    bias = rng.standard_normal(3).astype(np.float32)
    vectors = rng.standard_normal((7, 5)).astype(np.float32)
    logits = np.einsum("cd,nd->nc", weight.astype(np.float64), vectors.astype(np.float64)) + bias
    expected = expit(logits) if task is Task.MULTILABEL else softmax(logits, axis=1)
    found = scores(weight, bias, task, vectors)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-300)


def test_scores_by_hand() -> None:
    weight, bias = np.array([[0.0], [1.0]], np.float32), np.array([0, np.log(3)], np.float32)
    vectors = np.array([[0], [1e9], [-1e9]], np.float32)
    found = scores(weight, bias, Task.BINARY, vectors)
    np.testing.assert_allclose(found, [[0.25, 0.75], [0, 1], [1, 0]], rtol=0, atol=1e-7)
    found = scores(weight, bias, Task.MULTILABEL, vectors)
    np.testing.assert_allclose(found, [[0.5, 0.75], [0.5, 1], [0.5, 0]], rtol=0, atol=1e-7)


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(Task)), st.floats(0, 100))
def test_the_loss_is_that_of_scikit_learn(seed: int, task: Task, size: float) -> None:
    rng = np.random.default_rng(seed)
    weight = (size * rng.standard_normal((3, 2))).astype(np.float32)
    head = Head(weight, rng.standard_normal(3).astype(np.float32), plain_provenance(task))
    vectors = rng.standard_normal((7, 2)).astype(np.float32)
    logits = vectors.astype(np.float64) @ weight.T.astype(np.float64) + head.bias
    if task is Task.MULTILABEL:
        labels = rng.integers(0, 2, (7, 3), np.uint8)
        expected = -log_expit(np.where(labels == 1, logits, -logits)).mean()
    else:
        labels = rng.integers(0, 3, (7, 1), np.uint8)
        expected = -np.take_along_axis(log_softmax(logits, axis=1), labels, axis=1).mean()
        shares = softmax(logits, axis=1)
        if shares.min() > 1e-12:
            known = log_loss(labels[:, 0], shares, labels=[0, 1, 2])
            assert expected == pytest.approx(known, rel=1e-6)
    assert head.loss(vectors, labels) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_loss_by_hand() -> None:
    bias = np.array([0, np.log(3), NEVER], np.float32)
    head = Head(np.zeros((3, 2), np.float32), bias, plain_provenance(Task.MULTICLASS))
    vectors = np.zeros((2, 2), np.float32)
    found = head.loss(vectors, np.array([[0], [1]], np.uint8))
    assert found == pytest.approx((np.log(4) + np.log(4 / 3)) / 2)
    assert head.loss(vectors, np.array([[0], [2]], np.uint8)) == math.inf
    assert head.loss(vectors[:0], np.zeros((0, 1), np.uint8)) == math.inf
    with pytest.raises(EvaluationError, match="the head needs width 2"):
        head.loss(np.zeros((1, 3), np.float32), np.zeros((1, 1), np.uint8))


def test_the_loss_where_a_label_never_was_and_another_always() -> None:
    bias = np.array([0, NEVER, -NEVER], np.float32)
    head = Head(np.zeros((3, 2), np.float32), bias, plain_provenance(Task.MULTILABEL))
    vectors = np.zeros((2, 2), np.float32)
    found = head.loss(vectors, np.array([[0, 0, 1], [1, 0, 1]], np.uint8))
    assert found == pytest.approx(np.log(2) / 3)
    for labels in ([[0, 0, 1], [0, 1, 1]], [[0, 0, 0], [0, 0, 1]]):
        assert head.loss(vectors, np.array(labels, np.uint8)) == math.inf


def test_the_loss_of_more_rows_than_are_taken_together(cell: Cell) -> None:
    head = head_of(cell)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((9000, 2)).astype(np.float32)
    labels = rng.integers(0, 3, (9000, 1), np.uint8)
    expected = -np.log(np.take_along_axis(head.scores(vectors), labels, axis=1)).mean()
    assert head.loss(vectors, labels) == pytest.approx(expected, rel=1e-12)


def plain_provenance(task: Task) -> Provenance:
    fingerprint = Fingerprint(
        "toy", "crc:1", 28, "hog", "scikit-image:hog", "none", "hog", "none", 2, "fp32", "float32"
    )
    return Provenance(
        "toy", "hog", task, CLASSES, fingerprint, {"train": 3, "val": 2, "erased": 0}, "lbfgs",
        {"cs": [1.0]}, None, {}, {},
    )  # fmt: skip


def test_scores_of_many_rows_and_of_none(cell: Cell) -> None:
    head = head_of(cell)
    vectors = np.random.default_rng(0).standard_normal((9000, 2)).astype(np.float32)
    found = head.scores(vectors)
    np.testing.assert_allclose(found[8999:], head.scores(vectors[8999:]), rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert head.scores(vectors[:0]).shape == (0, 3)
    half = vectors.astype(np.float16)
    np.testing.assert_array_equal(head.scores(half), head.scores(half.astype(np.float32)))  # type: ignore[arg-type]


def test_scores_refuse_what_has_none(cell: Cell) -> None:
    head = head_of(cell)
    with pytest.raises(EvaluationError, match=r"shape \(1, 3\); the head needs width 2"):
        head.scores(np.zeros((1, 3), np.float32))
    with pytest.raises(EvaluationError, match="row 1 no finite score"):
        head.scores(np.array([[0, 0], [0, np.nan], [0, np.inf]], np.float32))


@pytest.mark.parametrize(
    ("weight", "bias", "words"),
    [
        (np.zeros((3, 3), np.float32), np.zeros(3, np.float32), r"weight is float32 \(3, 3\)"),
        (np.zeros((2, 2), np.float32), np.zeros(2, np.float32), r"weight is float32 \(2, 2\)"),
        (np.zeros((3, 2)), np.zeros(3, np.float32), "weight is float64"),
        (np.zeros((3, 2), np.float32), np.zeros((3, 1), np.float32), r"bias is float32 \(3, 1\)"),
        (np.full((3, 2), np.inf, np.float32), np.zeros(3, np.float32), "weight has a value"),
        (np.zeros((3, 2), np.float32), np.full(3, np.nan, np.float32), "bias has a value"),
    ],
)
def test_arrays_that_are_no_head(
    cell: Cell, store: Store, weight: Any, bias: Any, words: str
) -> None:
    known = head_of(cell)
    with pytest.raises(ValueError, match=words):
        Head(weight, bias, known.provenance)
    place = heads.write(store.root, known)
    save_file({"weight": weight, "bias": bias}, place, {"casebook": known.provenance.to_json()})
    with pytest.raises(StoreError, match=words) as caught:
        heads.read(place)
    assert str(caught.value).startswith(f"{place} is no head")
    assert "\n" not in str(caught.value)


def changed(**facts: Any) -> Callable[[dict[str, Any]], str]:
    return lambda known: json.dumps(known | facts)


def without(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda known: json.dumps({key: known[key] for key in known if key != name})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(format="casebook-cell"), "it is casebook-cell of schema 1"),
        (changed(schema=2), "of schema 2, not casebook-head of 1"),
        (without("schema"), "unreadable provenance"),
        (without("seed"), "its provenance has the fields"),
        (changed(colour="red"), "its provenance has the fields"),
        (changed(task="guess"), "'guess' is not a valid Task"),
        (changed(classes=["ant"]), "1 classes are too few"),
        (changed(classes=[]), "0 classes are too few"),
        (changed(classes=[1, 2, 3]), "no string"),
        (changed(classes=None), "its classes are a NoneType, no list"),
        (changed(dataset="other"), "by the fingerprint another"),
        (changed(seed="5"), "seed is '5'"),
        (changed(counts={"train": 3, "val": 2}), "its counts have None for erased"),
        (changed(counts={"train": "3", "val": 2, "erased": 0}), "its counts have '3' for train"),
        (changed(counts={"train": 3, "val": -1, "erased": 0}), "its counts have -1 for val"),
        (changed(classes="abc"), "its classes are a str, no list"),
        (changed(protocol=[]), "stands where an object should"),
        (changed(protocol={}), "its protocol is empty"),
        (lambda known: "[" * 100_000 + "]" * 100_000, "unreadable provenance"),
        (
            lambda known: changed(chosen=7)(known).replace(
                '"chosen": 7', f'"chosen": {"[" * 100_000}{"]" * 100_000}'
            ),
            "unreadable provenance",
        ),
        (changed(versions=[]), "unreadable provenance"),
        (changed(fingerprint={"dataset": "toy"}), "unreadable fingerprint"),
        (lambda known: "[]", "unreadable provenance"),
        (lambda known: "{", "Expecting property name"),
    ],
)
def test_provenance_that_is_none(
    cell: Cell, store: Store, change: Callable[[dict[str, Any]], str], words: str
) -> None:
    place = heads.write(store.root, head_of(cell))
    facts = json.loads(head_of(cell).provenance.to_json())
    save_file(load_file(place), place, {"casebook": change(facts)})
    with pytest.raises(StoreError, match="is no head") as caught:
        heads.read(place)
    assert words in str(caught.value)


def test_files_that_are_no_heads(cell: Cell, store: Store) -> None:
    head = head_of(cell)
    place = heads.write(store.root, head)
    data = place.read_bytes()
    arrays = load_file(place)
    facts = {"casebook": head.provenance.to_json()}
    save_file(arrays, place)
    with pytest.raises(StoreError, match="does not say that it is a casebook head"):
        heads.read(place)
    for missing in arrays:
        save_file({name: a for name, a in arrays.items() if name != missing}, place, facts)
        with pytest.raises(StoreError, match="not weight and bias"):
            heads.read(place)
    save_file(arrays | {"extra": arrays["bias"]}, place, facts)
    with pytest.raises(StoreError, match="it holds bias, extra, weight"):
        heads.read(place)
    for part in (b"", data[:5], data[:-1], b"\xff" * 100):
        place.write_bytes(part)
        with pytest.raises(StoreError, match="is no head"):
            heads.read(place)
    place.unlink()
    with pytest.raises(StoreError, match=r"no head at .*; train it first"):
        heads.read(place)
    place.mkdir()
    with pytest.raises(StoreError, match="is no head"):
        heads.read(place)


def test_a_head_of_another_cell_is_refused(cell: Cell, make_cell: CellMaker) -> None:
    root = cell.path.parents[2]
    place = heads.write(root, head_of(cell))
    with pytest.raises(FingerprintError, match="dataset checksum is crc:1, asked is crc:2"):
        heads.read(place, make_cell(*TRAIN, *TEST, checksum="crc:2"))
    with pytest.raises(FingerprintError, match="size is 28, asked is 64"):
        heads.read(place, make_cell(*TRAIN, *TEST, size=64))
    with pytest.raises(FingerprintError, match="classes are ant, bee, cat, asked are a, b, c"):
        heads.read(place, make_cell(*TRAIN, *TEST, classes=("a", "b", "c")))
    with pytest.raises(FingerprintError, match="task is multi-class, asked is ordinal"):
        heads.read(place, make_cell(*TRAIN, *TEST, task=Task.ORDINAL))
    with pytest.raises(FingerprintError, match="variant is hog, asked is hog-b"):
        heads.read(place, make_cell(*TRAIN, *TEST, variant="hog-b"))


def test_a_write_that_fails_leaves_the_old_head(
    cell: Cell, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = head_of(cell)
    place = heads.write(store.root, head)
    before = place.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFullError, match="no room to write"):
        heads.write(store.root, replace_weight(head))
    assert place.read_bytes() == before
    assert list(place.parent.iterdir()) == [place]
    monkeypatch.undo()
    heads.write(store.root, replace_weight(head))
    assert place.read_bytes() != before
    assert list(place.parent.iterdir()) == [place]


def test_the_same_head_from_several_at_once(cell: Cell, store: Store) -> None:
    head = head_of(cell)
    place = heads.write(store.root, head)
    data = place.read_bytes()
    with ThreadPoolExecutor(8) as pool:
        written = [pool.submit(heads.write, store.root, head) for _ in range(80)]
        while not all(one.done() for one in written):
            assert place.read_bytes() == data
        assert {one.result() for one in written} == {place}
    assert list(place.parent.iterdir()) == [place]


def test_others_may_read_a_head(cell: Cell, store: Store) -> None:
    place = heads.write(store.root, head_of(cell))
    plain = place.with_name("plain")
    plain.touch()
    assert place.stat().st_mode == plain.stat().st_mode


def test_what_is_asked_before_training(cell: Cell, store: Store) -> None:
    heads.prepare(store.root, "toy", 28, "hog")
    folder = store.root / "heads" / "toy" / "28" / "hog"
    assert list(folder.iterdir()) == []
    heads.write(store.root, head_of(cell))
    heads.prepare(store.root, "toy", 28, "hog")
    assert heads.paths(store.root, "toy", 28, "hog") == list(folder.iterdir())
    with pytest.raises(StoreError, match=r"cannot use .*; check --store"):
        heads.prepare(cell.path, "toy", 28, "hog")


def test_a_head_from_when_the_chosen_c_was_called_cs(cell: Cell, store: Store) -> None:
    chosen = {"cs": [0.1], "losses": [[0.5, 0.4]], "notes": []}
    place = heads.write(store.root, head_of(cell, chosen=chosen))
    assert heads.read(place, cell).provenance.chosen == chosen


def replace_weight(head: Head) -> Head:
    return Head(head.weight * 2, head.bias, head.provenance)


def test_a_folder_that_cannot_be_written(cell: Cell, store: Store) -> None:
    (store.root / "heads").write_text("a file is in the way")
    with pytest.raises(StoreError, match=r"cannot use .*; check --store"):
        heads.write(store.root, head_of(cell))


def test_numbers_that_are_none_are_not_written(cell: Cell, store: Store) -> None:
    head = head_of(cell, chosen={"loss": float("nan")})
    with pytest.raises(ValueError, match="Out of range float"):
        heads.write(store.root, head)


def test_multi_label_heads(make_cell: CellMaker, store: Store) -> None:
    one = make_cell([[1, 0]], [[1]], [[0, 1]], [[0]], task=Task.MULTILABEL, classes=("mass",))
    known = provenance_of(one)
    head = Head(np.ones((1, 2), np.float32), np.zeros(1, np.float32), known)
    found = heads.read(heads.write(store.root, head), one)
    assert found.scores(one.embeddings(Split.TEST)).item() == pytest.approx(expit(1))
    with pytest.raises(ValueError, match="too few"):
        replace(known, classes=())


def test_reading_needs_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, index.heads; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
