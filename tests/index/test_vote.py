from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from embedder.errors import UsageError
from embedder.types import Distance, Labels, Scores, Task
from evaluate.metrics import predict
from index.reference import ReferenceIndex
from index.search import Neighbours, SupportSet
from index.vote import DistanceVote, MajorityVote, SoftmaxVote, Vote, agrees, count_votes
from tests.conftest import FakeIndex, FirstVote

COSINE, EUCLIDEAN = Distance.COSINE, Distance.EUCLIDEAN
EVERY = [MajorityVote(), DistanceVote(), SoftmaxVote()]

each_vote = pytest.mark.parametrize("vote", EVERY, ids=lambda v: type(v).__name__)


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-6, abs=1e-9)


def vote_of(
    labels: list[int], similarities: list[float], vote: Vote, distance: Distance = COSINE,
    *, classes: int = 3,
) -> list[float]:  # fmt: skip
    """The scores of one query whose neighbours have these labels and similarities."""
    found = Neighbours(
        np.arange(len(labels))[None], np.array([similarities], np.float32)
    )  # fmt: skip
    support = np.array(labels, np.uint8)[:, None]
    scores: list[float] = count_votes(found, support, Task.MULTICLASS, classes, vote, distance)[
        0
    ].tolist()
    return scores


def labels_of(*rows: list[int]) -> Labels:
    return np.array(rows, np.uint8)


def neighbours_of(*similarities: list[float]) -> Neighbours:
    values = np.array(similarities, np.float32)
    return Neighbours(np.tile(np.arange(values.shape[1]), (len(values), 1)), values)


# Majority.


def test_majority_by_hand() -> None:
    assert vote_of([2, 0, 2, 1], [0.9, 0.8, 0.7, 0.6], MajorityVote()) == [0.25, 0.25, 0.5]


def test_majority_does_not_look_at_similarities() -> None:
    assert vote_of([1, 0, 0], [1, -1, -1], MajorityVote()) == near([2 / 3, 1 / 3, 0])


@pytest.mark.parametrize(
    ("labels", "expected"), [([2, 1], 1), ([2, 2, 1, 1, 0], 1), ([2, 1, 0], 0), ([2, 2, 1], 2)]
)
def test_a_tie_goes_to_the_lowest_class(labels: list[int], expected: int) -> None:
    scores = vote_of(labels, [0.5] * len(labels), MajorityVote())
    assert predict(np.array([scores]), Task.MULTICLASS).tolist() == [[expected]]


def test_a_binary_tie_goes_to_class_0() -> None:
    scores = count_votes(
        neighbours_of([0.9, 0.8]), labels_of([1], [0]), Task.BINARY, 2, MajorityVote(), COSINE
    )
    assert scores.tolist() == [[0.5, 0.5]]
    assert predict(scores, Task.BINARY).tolist() == [[0]]


def classify(k: int, weights: str, vote: Vote, seed: int) -> tuple[Scores, Scores, Labels]:
    """Scores of ours and of scikit-learn's, and its predictions; neighbours by Euclidean distance.

    Coordinates are small whole numbers, so that distances repeat and are zero at times.
    """
    rng = np.random.default_rng(seed)
    high = 4 if seed % 2 else 1000
    points = np.unique(rng.integers(0, high, (120, 3)), axis=0).astype(np.float32)
    points = points[rng.permutation(len(points))]
    queries = rng.integers(0, high, (40, 3)).astype(np.float32)
    labels = rng.integers(0, 4, (len(points), 1), np.uint8)
    labels[:4, 0] = range(4)
    found = ReferenceIndex(SupportSet.of(points, EUCLIDEAN, "toy/train")).search(queries, k)
    scores = count_votes(found, labels, Task.MULTICLASS, 4, vote, EUCLIDEAN)

    # It breaks ties for the k-th place in its own way, so it votes on the neighbours of ours.
    expected = np.empty_like(scores)
    predicted = np.empty((len(queries), 1), np.uint8)
    for i, rows in enumerate(found.rows):
        other = KNeighborsClassifier(k, weights=weights, algorithm="brute")
        other.fit(points[rows], labels[rows, 0])
        expected[i] = 0
        expected[i, other.classes_] = other.predict_proba(queries[i : i + 1])[0]
        predicted[i] = other.predict(queries[i : i + 1])
    return scores, expected, predicted


@pytest.mark.parametrize("k", [1, 2, 4, 11])
@pytest.mark.parametrize("seed", [0, 1])
def test_majority_is_scikit_learns(k: int, seed: int) -> None:
    scores, expected, predicted = classify(k, "uniform", MajorityVote(), seed)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    np.testing.assert_array_equal(predict(scores, Task.MULTICLASS), predicted)


