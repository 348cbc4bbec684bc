from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from embedder.datasets import Dataset
from embedder.fingerprint import Fingerprint
from embedder.store import Cell, Header, Store, read_cell
from embedder.types import Split, Task
from embedder.writer import CellWriter
from evaluate.metrics import Metrics
from evaluate.results import Record

CellMaker = Callable[..., Cell]
"""``make_cell(train, labels, test, truths, name=..., ...)`` with ``write_cell``'s options."""


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error, with nothing on standard output."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def make_cell(store: Store) -> CellMaker:
    return lambda *arrays, **facts: write_cell(store, *arrays, **facts)


def write_cell(
    store: Store,
    train: ArrayLike,
    labels: ArrayLike,
    test: ArrayLike,
    truths: ArrayLike,
    *,
    name: str = "toy",
    task: Task = Task.MULTICLASS,
    classes: tuple[str, ...] = ("ant", "bee", "cat"),
    size: int = 28,
    backbone: str = "hog",
    variant: str = "",
    checkpoint: str = "scikit-image:hog",
    storage: str = "float32",
    checksum: str = "crc:1",
    val: tuple[ArrayLike, ArrayLike] | None = None,
) -> Cell:
    """A complete cell; labels are (N,) or (N, L). ``val``, vectors and labels, is test if None."""
    width = np.asarray(train).shape[1]
    vectors = {split: np.asarray(test, np.float32) for split in Split}
    columns = {split: np.asarray(truths, np.uint8) for split in Split}
    given = {Split.TRAIN: (train, labels), **({} if val is None else {Split.VAL: val})}
    for split, (rows, known) in given.items():
        vectors[split], columns[split] = np.asarray(rows, np.float32), np.asarray(known, np.uint8)
    columns = {split: found.reshape(len(found), -1) for split, found in columns.items()}
    counts = (len(vectors[Split.TRAIN]), len(vectors[Split.VAL]), len(vectors[Split.TEST]))
    dataset = Dataset(name, task, 1, counts, classes, "CC0")
    fingerprint = Fingerprint(
        name, checksum, size, backbone, checkpoint, "none", "pooled", "none", width, "fp32", storage
    )
    variant = variant or backbone
    header = Header(dataset, variant, fingerprint, {"torch": "9.9", "numpy": "8.8"})
    path = store.path(name, size, variant)
    with CellWriter(path, header, columns) as writer:
        for split in Split:
            writer.append(split, 0, vectors[split])
        writer.finish()
    return read_cell(path)


RecordMaker = Callable[..., Record]


@pytest.fixture
def make_record() -> RecordMaker:
    return write_record


def write_record(
    *,
    dataset: str = "toy",
    variant: str = "hog",
    size: int = 28,
    k: int = 11,
    accuracy: float = 0.5,
    auc: float | None = None,
    notes: tuple[str, ...] = (),
    checkpoint: str = "scikit-image:hog",
    split: str = "test",
    created: str = "2026-01-01T00:00:00.000000+00:00",
    counts: dict[str, int] | None = None,
    **protocol: object,
) -> Record:
    how = {
        "k": k, "distance": "cosine", "vote": "majority", "temperature": None, "support": "train",
        "leave_one_out": split == "train", "tie": "lowest class", "index": "faiss",
    }  # fmt: skip
    return Record(
        "knn", created, dataset, "multi-class", size, variant, split, how | protocol,
        Metrics(accuracy, 0.25, -0.125, 0.75, auc, notes),
        counts or {"support": 100, "queries": 2000, "classes": 3, "erased": 0},
        {"checkpoint": checkpoint},
        {"search": 0.5, "vote": 0.25}, {"numpy": "2"}, {"torch": "9.9"},
    )  # fmt: skip
