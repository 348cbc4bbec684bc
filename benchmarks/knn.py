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
    """``queries`` by default, ``all_queries`` with ``--full``."""

    name: str
    support: int
    width: int
    queries: int
    all_queries: int


_ORGAN, _TISSUE = (34561, 17778), (165466, 47280)


def _shape(name: str, counts: tuple[int, int], width: int, queries: int) -> Shape:
    return Shape(f"knn-{name}-{width}", counts[0], width, queries, counts[1])


SHAPES = (
    _shape("organa", _ORGAN, 512, 4096),
    _shape("organa", _ORGAN, 768, 4096),
    _shape("organa", _ORGAN, 4096, 1024),
    _shape("tissue", _TISSUE, 512, 2048),
    _shape("tissue", _TISSUE, 768, 2048),
    _shape("tissue", _TISSUE, 4096, 512),
)
RIVALS = (
    Shape("knn-brute", 34561, 512, 256, 2048),
    Shape("knn-ball-tree", 34561, 512, 64, 512),
)


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    for shape in SHAPES:
        if plan.wants(shape.name):
            yield _against_product(plan, shape)
    for shape in RIVALS:
        if plan.wants(shape.name):
            yield _against_sklearn(plan, shape)


def _data(plan: Plan, shape: Shape) -> tuple[SupportSet, Vectors, str]:
    count = shape.all_queries if plan.full else shape.queries
    points = SupportSet.of(
        material.vectors(shape.support, shape.width), Distance.COSINE, "benchmark/train"
    )
    told = f"{count:,} queries, {shape.support:,} x {shape.width:,}"
    return points, material.vectors(count, shape.width, 1), told


def _against_product(plan: Plan, shape: Shape) -> Result:
    """The product is taken of some queries at a time with all points, always into one array."""
    points, queries, told = _data(plan, shape)
    index = build(points, Kind.CPU)
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
    return compare(shape.name, told, spent, detail)


def _check_exact(index: SearchIndex, points: SupportSet, queries: Vectors) -> None:
    """Compare some of what is timed with the definition: every similarity by itself, in float64."""
    places = np.linspace(0, len(queries) - 1, _SAMPLE).astype(np.int64)
    some = queries[places]
    found, expected = index.search(queries, K), build(points, Kind.REFERENCE).search(some, K)
    same = np.array_equal(found.rows[places], expected.rows)
    if not (same and np.array_equal(found.similarities[places], expected.similarities)):
        raise EvaluationError("the search differs from the reference; it must not be timed")


def _against_sklearn(plan: Plan, shape: Shape) -> Result:
    points, queries, told = _data(plan, shape)
    index = build(points, Kind.CPU)
    if shape.name == "knn-brute":
        rival = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine", n_jobs=-1)
        asked = queries
    else:
        rival = NearestNeighbors(n_neighbors=K, algorithm="ball_tree", n_jobs=-1)
        asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rival.fit(points.points)
    _check_neighbours(index.search(queries, K), rival.kneighbors(asked)[1], points, queries)
    sides = [timed(lambda: rival.kneighbors(asked)), timed(lambda: index.search(queries, K))]
    spent = interleave(sides, plan.rounds)
    detail = f"scikit-learn {typical(spent[0]):.2f} s, exact k-NN {typical(spent[1]):.2f} s"
    return compare(shape.name, f"{told}, built before", spent, detail)


def _check_neighbours(
    found: Neighbours, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    points: SupportSet, queries: Vectors,
) -> None:  # fmt: skip
    """Float32 may swap neighbours that are nearly equal; their similarities have to agree."""
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    theirs = similarity(unit[:, None], points.points[rows], Distance.COSINE)
    check_equal(theirs, found.similarities, 1e-5, "neighbours of scikit-learn and ours")