@pytest.mark.parametrize("k", [1, 2, 11])
def test_the_whole_classifier_is_scikit_learns(k: int) -> None:
    rng = np.random.default_rng(k)
    points = rng.standard_normal((300, 5)).astype(np.float32)
    queries = rng.standard_normal((80, 5)).astype(np.float32)
    labels = rng.integers(0, 3, (300, 1), np.uint8)
    for distance in Distance:
        found = ReferenceIndex(SupportSet.of(points, distance, "toy/train")).search(queries, k)
        scores = count_votes(found, labels, Task.MULTICLASS, 3, MajorityVote(), distance)
        other = KNeighborsClassifier(k, metric=str(distance), algorithm="brute")
        other.fit(points.astype(np.float64), labels[:, 0])
        expected = other.predict(queries.astype(np.float64))
        np.testing.assert_array_equal(predict(scores, Task.MULTICLASS)[:, 0], expected)


# Weighted by similarity.


@pytest.mark.parametrize("k", [1, 2, 4, 11])
@pytest.mark.parametrize("seed", [0, 1])
def test_distance_vote_is_scikit_learns(k: int, seed: int) -> None:
    scores, expected, _ = classify(k, "distance", DistanceVote(), seed)
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-12)


def test_distance_vote_by_cosine() -> None:
    assert vote_of([0, 1, 1], [0.75, 0.25, -0.5], DistanceVote()) == [0.75, 0.25, 0]


def test_negative_cosines_all_count_alike() -> None:
    assert vote_of([0, 1, 1, 2], [-0.1, -0.2, -0.3, -1], DistanceVote()) == [0.25, 0.5, 0.25]
    assert vote_of([0, 1], [0, 0], DistanceVote()) == [0.5, 0.5, 0]


def test_distance_vote_by_euclidean() -> None:
    assert vote_of([0, 1, 2], [-1, -2, -4], DistanceVote(), EUCLIDEAN) == near(
        [4 / 7, 2 / 7, 1 / 7]
    )


def test_at_distance_zero_the_others_do_not_count() -> None:
    assert vote_of([2, 1, 0, 0], [0, 0, -1e-9, -1e-9], DistanceVote(), EUCLIDEAN) == [0, 0.5, 0.5]


def test_smallest_and_largest_distances() -> None:
    limits = np.finfo(np.float32)
    least, most = -float(limits.smallest_subnormal), -float(limits.max)
    assert vote_of([0, 1], [least, most], DistanceVote(), EUCLIDEAN) == near([1, 0, 0])
    assert vote_of([0, 1], [most, most], DistanceVote(), EUCLIDEAN) == [0.5, 0.5, 0]
    assert vote_of([0, 1], [least, least], DistanceVote(), EUCLIDEAN) == [0.5, 0.5, 0]


def test_softmax_is_one_line_of_numpy() -> None:
    similarities = np.array([0.9, 0.85, 0.6, -0.3], np.float32).astype(np.float64)
    for temperature in (0.07, 1.0, 3.0):
        weights = np.exp(similarities / temperature) / np.exp(similarities / temperature).sum()
        found = vote_of([1, 0, 0, 2], similarities.tolist(), SoftmaxVote(temperature))
        assert found == near([weights[1] + weights[2], weights[0], weights[3]])


def test_softmax_has_the_published_temperature() -> None:
    assert SoftmaxVote().temperature == 0.07


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_at_the_lowest_temperature_the_nearest_decide(temperature: float) -> None:
    vote = SoftmaxVote(temperature)
    assert vote_of([2, 2, 1, 0], [0.9, 0.9, 0.9, 0.1], vote) == near([0, 1 / 3, 2 / 3])
    assert vote_of([1, 0, 0], [-1, -900, -1e30], vote, EUCLIDEAN) == [0, 1, 0]


@pytest.mark.parametrize("temperature", [1e6, 1e300])
def test_at_the_highest_temperature_all_count_alike(temperature: float) -> None:
    assert vote_of([0, 1, 1, 2], [1, 0, -1, -1], SoftmaxVote(temperature)) == pytest.approx(
        [0.25, 0.5, 0.25], abs=1e-5
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_no_temperature(temperature: float) -> None:
    with pytest.raises(UsageError, match=r"--temperature .* is no number above 0"):
        SoftmaxVote(temperature)


# Multi-label.


def test_multilabel_is_per_label_above_one_half() -> None:
    labels = labels_of([1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0])
    found = neighbours_of([0.9, 0.8, 0.7, 0.6])
    scores = count_votes(found, labels, Task.MULTILABEL, 4, MajorityVote(), COSINE)
    assert scores.tolist() == [[0.75, 0.5, 0, 0.25]]
    assert predict(scores, Task.MULTILABEL).tolist() == [[1, 0, 0, 0]]


def test_multilabel_weighted() -> None:
    labels = labels_of([1, 0], [0, 1], [0, 1])
    found = neighbours_of([0.75, 0.125, 0.125], [0.25, 0.25, 0.5])
    scores = count_votes(found, labels, Task.MULTILABEL, 2, DistanceVote(), COSINE)
    assert scores.tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_multilabel_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((200, 4)).astype(np.float32)
    labels = rng.integers(0, 2, (200, 5), np.uint8)
    queries = rng.standard_normal((50, 4)).astype(np.float32)
    found = ReferenceIndex(SupportSet.of(points, EUCLIDEAN, "toy/train")).search(queries, 10)
    for vote, weights in ((MajorityVote(), "uniform"), (DistanceVote(), "distance")):
        scores = count_votes(found, labels, Task.MULTILABEL, 5, vote, EUCLIDEAN)
        other = KNeighborsClassifier(10, weights=weights, algorithm="brute").fit(points, labels)
        np.testing.assert_array_equal(predict(scores, Task.MULTILABEL), other.predict(queries))


# All of them.


@st.composite
def queries(draw: st.DrawFn) -> tuple[Neighbours, Labels, Distance]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, k = draw(st.integers(1, 5)), draw(st.integers(1, 30))
    distance = draw(st.sampled_from(list(Distance)))
    scale = 1.0 if distance is COSINE else 10.0 ** draw(st.integers(-40, 38))
    low, high = (-1, 1) if distance is COSINE else (-1, 0)
    similarities = np.sort(rng.uniform(low, high, (count, k)), axis=1)[:, ::-1] * scale
    if draw(st.booleans()):
        similarities = np.round(similarities * 2 / scale) / 2 * scale
    rows = np.stack([rng.permutation(40)[:k] for _ in range(count)])
    labels = rng.integers(0, 4, (40, 1), np.uint8)
    return Neighbours(rows, similarities.astype(np.float32)), labels, distance


@each_vote
@given(query=queries())
def test_scores_are_shares(vote: Vote, query: tuple[Neighbours, Labels, Distance]) -> None:
    found, labels, distance = query
    scores = count_votes(found, labels, Task.MULTICLASS, 4, vote, distance)
    assert scores.shape == (len(found.rows), 4)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-12)
    assert (scores >= 0).all()
    weights = vote.weights(found.similarities, distance)
    assert np.isfinite(weights).all()
    assert (weights.sum(axis=1) > 0).all()
    assert (np.diff(weights, axis=1) <= 0).all()  # a nearer neighbour never counts less


