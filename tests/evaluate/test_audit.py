from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import entropy, weibull_min

from embedder.erase import erase
from embedder.errors import SearchError
from embedder.store import Cell, Store
from embedder.types import Split, Task
from evaluate.audit import COMPARED, Audit, audit, choose_near, equitability
from index.build import Kind
from tests.evaluate.conftest import CellMaker, write_cell

TRAIN, VAL, TEST = Split


def run(cell: Cell, k: int = 3, near: float | None = None) -> Audit:
    return audit(cell, k, near, Kind.REFERENCE, None)


def pairs(found: Audit) -> list[tuple[str, str, str]]:
    return sorted(
        (f"{d.split}/{d.row}", f"{d.twin_split}/{d.twin_row}", d.kind) for d in found.duplicates
    )


# Equitability.


def test_equitability_of_the_whole_pneumoniamnist() -> None:
    p = np.array([1214, 3494]) / 4708
    assert equitability([1214, 3494]) == pytest.approx(-np.sum(p * np.log(p)) / np.log(2))
    assert equitability([1214, 3494]) == pytest.approx(0.8235, abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5], 1), ([7, 0, 0], 0), ([2, 2, 0, 0], 0.5), ([3], None), ([0, 0], None)],
)
def test_equitability_of_few(counts: list[int], expected: float | None) -> None:
    assert equitability(counts) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(any))
def test_equitability_is_that_of_scipy(counts: list[int]) -> None:
    found = equitability(counts)
    assert found == pytest.approx(entropy(counts) / np.log(len(counts)), abs=1e-12)
    assert found is not None
    assert 0 <= found <= 1 + 1e-12
    assert found == pytest.approx(equitability(counts[::-1]))


# The threshold.


@pytest.mark.parametrize(("shape", "scale"), [(2.0, 0.1), (8.0, 0.01), (1.0, 0.3)])
def test_the_threshold_is_the_quantile_of_a_weibull_distribution(
    shape: float, scale: float
) -> None:
    count = 2000
    distances = weibull_min.ppf((np.arange(count) + 0.5) / count, shape, scale=scale)
    found = choose_near((1 - distances).astype(np.float32))
    assert found is not None
    assert 1 - found == pytest.approx(weibull_min.ppf(1 / count, shape, scale=scale), rel=0.01)


def test_duplicates_do_not_move_the_threshold() -> None:
    similarities = np.linspace(0.5, 0.9, 101, dtype=np.float32)
    ones = np.ones(50, np.float32)
    found = choose_near(similarities)
    assert choose_near(np.concatenate([similarities, ones])) == found
    assert found is not None
    assert 0.9 < found < 1


def test_no_threshold_without_a_distribution() -> None:
    assert choose_near(np.linspace(0.5, 0.9, 19, dtype=np.float32)) is None
    assert choose_near(np.full(100, 0.5, np.float32)) is None
    assert choose_near(np.ones(100, np.float32)) is None


# Duplicates.


def test_duplicates_across_and_within_splits(make_cell: CellMaker) -> None:
    train = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0.01], [1, 1, 1], [1, 0, 0]]
    test = [[0, 0, 1], [0, 2, 0], [1, 0, 1]]
    found = run(make_cell(train, [0, 1, 2, 0, 1, 0, 1], test, [2, 1, 0]), near=0.999)
    both = [(f"{{}}/{row}", f"train/{twin}", kind) for row, twin, kind in (
        (0, 2, "identical embedding"), (1, 1, "near"))]  # fmt: skip
    within = [("train/3", "train/0"), ("train/6", "train/0")]
    same = [(f"test/{row}", f"val/{row}") for row in range(3)]
    assert pairs(found) == sorted(
        [
            *((case.format(split), twin, kind) for split in ("val", "test")
              for case, twin, kind in both),
            *((*pair, "identical embedding") for pair in (*within, *same)),
            ("train/4", "train/1", "near"),
        ]
    )  # fmt: skip
    labelled = {(d.row, d.same_label) for d in found.duplicates if d.twin_split is d.split}
    assert labelled == {(3, True), (6, False), (4, True)}
    assert found.duplicates[0].same_label is False
    assert all(d.same_pixels is None for d in found.duplicates)
    near = next(d for d in found.duplicates if d.row == 4)
    assert near.similarity == pytest.approx(1 / np.sqrt(1.0001), abs=1e-7)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@given(st.integers(0, 2**32 - 1))
