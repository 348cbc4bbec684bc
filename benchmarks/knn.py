"""Exact search against the bare product of its shape, and against scikit-learn's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.neighbors import NearestNeighbors

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.results import Result, compare
from benchmarks.rounds import check_equal, interleave, timed, typical
from embedder.errors import EvaluationError
from embedder.types import Distance, Vectors
from index.build import Kind, build
from index.search import Neighbours, SearchIndex, SupportSet, similarity

K = 11
_BLOCK = 1024
_SAMPLE = 4
"""Queries that are compared; of the largest shape the definition takes three seconds for each."""


@dataclass(frozen=True)
class Shape:
    """A support set, and how many queries: of the search against the product, and of scikit-learn's
    two ways, ``brute`` and ``tree``, against the search.
    """

    name: str
    support: int
    width: int
    queries: int
    brute: int
    tree: int


_ORGAN, _TISSUE = 34561, 165466

SHAPES = (
    Shape("knn-organa-512", _ORGAN, 512, 4096, 256, 64),
    Shape("knn-organa-768", _ORGAN, 768, 4096, 256, 64),
    Shape("knn-organa-4096", _ORGAN, 4096, 1024, 64, 4),
    Shape("knn-tissue-512", _TISSUE, 512, 2048, 64, 8),
    Shape("knn-tissue-768", _TISSUE, 768, 2048, 64, 8),
    Shape("knn-tissue-4096", _TISSUE, 4096, 512, 16, 2),
)


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    for shape in SHAPES:
        brute, tree = f"{shape.name}-brute", f"{shape.name}-tree"
        if any(map(plan.wants, (shape.name, brute, tree))):
            yield from _measure(plan, shape, brute, tree)


def _measure(plan: Plan, shape: Shape, brute: str, tree: str) -> Iterator[Result]:
    points = SupportSet.of(
        material.vectors(shape.support, shape.width), Distance.COSINE, "benchmark/train"
    )
    index = build(points, Kind.CPU)
    if plan.wants(shape.name):
        yield _against_product(plan, shape, points, index)
    if plan.wants(brute):
        rival = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine", n_jobs=-1)
        yield _against_sklearn(plan, brute, rival, points, index, shape.brute)
    if plan.wants(tree):
        rival = NearestNeighbors(n_neighbors=K, algorithm="ball_tree", n_jobs=-1)
        yield _against_sklearn(plan, tree, rival, points, index, shape.tree)


def _told(count: int, points: SupportSet) -> str:
    support, width = points.points.shape
    return f"{count:,} queries, {support:,} x {width:,}"


def _against_product(plan: Plan, shape: Shape, points: SupportSet, index: SearchIndex) -> Result:
    """The product is taken of some queries at a time with all points, always into one array."""
    queries = material.vectors(shape.queries, shape.width, 1)
    _check_exact(index, points, queries)
    space = np.empty((min(_BLOCK, len(queries)), len(points.points)), np.float32)

    def product() -> None:
        for first in range(0, len(queries), _BLOCK):
            part = queries[first : first + _BLOCK]
            np.matmul(part, points.points.T, out=space[: len(part)])

    product()
    search = timed(lambda: index.search(queries, K))
    spent = interleave([search, timed(product)], plan.rounds)
    detail = f"search {typical(spent[0]):.2f} s, product {typical(spent[1]):.2f} s"
    return compare(shape.name, _told(len(queries), points), spent, detail)


def _check_exact(index: SearchIndex, points: SupportSet, queries: Vectors) -> None:
    """Compare some of what is timed with the definition: every similarity by itself, in float64."""
    places = np.linspace(0, len(queries) - 1, _SAMPLE).astype(np.int64)
    some = queries[places]
    found, expected = index.search(queries, K), build(points, Kind.REFERENCE).search(some, K)
    same = np.array_equal(found.rows[places], expected.rows)
    if not (same and np.array_equal(found.similarities[places], expected.similarities)):
        raise EvaluationError("the search differs from the reference; it must not be timed")


def _against_sklearn(
    plan: Plan, name: str, rival: NearestNeighbors, points: SupportSet, index: SearchIndex,
    count: int,
) -> Result:  # fmt: skip
    """Queries of unit length, which the Euclidean distance of a tree orders as the cosine does."""
    queries = material.vectors(count, points.points.shape[1], 1)
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rival.fit(points.points)
    _check_neighbours(index.search(queries, K), rival.kneighbors(asked)[1], points, queries)
    sides = [timed(lambda: rival.kneighbors(asked)), timed(lambda: index.search(queries, K))]
    spent = interleave(sides, plan.rounds)
    detail = f"scikit-learn {typical(spent[0]):.2f} s, exact k-NN {typical(spent[1]):.2f} s"
    return compare(name, f"{_told(count, points)}, built before", spent, detail)


def _check_neighbours(
    found: Neighbours, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    points: SupportSet, queries: Vectors,
) -> None:  # fmt: skip
    """Float32 may swap neighbours that are nearly equal; their similarities have to agree."""
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    theirs = similarity(unit[:, None], points.points[rows], Distance.COSINE)
    check_equal(theirs, found.similarities, 1e-5, "neighbours of scikit-learn and ours")