@each_vote
@given(seed=st.integers(0, 2**32 - 1), pairs=st.integers(1, 12), distance=st.sampled_from(Distance))
def test_equal_votes_tie(vote: Vote, seed: int, pairs: int, distance: Distance) -> None:
    # Both classes have the same similarities, in an order drawn by lot.
    rng = np.random.default_rng(seed)
    values = np.sort(rng.uniform(-1, 0, pairs) + (distance is COSINE))[::-1]
    similarities = np.repeat(values, 2).astype(np.float32)[None]
    found = Neighbours(np.arange(2 * pairs)[None], similarities)
    labels = np.concatenate([rng.permutation(2) for _ in range(pairs)]).astype(np.uint8)[:, None]
    scores = count_votes(found, labels, Task.BINARY, 2, vote, distance)
    assert scores.tolist() == [[0.5, 0.5]]
    both = np.hstack([labels, 1 - labels])
    assert count_votes(found, both, Task.MULTILABEL, 2, vote, distance).tolist() == [[0.5, 0.5]]


@each_vote
@given(query=queries())
def test_multilabel_is_binary_per_label(
    vote: Vote, query: tuple[Neighbours, Labels, Distance]
) -> None:
    found, labels, distance = query
    bits = np.hstack([labels & 1, labels >> 1])
    scores = count_votes(found, bits, Task.MULTILABEL, 2, vote, distance)
    for label in range(2):
        alone = count_votes(found, bits[:, [label]], Task.BINARY, 2, vote, distance)
        np.testing.assert_allclose(scores[:, label], alone[:, 1], rtol=1e-12)


def test_any_vote_will_do() -> None:
    assert vote_of([2, 0, 0], [0.9, 0.8, 0.7], FirstVote()) == [0, 0, 1]
    assert [v.weighted for v in (*EVERY, FirstVote())] == [False, True, True, True]


def test_a_new_index_and_a_new_vote_fit_in() -> None:
    """The seams: whatever searches, and whatever weighs, scores are counted the same way."""
    found = FakeIndex().search(np.zeros((2, 4), np.float32), 3)
    labels = np.array([[2], [1], [1]], np.uint8)
    counts = (Task.MULTICLASS, 3)
    first = count_votes(found, labels, *counts, FirstVote(), Distance.COSINE)
    np.testing.assert_array_equal(first, [[0, 0, 1], [0, 0, 1]])
    majority = count_votes(found, labels, *counts, MajorityVote(), Distance.COSINE)
    np.testing.assert_allclose(majority, [[0, 2 / 3, 1 / 3]] * 2)


# Which cases have what is predicted.


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS, Task.ORDINAL])
def test_a_case_of_the_predicted_class_agrees(task: Task) -> None:
    cases = labels_of([1], [0], [1])
    assert agrees(cases, np.array([1], np.uint8), task).tolist() == [True, False, True]
    assert agrees(cases[:0], np.array([1], np.uint8), task).tolist() == []


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([1, 0, 1], [False, True, True, False]),
        ([1, 0, 0], [True, True, True, False]),
        ([0, 0, 0], [False, False, False, True]),
    ],
)
def test_a_case_with_every_predicted_label_agrees(
    predicted: list[int], expected: list[bool]
) -> None:
    cases = labels_of([1, 0, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0])
    assert agrees(cases, np.array(predicted, np.uint8), Task.MULTILABEL).tolist() == expected
