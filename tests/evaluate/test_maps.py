from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embedder.erase import erase
from embedder.errors import EvaluationError, ZeroVectorError
from embedder.store import Cell, Store
from embedder.types import Split, Task, Vectors
from evaluate import maps
from evaluate.maps import embedding_map, project
from tests.evaluate.conftest import CellMaker
from tests.evaluate.figures import crowded, words

FEW = settings(max_examples=5)


def clusters(counts: list[int], width: int, seed: int = 0) -> tuple[Vectors, NDArray[np.int64]]:
    """Directions far apart, each with some noise, in mixed order; and which is whose."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    vectors = 10 * np.eye(width)[labels] + rng.normal(0, 0.5, (len(labels), width))
    return vectors.astype(np.float32), labels


def centroid_accuracy(points: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """How many points are nearest to the centre of their own group."""
    centres = np.stack([points[labels == label].mean(axis=0) for label in np.unique(labels)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
    return float((np.unique(labels)[nearest] == labels).mean())


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    assert crowded(figure) == []
    return figure


def groups(figure: Figure) -> list[NDArray[Any]]:
    """The points of each mark, in the order of the key."""
    return [
        np.asarray(part.get_offsets())
        for axes in figure.axes for part in axes.collections if isinstance(part, PathCollection)
    ]  # fmt: skip


# Projections.


@pytest.mark.parametrize("width", [3, 80])
def test_clusters_stay_apart(width: int) -> None:
    vectors, labels = clusters([30, 20, 25], width)
    points = project(vectors)
    assert points.shape == (75, 2)
    assert points.dtype == np.float64
    assert np.isfinite(points).all()
    assert centroid_accuracy(points, labels) == 1


@FEW
@given(st.integers(0, 2**31 - 1), st.integers(10, 30), st.integers(1, 60))
def test_a_projection_is_deterministic(seed: int, count: int, width: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    if width == 1:
        vectors[0], vectors[1] = 1, -1
    first, second = project(vectors, seed), project(vectors, seed)
    assert np.array_equal(first, second)
    assert first.shape == (count, 2)
    assert np.isfinite(first).all()


def test_lengths_do_not_matter() -> None:
    vectors, _ = clusters([10, 12], 5)
    lengths = 2.0 ** np.random.default_rng(1).integers(-8, 9, (22, 1))
    stretched = (vectors * lengths).astype(np.float32)
    assert np.array_equal(project(vectors), project(stretched))


def test_neighbours_on_a_circle_stay_neighbours() -> None:
    angles = np.arange(60) / 60 * 2 * np.pi
    plane = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    tilt = np.linalg.qr(np.random.default_rng(0).normal(size=(70, 70)))[0][:2]
    points = project((plane @ tilt).astype(np.float32))
    far = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(far, np.inf)
    steps = np.abs(far.argmin(axis=1) - np.arange(60))
    assert (np.minimum(steps, 60 - steps) <= 2).mean() > 0.95


def test_two_embeddings_many_times() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32)[:2], 12, axis=0)
    points = project(vectors)
    assert np.isfinite(points).all()
    assert centroid_accuracy(points, np.repeat([0, 1], 12)) == 1


def test_what_cannot_be_projected() -> None:
    with pytest.raises(EvaluationError, match="9 cases are too few for a map; it takes 10"):
        project(np.eye(9, dtype=np.float32))
    with pytest.raises(EvaluationError, match="all 12 embeddings are alike"):
        project(np.tile(np.float32([3, 4]), (12, 1)))
    with pytest.raises(ZeroVectorError):
        project(np.zeros((12, 3), np.float32))


# Pictures.


def test_points_are_those_of_their_class(make_cell: CellMaker) -> None:
    vectors, labels = clusters([12, 9, 7], 6)
    cell = make_cell(vectors, labels, vectors, labels, classes=("$x^{$", "\u75c5", "_c" * 40))
    figure = drawn(embedding_map([cell]))
    points = project(vectors)
    found = groups(figure)
    assert [len(part) for part in found] == [12, 9, 7]
    for number, part in enumerate(found):
        assert np.array_equal(part, points[labels == number])
    shown = words(figure)
    assert "28 cases" in shown
    assert "toy" in shown
    assert "$x^{$" in shown
    assert "\ufffd" in shown
    assert any(text.startswith("_c_c") and text.endswith("…") for text in shown)
    assert shown[0].startswith("hog at 28 px: test cases")


def test_marks_differ_in_shape_and_colour(make_cell: CellMaker) -> None:
    vectors, labels = clusters([2] * 11, 12)
    names = tuple(f"a class with quite a long name, number {number}" for number in range(11))
    figure = drawn(embedding_map([make_cell(vectors, labels, vectors, labels, classes=names)]))
    parts = [part for axes in figure.axes for part in axes.collections]
    assert len(parts) == 11
    shapes = {part.get_paths()[0].vertices.tobytes() for part in parts}
    assert len(shapes) == 11
    assert len({(part.get_facecolor().tobytes()) for part in parts}) == 8


def test_rare_classes_share_a_mark(make_cell: CellMaker) -> None:
    counts = [2, 3, 1, 2, 2, 2, 2, 2, 2, 2, 2, 1, 3]
    vectors, labels = clusters(counts, 14)
    names = tuple(f"kind {number}" for number in range(13))
    figure = drawn(embedding_map([make_cell(vectors, labels, vectors, labels, classes=names)]))
    assert [len(part) for part in groups(figure)] == [2, 3, *[2] * 7, 3, 2 + 1 + 1]
    shown = words(figure)
    assert "3 other classes" in shown
    assert not {"kind 2", "kind 10", "kind 11"} & set(shown)
    assert {"kind 0", "kind 1", "kind 12"} <= set(shown)


def test_findings_are_counted(make_cell: CellMaker) -> None:
    vectors, numbers = clusters([8, 6, 4, 5], 6)
    labels = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]])[numbers]
    cell = make_cell(vectors, labels, vectors, labels, task=Task.MULTILABEL)
    figure = drawn(embedding_map([cell]))
    assert [len(part) for part in groups(figure)] == [8, 6, 9]
    assert {"no finding", "one finding", "several findings"} <= set(words(figure))


def test_zeros_and_erased_cases_are_left_out(make_cell: CellMaker, store: Store) -> None:
    vectors, labels = clusters([10, 8], 4)
    vectors[[2, 5]] = 0
    cell = make_cell(np.abs(vectors) + 1, labels, vectors, labels)
    erase(store, cell.path, {Split.TEST: [0, 7, 17]})
    figure = drawn(embedding_map([store.read(cell.path)]))
    rows = [row for row in range(18) if row not in (0, 2, 5, 7, 17)]
    points, kept = project(vectors[rows]), labels[rows]
    assert np.array_equal(groups(figure)[0], points[kept == 0])
    assert "13 of 15 cases, without 2 zero vectors" in words(figure)


def test_a_panel_that_says_why(make_cell: CellMaker) -> None:
    vectors, labels = clusters([9, 9], 4)
    few = make_cell(vectors, labels, vectors[:9], labels[:9], name="few")
    one = make_cell(vectors, labels, np.tile(vectors[0], (18, 1)), labels, name="one")
    good = make_cell(vectors, labels, vectors, labels, name="good", variant="hog-bf16")
    zero = make_cell(vectors, labels, np.zeros((12, 4)), labels[:12], name="zero")
    figure = drawn(embedding_map([few, one, good, zero]))
    shown = [" ".join(text.split()) for text in words(figure)]
    assert "9 cases are too few for a map; it takes 10" in shown
    assert "0 cases are too few for a map; it takes 10" in shown
    assert "all 18 embeddings are alike; there is nothing to map" in shown
    assert {"hog few 28 px", "hog-bf16 good 28 px"} <= set(shown)
    assert sum(map(len, groups(figure))) == 18


def test_many_cases_are_drawn_from(make_cell: CellMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_MOST", 15)
    vectors, labels = clusters([20, 20], 4)
    cell = make_cell(vectors, labels, vectors, labels)
    first, second = (drawn(embedding_map([cell])) for _ in range(2))
    assert sum(map(len, groups(first))) == 15
    assert "15 of 40 cases" in words(first)
    assert all(map(np.array_equal, groups(first), groups(second)))


def test_no_cells() -> None:
    assert embedding_map([]) is None


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_panels(make_cell: CellMaker, count: int) -> None:
    cells: list[Cell] = []
    for number in range(count):
        kinds = 2 + 4 * (number % 3)
        vectors, labels = clusters([3] * max(kinds, 4), 12, number)
        names = tuple(f"class called {name}" for name in range(12))
        cells.append(
            make_cell(vectors, labels, vectors, labels, name=f"set{number}", classes=names)
        )
    figure = drawn(embedding_map(cells))
    assert {f"set{number}" for number in range(count)} <= set(words(figure))
