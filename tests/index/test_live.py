from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import SearchError
from embedder.types import Distance, Rows, Vectors
from index.build import Kind, build
from index.live import LiveIndex, Part
from index.reference import ReferenceIndex
from index.search import Neighbours, SupportSet

BASE = np.array([[1, 0], [0, 1], [1, 1], [-1, 0], [1, 2]], np.float32)


def live(vectors: Vectors = BASE, rows: Rows | None = None) -> LiveIndex:
    chosen = np.arange(len(vectors)) if rows is None else rows
    return LiveIndex.of(vectors, chosen, Distance.COSINE, "toy/train", Kind.CPU)


def part(vectors: list[list[float]], rows: list[int]) -> Part | None:
    if not rows:
        return None
    points = SupportSet.of(np.array(vectors, np.float32), Distance.COSINE, "toy/added")
    return Part(build(points, Kind.CPU), np.array(rows, np.int64))


QUERY = np.array([[1, 0]], np.float32)


def test_nothing_changed() -> None:
    found = live().search(QUERY, 5)
    assert found.rows.tolist() == [[0, 2, 4, 1, 3]]
    assert found.similarities[0].tolist() == pytest.approx([1, 0.5**0.5, 0.2**0.5, 0, -1])


def test_the_erased_are_passed_over() -> None:
    assert live().without([0, 4]).search(QUERY, 3).rows.tolist() == [[2, 1, 3]]
    assert live().without([0]).without([2]).search(QUERY, 1).rows.tolist() == [[4]]
    assert live().search(QUERY, 1).rows.tolist() == [[0]]


def test_the_added_are_ranked_among_the_rest() -> None:
    index = live().having(part([[5, 1], [2, 0]], [7, 9]))
    assert index.search(QUERY, 4).rows.tolist() == [[0, 9, 7, 2]]
    assert len(index) == 7
    assert index.rows().tolist() == [0, 1, 2, 3, 4, 7, 9]
    assert index.having(None).search(QUERY, 2).rows.tolist() == [[0, 2]]


def test_rows_keep_their_numbers() -> None:
    index = live(BASE, np.array([1, 4]))
    assert index.search(QUERY, 2).rows.tolist() == [[4, 1]]
    assert index.without([4]).search(QUERY, 1).rows.tolist() == [[1]]


def test_own_rows_of_both_parts_are_left_out() -> None:
    index = live().having(part([[1, 0]], [9]))
    queries = np.repeat(QUERY, 2, axis=0)
    found = index.search(queries, 2, np.array([0, 9]))
    assert found.rows.tolist() == [[9, 2], [0, 2]]


def test_only_added_cases() -> None:
    index = live().without(range(5)).having(part([[1, 1]], [9]))
    assert index.search(QUERY, 1).rows.tolist() == [[9]]
    empty = LiveIndex(None, "toy/train", np.empty(0, np.int64))
    assert empty.having(part([[1, 1]], [9])).search(QUERY, 1).rows.tolist() == [[9]]


def test_more_than_there_are() -> None:
    index = live().without([0, 1])
    with pytest.raises(SearchError, match=r"k = 4, but toy/train has 3 cases to offer; use 1 to 3"):
        index.search(QUERY, 4)
    with pytest.raises(SearchError, match=r"use 1 to 2"):
        index.search(QUERY, 3, np.array([2]))


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 60),
    kind=st.sampled_from([Kind.CPU, Kind.REFERENCE]),
    late=st.integers(0, 12),
    share=st.floats(0, 0.95),
)
def test_equals_an_index_built_anew(
    seed: int, count: int, kind: Kind, late: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (count + late, 3)).astype(np.float32)  # many ties
    vectors[(vectors == 0).all(axis=1)] = 1
    gone = np.flatnonzero(rng.random(count) < share)
    gone = gone[gone != 0]
    kept = rng.random(late) < 0.7
    rows = np.flatnonzero(np.concatenate((~np.isin(np.arange(count), gone), kept)))
    half = len(gone) // 2
    index = LiveIndex.of(
        vectors[:count],
        np.delete(np.arange(count), gone[:half]),
        Distance.COSINE,
        "toy/train",
        kind,
    ).without(gone[half:].tolist())
    added = count + np.flatnonzero(kept)
    index = index.having(Part.of(vectors, added, Distance.COSINE, "toy/added", kind))
    support = SupportSet.of(vectors[rows], Distance.COSINE, "anew")
    anew = ReferenceIndex(support)
    queries = vectors[rows[:5]]
    k = int(rng.integers(1, len(rows) + 1))
    expected = anew.search(queries, k)
    same(index.search(queries, k), Neighbours(rows[expected.rows], expected.similarities))
    if k < len(rows):
        own = np.arange(len(queries))
        expected = anew.search(queries, k, own)
        found = index.search(queries, k, rows[own])
        same(found, Neighbours(rows[expected.rows], expected.similarities))


def same(found: Neighbours, expected: Neighbours) -> None:
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.similarities.tolist() == expected.similarities.tolist()
