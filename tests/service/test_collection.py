from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedder.datasets import Dataset
from embedder.errors import UsageError
from embedder.store import Cell
from embedder.types import Distance, Split, Task
from index.build import Kind
from index.reference import ReferenceIndex
from index.search import SupportSet
from service.cases import CaseId
from service.collection import Collection
from service.errors import BadRequestError, NotFoundError
from service.overlay import Overlay, overlay_path
from service.served import fingerprint_of
from tests.embedder.cells import store_cell

TOY = Dataset("toy", Task.MULTICLASS, 1, (30, 4, 6), ("a", "b", "c"), "CC0")
WIDTH = 5


@pytest.fixture
def cells(tmp_path: Path) -> dict[str, Cell]:
    """Two cells of one dataset, as two backbones give them."""
    made = [store_cell(tmp_path, TOY, WIDTH, seed, backbone=f"fake{seed}") for seed in (1, 2)]
    return {fingerprint_of(cell): cell for cell in made}


@pytest.fixture
def toy(tmp_path: Path, cells: dict[str, Cell]) -> Iterator[Collection]:
    collection = open_toy(tmp_path, cells)
    yield collection
    collection.close()


def open_toy(tmp_path: Path, cells: dict[str, Cell]) -> Collection:
    return Collection(TOY, Overlay(overlay_path(tmp_path, "toy"), TOY), cells, Kind.CPU)