def test_against_plain_loops(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shift = np.array([0.25, 0.5, 0.125])
    train, test = rng.integers(-2, 3, (14, 3)) + shift, rng.integers(-2, 3, (6, 3)) + shift
    labels, truths = rng.integers(0, 3, 14), rng.integers(0, 3, 6)
    store = Store(tmp_path_factory.mktemp("store"))
    found = run(write_cell(store, train, labels, test, truths), k=3, near=0.99)
    vectors = {TRAIN: train, VAL: test, TEST: test}
    names = {TRAIN: labels, VAL: truths, TEST: truths}
    listed = {(d.split, d.row, d.twin_split, d.twin_row) for d in found.duplicates}
    for split, other in COMPARED:
        cosines = unit(vectors[split]) @ unit(vectors[other]).T
        if split is other:
            np.fill_diagonal(cosines, -2)
        involved = {(d[1], d[3]) for d in listed if (d[0], d[2]) == (split, other)}
        assert all(cosines[pair] >= 0.99 for pair in involved)
        twinned = {case for case, _ in involved}
        twinned |= {twin for _, twin in involved} if split is other else set()
        assert twinned == set(np.flatnonzero(cosines.max(axis=1) >= 0.99).tolist())
    for d in found.duplicates:
        same = (vectors[d.split][d.row] == vectors[d.twin_split][d.twin_row]).all()
        assert d.kind == ("identical embedding" if same else "near")
        assert d.same_label == (names[d.split][d.row] == names[d.twin_split][d.twin_row])
    suspected = {(s.split, s.row): s for s in found.suspects}
    for split in Split:
        cosines = unit(vectors[split]) @ unit(train).T
        if split is TRAIN:
            np.fill_diagonal(cosines, -2)
        cosines = cosines.astype(np.float32)
        for row, line in enumerate(cosines):
            nearest = suspected[split, row].neighbours if (split, row) in suspected else ()
            own = names[split][row]
            order = np.sort(line)[::-1]
            alike = line[labels == own].max(initial=-2)
            if nearest:
                assert (labels[list(nearest)] != own).all()
                np.testing.assert_allclose(np.sort(line[list(nearest)])[::-1], order[:3], rtol=1e-6)
            elif alike < order[2] - 1e-6:
                pytest.fail(f"{split}/{row} is contradicted and not listed")


def test_zero_vectors_are_counted_and_identical(make_cell: CellMaker) -> None:
    train = [[1, 0], [0, 1], [0, 0], [1, 1], [2, 1], [0, -0.0]]
    found = run(make_cell(train, [0] * 6, [[0, 0], [1, 3]], [0, 0]), near=1)
    assert [balance.zeros for balance in found.balances] == [2, 1, 1]
    zeros = [d for d in found.duplicates if d.similarity is None]
    assert {(d.split, d.row, d.twin_split, d.twin_row) for d in zeros} == {
        (TRAIN, 5, TRAIN, 2), (VAL, 0, TRAIN, 2), (TEST, 0, TRAIN, 2), (TEST, 0, VAL, 0),
    }  # fmt: skip


def test_erased_rows_are_left_out(make_cell: CellMaker, store: Store) -> None:
    train = [[1, 0], [1, 0], [0, 1], [1, 1], [2, 1], [1, 2]]
    cell = make_cell(train, [0, 0, 1, 0, 0, 1], [[1, 0], [5, 1]], [0, 1])
    assert ("train/1", "train/0", "identical embedding") in pairs(run(cell, 2))
    erase(store, cell.path, {TRAIN: [0]})
    found = run(store.read(cell.path), 2)
    assert not any("train/0" in pair for pair in pairs(found))
    assert ("test/0", "train/1", "identical embedding") in pairs(found)
    balance = found.balances[0]
    assert (balance.cases, balance.erased, balance.counts) == (5, 1, (3, 2, 0))


# Labels.


def clusters(flipped: list[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Three tight clusters of 20, with some labels moved on by one."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(3), 20)
    train = np.eye(3)[labels] + rng.normal(0, 0.02, (60, 3))
    labels[flipped] = (labels[flipped] + 1) % 3
    return train, labels


def test_flipped_labels_are_found_exactly(make_cell: CellMaker) -> None:
    train, labels = clusters([3, 27])
    found = run(make_cell(train, labels, [[0, 0, 1], [0, 1, 0]], [2, 0]), k=11)
    listed = {(s.split, s.row): (s.given, s.suggested) for s in found.suspects}
    assert listed == {
        (TRAIN, 3): ("bee", "ant"), (TRAIN, 27): ("cat", "bee"),
        (TEST, 1): ("ant", "bee"), (VAL, 1): ("ant", "bee"),
    }  # fmt: skip
    for suspect in found.suspects:
        assert suspect.share == 1
        # One in 20 (ant: 0 of 19; bee: 1 of 20; cat: 1 of 21) is contradicted.
        assert suspect.usual == pytest.approx(
            {"ant": 0, "bee": 1 / 20, "cat": 1 / 21}[suspect.given]
        )
        assert suspect.own_similarity is not None
        apart = 1 - (1 - suspect.similarity) / (1 - suspect.own_similarity)
        assert suspect.strength == pytest.approx(apart * (1 - suspect.usual))
        assert suspect.strength > 0.9
    assert [s.strength for s in found.suspects] == sorted(
        (s.strength for s in found.suspects), reverse=True
    )


def test_a_label_that_no_other_case_has_is_no_evidence(make_cell: CellMaker) -> None:
    train, labels = clusters([])
    labels[labels == 2] = 1
    labels[0] = 2
    found = run(make_cell(train, labels, [[1, 0, 0]], [2]), k=5)
    lone = next(s for s in found.suspects if (s.split, s.row) == (TRAIN, 0))
    assert (lone.usual, lone.own_similarity, lone.strength) == (1, None, 0)
    asked = next(s for s in found.suspects if s.split is TEST)
    assert asked.own_similarity is not None
    assert asked.strength == 0


def test_labels_of_a_multilabel_task(make_cell: CellMaker) -> None:
    train = [[1, 0], [1, 0.1], [1, 0.2], [1, 0.3], [0, 1], [0.1, 1], [0.2, 1], [0.3, 1]]
    labels = [[1, 0]] * 3 + [[0, 0]] + [[0, 1]] * 4
    found = run(
        make_cell(train, labels, [[1, 0.05]], [[1, 1]], task=Task.MULTILABEL,
                  classes=("mass", "hernia")), k=3,
    )  # fmt: skip
    listed = {(s.split, s.row, s.label): s for s in found.suspects}
    assert set(listed) == {(TRAIN, 3, "mass"), (VAL, 0, "hernia"), (TEST, 0, "hernia")}
    missed, added = listed[TRAIN, 3, "mass"], listed[TEST, 0, "hernia"]
    assert (missed.given, missed.suggested, missed.usual) == ("no mass", "mass", 1 / 5)
    assert (added.given, added.suggested, added.usual) == ("hernia", "no hernia", 0)
    balance = found.balances[0]
    assert balance.counts == (3, 4)
    p = 3 / 8
    mass = -(p * np.log(p) + (1 - p) * np.log(1 - p)) / np.log(2)
    assert balance.equitabilities == pytest.approx((mass, 1))
    assert balance.equitability == pytest.approx((mass + 1) / 2)


def test_more_neighbours_than_cases(make_cell: CellMaker) -> None:
    cell = make_cell([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [[1, 2]], [0])
    assert len(run(cell, 2).balances) == 3
    with pytest.raises(SearchError, match=r"k = 3, but a case of toy/train has 2 others; lower"):
        run(cell, 3)
