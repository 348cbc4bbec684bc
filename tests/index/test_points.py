"""Embeddings made ready for a search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import SearchError, ZeroVectorError
from embedder.types import Distance
from index.points import CHUNK, check, gather, is_all, ready

COSINE, EUCLIDEAN = Distance.COSINE, Distance.EUCLIDEAN
COUNT = 2 * CHUNK + 5

each_distance = pytest.mark.parametrize("distance", Distance)


def test_unit_vectors() -> None:
    vectors = np.array([[3, 4], [0, -2], [1e-30, 0]], np.float32)
    assert ready(vectors, COSINE, "toy").tolist() == [
        [np.float32(0.6), np.float32(0.8)], [0, -1], [1, 0]
    ]  # fmt: skip
    assert ready(vectors, EUCLIDEAN, "toy").tolist() == vectors.tolist()


@given(
    st.integers(0, 99), st.sampled_from([1, 7, CHUNK - 1, CHUNK, CHUNK + 1, COUNT]),
    st.sampled_from([1, 3, 40, 300]), st.sampled_from([np.float32, np.float16]), st.booleans(),
)  # fmt: skip
def test_every_row_as_a_numpy_line_has_it(
    seed: int, count: int, width: int, dtype: type[np.floating], chosen: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, width)).astype(dtype)
    vectors[:, 0] += dtype(6)  # none of them is zero
    rows = np.flatnonzero(rng.random(count) < 0.6) if chosen else None
    some = (vectors if rows is None else vectors[rows]).astype(np.float64)
    expected = (some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float32)
    found = ready(vectors, COSINE, "toy", rows)
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]
    np.testing.assert_array_max_ulp(found, expected)
    np.testing.assert_array_equal(ready(vectors, EUCLIDEAN, "toy", rows), some)


def test_as_many_rows_as_there_are_may_stand_in_another_order() -> None:
    vectors = np.array([[3, 0], [0, 1]], np.float32)
    assert ready(vectors, EUCLIDEAN, "toy", np.array([1, 0])).tolist() == [[0, 1], [3, 0]]
    assert is_all(np.arange(2), 2)
    assert not is_all(np.array([1, 0]), 2)
    assert not is_all(np.arange(2), 3)


def test_the_smallest_number_is_no_zero() -> None:
    smallest = np.array([[np.finfo(np.float32).smallest_subnormal, 0]], np.float32)
    assert ready(smallest, COSINE, "toy").tolist() == [[1, 0]]


def test_what_is_given_stays_as_it_is() -> None:
    vectors = np.full((3, 2), 5, np.float32)
    for distance in Distance:
        ready(vectors, distance, "toy")[:] = 0
    assert (vectors == 5).all()


@each_distance
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, CHUNK + 1, COUNT - 1])
def test_the_first_row_that_is_not_finite_is_told(
    distance: Distance, value: float, row: int
) -> None:
    vectors = np.ones((COUNT, 2), np.float32)
    vectors[row:, 1] = value
    for made in (ready, check):
        with pytest.raises(SearchError, match=f"toy/train/{row} is not finite"):
            made(vectors, distance, "toy/train")


@pytest.mark.parametrize("row", [0, CHUNK + 1, COUNT - 1])
def test_a_zero_vector_has_no_cosine(row: int) -> None:
    vectors = np.ones((COUNT, 2), np.float32)
    vectors[row] = 0
    for made in (ready, check):
        with pytest.raises(ZeroVectorError, match=f"toy/train/{row} is a zero vector"):
            made(vectors, COSINE, "toy/train")
    check(vectors, EUCLIDEAN, "toy/train")
    assert ready(vectors, EUCLIDEAN, "toy/train")[row].tolist() == [0, 0]


def test_a_row_that_was_chosen_is_told_by_its_number() -> None:
    vectors = np.ones((COUNT, 2), np.float32)
    vectors[[3, 77]] = 0
    rows = np.arange(50, COUNT)
    for made in (ready, check):
        with pytest.raises(ZeroVectorError, match="toy/train/77 is a zero vector"):
            made(vectors, COSINE, "toy/train", rows)
    check(vectors, COSINE, "toy/train", rows[rows > 77])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc")
def test_a_mapped_file_does_not_stay_in_the_process(tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    vectors = np.random.default_rng(0).standard_normal((COUNT, 64)).astype(np.float32)
    vectors.tofile(path)
    mapped = np.memmap(path, np.float32, "r", 0, vectors.shape)
    assert np.count_nonzero(mapped) == vectors.size
    assert resident(path) > vectors.nbytes // 2
    found = ready(mapped, COSINE, "toy")
    assert resident(path) < vectors.nbytes // 4
    np.testing.assert_array_equal(found, ready(vectors, COSINE, "toy"))
    np.testing.assert_array_equal(mapped, vectors)
    assert resident(path) > vectors.nbytes // 2
    rows = np.arange(0, COUNT, 9)
    np.testing.assert_array_equal(gather(mapped, rows), vectors[rows])
    assert resident(path) < vectors.nbytes // 4


def test_some_rows() -> None:
    vectors = np.arange(200, dtype=np.float16).reshape(100, 2)
    found = gather(vectors, np.array([99, 0, 7, *range(40)]))
    assert found.dtype == np.float32
    assert found[:3].tolist() == [[198, 199], [0, 1], [14, 15]]
    assert found[3:].tolist() == vectors[:40].tolist()
    assert gather(vectors, np.empty(0, np.int64)).shape == (0, 2)


def resident(path: Path) -> int:
    """Bytes of the mapped file that are in this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return 1024 * int(next(text for text in lines if text.startswith("Rss:")).split()[1])
    raise AssertionError(f"{path} is not mapped")
