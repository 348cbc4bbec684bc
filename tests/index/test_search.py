from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from embedder.errors import SearchError, ZeroVectorError
from embedder.types import Distance, Rows, Split, Vectors
from index.blas import faiss
from index.exhaustive import search_all
from index.flat import FlatIndex
from index.reference import ReferenceIndex
from index.search import Neighbours, SearchIndex, SupportSet, similarity

Maker = Callable[[SupportSet], SearchIndex]

INDEXES: list[Maker] = [ReferenceIndex, FlatIndex]
BOTH = list(Distance)
SHAPES = ("gauss", "grid", "repeats", "offset", "tiny", "huge", "mixed", "constant")

each_index = pytest.mark.parametrize("index", INDEXES)
each_distance = pytest.mark.parametrize("distance", BOTH)


def rows_of(*rows: list[float]) -> Vectors:
    return np.array(rows, np.float32)


def support_of(vectors: Vectors, distance: Distance) -> SupportSet:
    return SupportSet.of(vectors, distance, "toy/train")


def vectors(rng: np.random.Generator, count: int, width: int, shape: str) -> Vectors:
    """Rows of one kind, none of them zero."""
    plain = rng.standard_normal((count, width))
    if shape == "grid":  # few different values: many exact ties
        plain = rng.integers(1, 3, (count, width)).astype(np.float64)
    elif shape == "repeats":  # few different rows
        plain = plain[rng.integers(0, max(1, count // 5), count)]
    elif shape == "offset":  # cosines all within 1e-6 of each other
        plain = 1 + 1e-4 * plain
    elif shape == "tiny":
        plain = 1e-20 * plain
    elif shape == "huge":
        plain = 1e20 * plain
    elif shape == "mixed":
        plain = plain * 10.0 ** rng.integers(-20, 20, (count, 1))
    elif shape == "constant":
        plain = np.full((count, width), 0.1)
    return plain.astype(np.float32)


def check_equal(found: Neighbours, expected: Neighbours) -> None:
    assert found.rows.dtype == expected.rows.dtype == np.int64
    assert found.similarities.dtype == expected.similarities.dtype == np.float32
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(
        found.similarities.view(np.uint32), expected.similarities.view(np.uint32)
    )


def check_order(found: Neighbours) -> None:
    for rows, similarities in zip(found.rows, found.similarities, strict=True):
        pairs = [(-s, r) for s, r in zip(similarities.tolist(), rows.tolist(), strict=True)]
        assert pairs == sorted(pairs)
        assert len(set(rows.tolist())) == len(rows)


def brute_force(queries: Vectors, points: Vectors, k: int, distance: Distance) -> Rows:
    q, p = queries.astype(np.float64), points.astype(np.float64)
    if distance is Distance.COSINE:
        q /= np.sqrt((q**2).sum(1, keepdims=True))
        p /= np.sqrt((p**2).sum(1, keepdims=True))
        far = -(q @ p.T)
    else:
        far = np.sqrt(((q[:, None] - p[None]) ** 2).sum(2))
    return np.argsort(far, axis=1, kind="stable")[:, :k]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Vectors, Vectors, int, Distance, Rows | None]:
    """Queries, support, k, distance, and the left-out rows where queries are support rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, width = draw(st.integers(1, 90)), draw(st.sampled_from([1, 2, 3, 8, 33]))
    support = vectors(rng, count, width, draw(st.sampled_from(SHAPES)))
    leave_out = count > 1 and draw(st.booleans())
    limit = count - leave_out
    k = draw(st.one_of(st.integers(1, min(limit, 12)), st.integers(1, limit), st.just(limit)))
    distance = draw(st.sampled_from(BOTH))
    if leave_out or draw(st.booleans()):  # queries that are support rows themselves
        own = rng.integers(0, count, draw(st.integers(1, 30)))
        return support[own], support, k, distance, own if leave_out else None
    shape = draw(st.sampled_from(SHAPES))
    return vectors(rng, draw(st.integers(1, 30)), width, shape), support, k, distance, None


# FAISS gives what the reference gives, to the last bit.


@settings(max_examples=500)
@given(problems())
def test_faiss_equals_the_reference(
    problem: tuple[Vectors, Vectors, int, Distance, Rows | None],
) -> None:
    queries, vectors_, k, distance, own = problem
    support = support_of(vectors_, distance)
    expected = ReferenceIndex(support).search(queries, k, own)
    check_equal(FlatIndex(support).search(queries, k, own), expected)
    check_equal(search_all(support, support.queries(queries, k, own), k, own), expected)
    check_order(expected)
    if own is not None:
        assert not (expected.rows == own[:, None]).any()


@each_distance
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("leave_out", [False, True])
def test_faiss_equals_the_reference_on_a_larger_support(
    shape: str, distance: Distance, leave_out: bool
) -> None:
    rng = np.random.default_rng(7)
    support = support_of(vectors(rng, 5000, 48, shape), distance)
    own = np.arange(0, 5000, 125) if leave_out else None
    queries = vectors(rng, 40, 48, shape)
    if own is not None:
        queries = support.points[own]
    expected = ReferenceIndex(support).search(queries, 11, own)
    check_equal(FlatIndex(support).search(queries, 11, own), expected)


@each_distance
def test_many_ties_across_the_kth_place(distance: Distance) -> None:
    rng = np.random.default_rng(3)
    near, far = rows_of([1, 2, 3, 4]), rows_of([4, -3, 2, -1])
    order = rng.permutation(3000)
    points = np.where((order < 700)[:, None], near, far).astype(np.float32)
    expected = np.flatnonzero(order < 700)[:20]
    for index in INDEXES:
        found = index(support_of(points, distance)).search(near, 20)
        np.testing.assert_array_equal(found.rows[0], expected)
        assert len(set(found.similarities[0].tolist())) == 1


@each_distance
def test_nearly_equal_rows_are_told_apart(distance: Distance) -> None:
    # By the largest float32 offset: 1000 rows that differ in the last bits of one number only.
    points = np.full((1000, 16), 1000, np.float32)
    steps = np.random.default_rng(0).permutation(1000)
    for row, step in enumerate(steps):
        points[row, 0] += step * np.spacing(np.float32(1000))
    query = np.full((1, 16), 1000, np.float32)
    expected = ReferenceIndex(support_of(points, distance)).search(query, 10)
    check_equal(FlatIndex(support_of(points, distance)).search(query, 10), expected)
    if distance is Distance.EUCLIDEAN:
        np.testing.assert_array_equal(expected.rows[0], np.argsort(steps)[:10])


@each_index
@each_distance
def test_left_out_rows_with_duplicates(index: Maker, distance: Distance) -> None:
    points = np.repeat(rows_of([1, 0], [0, 1], [1, 1]), 30, axis=0)
    own = np.array([0, 29, 30, 45, 89])
    found = index(support_of(points, distance)).search(points[own], 3, own)
    assert found.rows.tolist() == [[1, 2, 3], [0, 1, 2], [31, 32, 33], [30, 31, 32], [60, 61, 62]]


@each_index
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-20, 1.0, 1e20, 1e30])
def test_scale_changes_nothing(index: Maker, scale: float) -> None:
    rng = np.random.default_rng(11)
    points, queries = vectors(rng, 200, 16, "gauss"), vectors(rng, 60, 16, "gauss")
    for distance in BOTH:
        found = index(support_of((points * scale).astype(np.float32), distance)).search(
            (queries * scale).astype(np.float32), 7
        )
        np.testing.assert_array_equal(found.rows, brute_force(queries, points, 7, distance))


@each_index
def test_a_query_far_beyond_the_support(index: Maker) -> None:
    points = rows_of(*[[float(i), 0.0] for i in range(50)])
    found = index(support_of(points, Distance.EUCLIDEAN)).search(rows_of([1e30, 0]), 3)
    assert found.rows.tolist() == [[0, 1, 2]]  # all at the same distance in float32
    found = index(support_of(points * 1e18, Distance.EUCLIDEAN)).search(rows_of([1e20, 0]), 2)
    assert found.rows.tolist() == [[49, 48]]
    # Squared, only the first seven distances are within float32.
    points = points[::-1] * 1e18
    found = index(support_of(points, Distance.EUCLIDEAN)).search(rows_of([6e19, 0]), 2)
    assert found.rows.tolist() == [[0, 1]]


# Independent answers.


@each_index
def test_cosine_by_hand(index: Maker) -> None:
    support = support_of(rows_of([0, 3], [5, 0], [1, 1], [-2, 0], [7, 0]), Distance.COSINE)
    found = index(support).search(rows_of([2, 0]), 5)
    assert found.rows.tolist() == [[1, 4, 2, 0, 3]]
    np.testing.assert_allclose(found.similarities, [[1, 1, 0.5**0.5, 0, -1]], atol=1e-7)


@each_index
def test_euclidean_by_hand(index: Maker) -> None:
    support = support_of(rows_of([3, 4], [0, 0], [0, 2], [0, -2]), Distance.EUCLIDEAN)
    found = index(support).search(rows_of([0, 0]), 4)
    assert found.rows.tolist() == [[1, 2, 3, 0]]
    assert found.similarities.tolist() == [[0, -2, -2, -5]]
    assert not np.signbit(found.similarities[0, 0])


@each_index
@each_distance
@pytest.mark.parametrize("width", [1, 5, 200])
def test_same_as_brute_force_and_scikit_learn(index: Maker, distance: Distance, width: int) -> None:
    rng = np.random.default_rng(width)
    points, queries = vectors(rng, 300, width, "gauss"), vectors(rng, 20, width, "gauss")
    if width == 1:  # every cosine would be 1 or -1
        points, queries = (np.c_[x, np.ones(len(x))].astype(np.float32) for x in (points, queries))
    found = index(support_of(points, distance)).search(queries, 9)
    np.testing.assert_array_equal(found.rows, brute_force(queries, points, 9, distance))
    other = NearestNeighbors(n_neighbors=9, metric=str(distance), algorithm="brute").fit(
        points.astype(np.float64)
    )
    far, rows = other.kneighbors(queries.astype(np.float64))
    np.testing.assert_array_equal(found.rows, rows)
    expected = 1 - far if distance is Distance.COSINE else -far
    np.testing.assert_allclose(found.similarities, expected, rtol=1e-6, atol=1e-6)


@each_index
@each_distance
def test_all_of_the_support(index: Maker, distance: Distance) -> None:
    rng = np.random.default_rng(5)
    points = vectors(rng, 40, 6, "gauss")
    found = index(support_of(points, distance)).search(points[:3], 40)
    np.testing.assert_array_equal(np.sort(found.rows, axis=1), np.tile(np.arange(40), (3, 1)))
    np.testing.assert_array_equal(found.rows[:, 0], [0, 1, 2])
    left = index(support_of(points, distance)).search(points[:3], 39, np.arange(3))
    np.testing.assert_array_equal(left.rows, found.rows[:, 1:])


@each_index
@each_distance
def test_float16_is_searched_as_the_same_numbers_in_float32(
    index: Maker, distance: Distance
) -> None:
    rng = np.random.default_rng(8)
    points = vectors(rng, 100, 12, "gauss").astype(np.float16)
    found = index(support_of(points, distance)).search(points[:5], 6)
    wide = points.astype(np.float32)
    check_equal(found, index(support_of(wide, distance)).search(wide[:5], 6))


# A search does not depend on what is searched with it.


@each_index
@each_distance
@pytest.mark.parametrize("shape", ["gauss", "repeats", "offset"])
def test_one_query_alone_and_in_a_batch(index: Maker, distance: Distance, shape: str) -> None:
    rng = np.random.default_rng(13)
    built = index(support_of(vectors(rng, 400, 31, shape), distance))
    queries = vectors(rng, 50, 31, shape)
    together = built.search(queries, 11)
    for row in range(0, 50, 7):
        alone = built.search(queries[row : row + 1], 11)
        check_equal(alone, Neighbours(together.rows[[row]], together.similarities[[row]]))


@each_index
@each_distance
@pytest.mark.parametrize("shape", ["gauss", "grid", "repeats"])
def test_several_k_from_one_search(index: Maker, distance: Distance, shape: str) -> None:
    rng = np.random.default_rng(17)
    built = index(support_of(vectors(rng, 300, 10, shape), distance))
    queries = vectors(rng, 20, 10, shape)
    most = built.search(queries, 25)
    for k in (1, 3, 11, 25):
        check_equal(most.first(k), built.search(queries, k))


def test_blocks_of_queries_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(19)
    support = support_of(vectors(rng, 500, 9, "repeats"), Distance.COSINE)
    queries, own = support.points[:90], np.arange(90)
    whole = FlatIndex(support).search(queries, 5, own)
    monkeypatch.setattr("index.flat._CANDIDATES", 100)
    monkeypatch.setattr("index.exhaustive._PAIRS", 3000)
    monkeypatch.setattr("index.exhaustive.CHUNK", 7)
    check_equal(FlatIndex(support).search(queries, 5, own), whole)
    check_equal(search_all(support, queries, 5, own), whole)


@pytest.fixture(params=["pairs", "products", "blocks"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """How FAISS computes: pair by pair, by a matrix product, by products of small blocks."""
    names = ("threshold", "database_bs", "query_bs")
    usual = {name: getattr(faiss.cvar, f"distance_compute_blas_{name}") for name in names}
    chosen = {"pairs": (2**31 - 1, 4096, 1024), "products": (1, 4096, 1024), "blocks": (1, 64, 8)}
    for name, value in zip(names, chosen[request.param], strict=True):
        setattr(faiss.cvar, f"distance_compute_blas_{name}", value)
    yield request.param
    for name, value in usual.items():
        setattr(faiss.cvar, f"distance_compute_blas_{name}", value)


@each_distance
@pytest.mark.parametrize("shape", ["repeats", "gauss"])
@pytest.mark.parametrize("k", [1, 11, 150])
@pytest.mark.parametrize("left_out", [False, True])
def test_however_faiss_computes(
    way: str, distance: Distance, shape: str, k: int, left_out: bool
) -> None:
    rng = np.random.default_rng(37)
    support = support_of(vectors(rng, 700, 20, shape), distance)
    queries = support.points[300:400] if left_out else vectors(rng, 100, 20, shape)
    own = np.arange(300, 400) if left_out else None
    expected = ReferenceIndex(support).search(queries, k, own)
    check_equal(FlatIndex(support).search(queries, k, own), expected)


def test_the_product_is_taken_of_what_an_evaluation_searches() -> None:
    """FAISS has counted queries, or queries times width: either way not pair by pair."""
    rng = np.random.default_rng(41)
    support = support_of(vectors(rng, 5000, 768, "gauss"), Distance.COSINE)
    queries = vectors(rng, 300, 768, "gauss")
    index = FlatIndex(support)
    index.search(queries, 5)
    spent = []
    usual = faiss.cvar.distance_compute_blas_threshold
    try:
        for threshold in (usual, 2**31 - 1):
            faiss.cvar.distance_compute_blas_threshold = threshold
            began = time.process_time()
            index.search(queries, 5)
            spent.append(time.process_time() - began)
    finally:
        faiss.cvar.distance_compute_blas_threshold = usual
    assert spent[0] < spent[1]


@each_distance
@pytest.mark.parametrize("shape", ["repeats", "gauss"])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("few", [1, 1000])
def test_threads_make_no_difference(
    monkeypatch: pytest.MonkeyPatch, distance: Distance, shape: str, count: int, few: int
) -> None:
    """``few`` queries for each thread: shared out are the queries, or the points."""
    monkeypatch.setattr("index.threads.COUNT", count)
    monkeypatch.setattr("index.flat._FEW", few)
    monkeypatch.setattr("index.flat._LEAST", 1)
    rng = np.random.default_rng(31)
    support = support_of(vectors(rng, 503, 9, shape), distance)
    queries, own = support.points[100:147], np.arange(100, 147)
    usual = faiss.omp_get_max_threads()
    for k in (1, 5, 40):
        expected = ReferenceIndex(support).search(queries, k, own)
        check_equal(FlatIndex(support).search(queries, k, own), expected)
        alone = ReferenceIndex(support).search(queries[:1], k)
        check_equal(FlatIndex(support).search(queries[:1], k), alone)
    assert faiss.omp_get_max_threads() == usual


@each_distance
def test_similarity_of_a_pair_is_the_same_in_any_shape(distance: Distance) -> None:
    rng = np.random.default_rng(23)
    for width in (1, 2, 7, 8, 9, 127, 128, 129, 1000):
        points = vectors(rng, 5, width, "gauss")
        line = similarity(points[0], points, distance)
        pairs = similarity(np.tile(points[:1], (5, 1)), points, distance)
        single = [similarity(points[:1], points[[i]], distance)[0] for i in range(5)]
        assert line.tolist() == pairs.tolist() == single


def test_no_queries() -> None:
    for index in INDEXES:
        found = index(support_of(rows_of([1, 0], [0, 1]), Distance.COSINE)).search(
            np.empty((0, 2), np.float32), 1
        )
        assert found.rows.shape == found.similarities.shape == (0, 1)


def test_neighbours_have_stable_ids() -> None:
    found = Neighbours(np.array([[4, 0], [2, 7]]), np.zeros((2, 2), np.float32))
    assert found.ids("toy") == [["toy/train/4", "toy/train/0"], ["toy/train/2", "toy/train/7"]]
    assert found.first(1).ids("toy", Split.VAL) == [["toy/val/4"], ["toy/val/2"]]


# What cannot be searched.


@each_index
@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_out_of_range(index: Maker, k: int) -> None:
    built = index(support_of(np.ones((5, 2), np.float32), Distance.COSINE))
    with pytest.raises(SearchError, match=rf"k = {k}, but toy/train has 5 .* --k from 1 to 5"):
        built.search(np.ones((1, 2), np.float32), k)


@each_index
def test_k_leaves_the_query_out(index: Maker) -> None:
    built = index(support_of(np.ones((5, 2), np.float32), Distance.COSINE))
    with pytest.raises(SearchError, match=r"k = 5, but toy/train has 4 .* --k from 1 to 4"):
        built.search(np.ones((1, 2), np.float32), 5, np.array([3]))


@each_index
@pytest.mark.parametrize("shape", [(1, 3), (1, 1), (2,)])
def test_width_mismatch(index: Maker, shape: tuple[int, ...]) -> None:
    built = index(support_of(np.ones((5, 2), np.float32), Distance.COSINE))
    with pytest.raises(SearchError, match="toy/train has width 2"):
        built.search(np.ones(shape, np.float32), 1)


@each_distance
def test_empty_support(distance: Distance) -> None:
    with pytest.raises(SearchError, match="toy/train is empty"):
        support_of(np.empty((0, 4), np.float32), distance)


@each_index
def test_a_zero_query_has_no_cosine(index: Maker) -> None:
    built = index(support_of(np.ones((3, 2), np.float32), Distance.COSINE))
    with pytest.raises(ZeroVectorError, match="queries/1 is a zero vector"):
        built.search(rows_of([1, 1], [0, 0]), 1)


def test_searching_changes_nothing_that_was_given() -> None:
    points = vectors(np.random.default_rng(0), 20, 3, "gauss")
    before = points.copy()
    points.flags.writeable = False
    FlatIndex(support_of(points, Distance.COSINE)).search(points, 2)
    np.testing.assert_array_equal(points, before)


@each_index
def test_rounding_that_leans_to_one_side_hides_no_neighbour(index: Maker) -> None:
    """Terms whose products are all rounded the same way: further off than chance would be."""
    width, tiny = 448, 2**-12.5
    terms = width - 2

    def point(share: float, cosine: float) -> list[float]:
        first = (cosine - terms * tiny**2 * share) / np.sqrt(1 - terms * tiny**2)
        body = [first, *[tiny * share] * terms]
        return [*body, float(np.sqrt(1 - np.square(body).sum()))]

    query = [np.sqrt(1 - terms * tiny**2), *[tiny] * terms, 0.0]
    bias = terms * 2**-25 * 0.97
    near = [point(1.005, 0.9 - 2 * bias + 1e-6)] * 8
    far = [point(0, 0.5 - number * 0.01) for number in range(20)]
    points = rows_of(point(0.995, 0.9), point(0, 0.9 - 2e-7), *near, *far)
    found = index(support_of(points, Distance.COSINE)).search(rows_of(*[query] * 64), 1)
    assert (found.rows == 0).all()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """FAISS's search on a GPU, by the CPU; and how many neighbours it was asked for each time."""
    asked = []

    def knn_gpu(
        resources: object, queries: Vectors, points: Vectors, k: int, *, metric: int
    ) -> tuple[Vectors, Rows]:
        assert resources == "resources"
        asked.append(k)
        found: tuple[Vectors, Rows] = faiss.knn(queries, points, k, metric=metric)
        return found

    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu, raising=False)
    monkeypatch.setattr("index.flat._resources", lambda: "resources")
    return asked


@each_distance
def test_what_a_gpu_proposes_is_decided_as_on_the_processor(
    distance: Distance, gpu: list[int]
) -> None:
    rng = np.random.default_rng(0)
    support = support_of(vectors(rng, 3000, 8, "gauss"), distance)
    queries, own = support.points[:70].copy(), np.arange(70)
    for k, mine, most in ((11, None, 19), (5, own, 14)):
        found = FlatIndex(support, gpu=True).search(queries, k, mine)
        check_equal(found, ReferenceIndex(support).search(queries, k, mine))
        assert gpu.pop() == most
        assert not gpu
    found = FlatIndex(support, gpu=True).search(queries[:3], 2041)  # one more than a GPU finds
    check_equal(found, ReferenceIndex(support).search(queries[:3], 2041))
    assert not gpu
