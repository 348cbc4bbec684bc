"""``embed --precision bf16`` against fp32: its rate, its embeddings, its neighbours' votes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import material
from benchmarks.machine import has_bf16
from benchmarks.plan import Plan
from benchmarks.results import Result, absent, compare
from benchmarks.rounds import check_equal, interleave, typical
from benchmarks.runs import Embed, Images
from embedder.datasets import DATASETS, Dataset, ImageSource
from embedder.loading import load
from embedder.npz import NpzSource
from embedder.phantom import PhantomSource
from embedder.recipe import Precision
from embedder.types import Distance, Labels, Split, Vectors
from evaluate.metrics import measure as measure_scores
from index.build import build
from index.search import SupportSet
from index.vote import MajorityVote, count_votes

K = 11


@dataclass(frozen=True)
class Shape:
    """Images that are timed, and at a time; train and test cases whose votes are compared."""

    count: int
    batch: int
    train: int
    test: int


SHAPES = {"resnet18": Shape(64, 32, 256, 128), "vit": Shape(8, 4, 128, 64)}


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    for model, shape in SHAPES.items():
        name = f"precision-{model}"
        if plan.wants(name):
            if has_bf16():
                yield _measure(plan, folder / model, name, model, shape)
            else:
                yield absent(name, "not on this CPU, which has neither AMX nor AVX512-BF16")


def _measure(plan: Plan, folder: Path, name: str, model: str, shape: Shape) -> Result:
    full = Images(folder / "fp32", 28, shape.count, shape.batch)
    half = Images(folder / "bf16", 28, shape.count, shape.batch)
    sides = []
    for images, precision in ((full, Precision.FP32), (half, Precision.BF16)):
        images.write()
        sides.append(Embed(images, material.recipe(model, precision), plain=True))
    for side in sides:
        side()
    cosines = cosine(sides[0].vectors(), sides[1].vectors())
    check_equal(cosines, np.ones(len(cosines)), 0.05, f"{model}, fp32 and bf16")
    _check_order(sides[0].vectors(), sides[1].vectors())
    spent = interleave(sides, plan.rounds)
    rates = [full.total / typical(side) for side in spent]
    detail = (
        f"images/s: fp32 {rates[0]:.1f}, bf16 {rates[1]:.1f}; cosine of both embeddings "
        f"{np.median(cosines):.5f}, at least {cosines.min():.5f}; {_votes(model, shape)}"
    )
    return compare(name, f"{full.describe()}, 28 px", spent, detail)


def _check_order(full: Vectors, half: Vectors) -> None:
    """Each image is nearest to itself, or to one that is the same, once the mean is taken off:
    untrained networks put all images close together.
    """
    one, other = (vectors - full.mean(axis=0) for vectors in (full, half))
    unit = one / np.linalg.norm(one, axis=1, keepdims=True)
    nearest = (other @ unit.T).argmax(axis=1)
    check_equal(full[nearest], full, 1e-3, "the nearest of each image by bf16 and itself")


def cosine(one: Vectors, other: Vectors) -> Vectors:
    a, b = one.astype(np.float64), other.astype(np.float64)
    found = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.asarray(found, np.float32)


def _votes(model: str, shape: Shape) -> str:
    """How the accuracy of the k-NN vote changes, on real data where it is at hand."""
    source = _source()
    some: dict[Split, list[int]] = {}
    for split, most in ((Split.TRAIN, shape.train), (Split.TEST, shape.test)):
        count = source.dataset.count(split)
        rng = np.random.default_rng(0)
        some[split] = sorted(map(int, rng.permutation(count)[: min(most, count)]))
    found = [
        _accuracy(source, some, model, precision) for precision in (Precision.FP32, Precision.BF16)
    ]
    return (
        f"accuracy of k-NN (k = {K}) on {len(some[Split.TEST])} of {source.dataset.name}'s test "
        f"cases by {len(some[Split.TRAIN])} train cases: fp32 {100 * found[0]:.2f} %, "
        f"bf16 {100 * found[1]:.2f} %"
    )


def _source() -> ImageSource:
    dataset: Dataset = DATASETS["pneumoniamnist"]
    path = Path(os.environ.get("CASEBOOK_DATA") or ".") / f"{dataset.name}.npz"
    return (
        NpzSource(path, dataset) if path.exists() else PhantomSource(DATASETS["phantom-cells"], 28)
    )


def _accuracy(
    source: ImageSource, some: dict[Split, list[int]], model: str, precision: Precision
) -> float:
    backbone = load(material.recipe(model, precision), "cpu").backbone
    embedded: dict[Split, Vectors] = {}
    labels: dict[Split, Labels] = {}
    for split, rows in some.items():
        pixels = source.pick(split, rows)
        parts = [backbone.embed(pixels[first : first + 64]) for first in range(0, len(rows), 64)]
        embedded[split], labels[split] = np.concatenate(parts), source.labels(split)[rows]
    points = SupportSet.of(embedded[Split.TRAIN], Distance.COSINE, "train")
    found = build(points).search(embedded[Split.TEST], K)
    dataset = source.dataset
    scores = count_votes(
        found, labels[Split.TRAIN], dataset.task, len(dataset.classes), MajorityVote(),
        Distance.COSINE,
    )  # fmt: skip
    figures = measure_scores(
        labels[Split.TEST], scores, dataset.task, dataset.classes, with_auc=False
    )
    return figures.accuracy