def add(toy: Collection, label: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    vectors = {name: rng.standard_normal(WIDTH).astype(np.float32) for name in toy.state.views}
    return toy.add(np.array([label], np.uint8), {28: b"png"}, vectors)[0]


def nearest(toy: Collection, fingerprint: str, query: list[float], k: int) -> list[str]:
    found = toy.state.views[fingerprint].index.search(np.array([query], np.float32), k)
    return [str(CaseId("toy", *toy.place_of(int(row)))) for row in found.rows[0]]


def test_added_and_erased_at_once_in_every_index(toy: Collection, cells: dict[str, Cell]) -> None:
    vector = [1.0, 2, 3, 4, 5]
    vectors = {name: np.array(vector, np.float32) for name in cells}
    name, version = toy.add(np.array([2], np.uint8), {28: b"png"}, vectors)
    assert (name, version) == ("toy/added/1", 1)
    for fingerprint in cells:
        assert nearest(toy, fingerprint, vector, 1) == ["toy/added/1"]
    assert toy.labels_of(None, 1).tolist() == [2]
    assert toy.state.labels[TOY.counts[0] + 1].tolist() == [2]
    assert toy.erase(None, 1) == 2
    for fingerprint in cells:
        assert nearest(toy, fingerprint, vector, 1) != ["toy/added/1"]
    with pytest.raises(NotFoundError, match="no case toy/added/1"):
        toy.erase(None, 1)
    assert add(toy, 0, 3) == "toy/added/2"


def test_a_stored_case_is_gone_once_it_is_erased(toy: Collection, cells: dict[str, Cell]) -> None:
    fingerprint, cell = next(iter(cells.items()))
    query = cell.embeddings(Split.TRAIN)[7].tolist()
    assert nearest(toy, fingerprint, query, 1) == ["toy/train/7"]
    before = toy.state
    assert toy.erase(Split.TRAIN, 7) == 1
    assert nearest(toy, fingerprint, query, 1) != ["toy/train/7"]
    assert before.views[fingerprint].index.search(np.array([query], np.float32), 1).rows == [[7]]
    for call in (toy.labels_of, toy.erase):
        with pytest.raises(NotFoundError, match="no case toy/train/7"):
            call(Split.TRAIN, 7)
    with pytest.raises(NotFoundError):
        toy.vector(fingerprint, Split.TRAIN, 7)


def test_a_query_of_another_split_can_be_erased_too(toy: Collection) -> None:
    assert toy.labels_of(Split.TEST, 2) is not None
    toy.erase(Split.TEST, 2)
    with pytest.raises(NotFoundError):
        toy.labels_of(Split.TEST, 2)
    assert sorted(toy.sample(Split.TEST, 100, 0)) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(("split", "row"), [(Split.TRAIN, 30), (Split.VAL, -1), (None, 0)])
def test_cases_that_never_were(toy: Collection, split: Split | None, row: int) -> None:
    with pytest.raises(NotFoundError):
        toy.labels_of(split, row)


def test_vectors_of_cases(toy: Collection, cells: dict[str, Cell]) -> None:
    fingerprint, cell = next(iter(cells.items()))
    vector, own = toy.vector(fingerprint, Split.TRAIN, 3)
    assert (vector.tolist(), own) == (cell.embeddings(Split.TRAIN)[3].tolist(), 3)
    vector, own = toy.vector(fingerprint, Split.TEST, 3)
    assert (vector.tolist(), own) == (cell.embeddings(Split.TEST)[3].tolist(), None)
    add(toy, 1, 0)
    vector, own = toy.vector(fingerprint, None, 1)
    assert own == 31
    assert vector.tolist() == toy.state.views[fingerprint].added[1].tolist()


def test_a_sample_is_repeatable(toy: Collection) -> None:
    assert toy.sample(Split.TRAIN, 5, 1) == toy.sample(Split.TRAIN, 5, 1)
    assert toy.sample(Split.TRAIN, 5, 1) != toy.sample(Split.TRAIN, 5, 2)
    assert len(set(toy.sample(Split.TRAIN, 50, 1))) == 30
    assert toy.sample(None, 5, 1) == []
    add(toy, 1, 0)
    assert toy.sample(None, 5, 1) == [1]


def test_a_zero_vector_is_refused_and_changes_nothing(
    toy: Collection, cells: dict[str, Cell]
) -> None:
    vectors = {name: np.zeros(WIDTH, np.float32) for name in cells}
    with pytest.raises(BadRequestError, match="the embedding is zero"):
        toy.add(np.array([0], np.uint8), {28: b"png"}, vectors)
    assert toy.state.version == 0
    assert add(toy, 1, 0) == "toy/added/1"


def test_the_last_case_cannot_be_erased(tmp_path: Path) -> None:
    single = Dataset("toy", Task.MULTICLASS, 1, (2, 1, 1), ("a", "b"), "CC0")
    cell = store_cell(tmp_path, single, WIDTH, 1)
    overlay = Overlay(overlay_path(tmp_path, "toy"), single)
    toy = Collection(single, overlay, {fingerprint_of(cell): cell}, Kind.CPU)
    toy.erase(Split.TRAIN, 0)
    with pytest.raises(UsageError, match="the last training case cannot be erased"):
        toy.erase(Split.TRAIN, 1)
    toy.erase(Split.TEST, 0)
    toy.close()


@pytest.mark.parametrize("seed", range(4))
def test_any_changes_equal_a_state_loaded_anew(
    tmp_path: Path, cells: dict[str, Cell], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    toy = open_toy(tmp_path, cells)
    alive = [(Split.TRAIN, row) for row in range(30)]
    late: list[tuple[None, int]] = []
    for step in range(50):
        if rng.random() < 0.5 or len(alive) + len(late) < 5:
            name = add(toy, int(rng.integers(3)), 1000 * seed + step)
            late.append((None, int(name.rpartition("/")[2])))
        else:
            pool = late if late and rng.random() < 0.5 else alive
            toy.erase(*pool.pop(int(rng.integers(len(pool)))))
        assert toy.state.version == step + 1
    changed = toy.state
    toy.close()
    toy = open_toy(tmp_path, cells)
    assert changed.version == toy.state.version == 50
    assert changed.erased == toy.state.erased
    assert changed.labels.tolist() == toy.state.labels.tolist()
    rows = np.array(sorted([row for _, row in alive] + [30 + number for _, number in late]))
    for fingerprint, cell in cells.items():
        one, two = changed.views[fingerprint], toy.state.views[fingerprint]
        assert one.familiarity is not None
        assert two.familiarity is not None
        assert one.familiarity.rows.tolist() == two.familiarity.rows.tolist() == rows.tolist()
        assert one.familiarity.nearest.rows.tolist() == two.familiarity.nearest.rows.tolist()
        points = np.array(
            [
                cell.embeddings(Split.TRAIN)[row] if row < 30 else two.added[int(row) - 30]
                for row in rows
            ]
        )
        queries = cell.embeddings(Split.TEST)
        support = SupportSet.of(points, Distance.COSINE, "anew")
        expected = ReferenceIndex(support).search(queries, 5)
        for view in (one, two):
            found = view.index.search(queries, 5)
            assert found.rows.tolist() == rows[expected.rows].tolist()
            assert found.similarities.tolist() == expected.similarities.tolist()
    toy.close()
