"""``/classify`` against the bare forward pass of one image, and against ``embed``'s rate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.results import Result, compare
from benchmarks.rounds import Spent, check_equal, interleave, typical, watch
from benchmarks.runs import Bare, Embed, Images
from benchmarks.serving import Service, ask, serving, upload
from embedder.recipe import Recipe
from embedder.store import Cell
from embedder.types import Distance, Split, Vectors
from index.build import build
from index.search import SupportSet

CASES = 10_000
SIZE = 28
CLIENTS = 32
_REST = 0.02
"""Seconds in which the threads of the side before stop waiting for work."""


@dataclass(frozen=True)
class Shape:
    """Requests of one client per round; images of 32 clients per round, and ``embed``'s batch."""

    single: int
    many: int
    batch: int


SHAPES = {"resnet18": Shape(20, 384, 64), "vit": Shape(6, 64, 16)}
FULL = {"resnet18": Shape(100, 640, 64), "vit": Shape(30, 256, 64)}


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    for model, shape in (FULL if plan.full else SHAPES).items():
        names = (f"classify-one-{model}", f"classify-32-{model}")
        if any(map(plan.wants, names)):
            yield from _measure(plan, folder / model, model, shape)


def _measure(plan: Plan, folder: Path, model: str, shape: Shape) -> Iterator[Result]:
    recipe = material.recipe(model)
    store = folder / "store"
    cell = material.store_cell(store, recipe, material.weights_hash(recipe), (CASES, 1, 1), "cases")
    images = Images(folder / "images", SIZE, shape.many, shape.batch)
    images.write()
    tiles = images.split()[Split.TRAIN]
    requests = [upload(tile) for tile in tiles]
    with serving(folder, store) as service:
        ask(service.port, requests[:CLIENTS], CLIENTS)
        bare = Bare(Images(folder / "alone", SIZE, 1, 1), recipe)
        batch = bare.prepare(tiles[:1])
        _check(service, cell, requests[0], _forward(bare, batch)[0])
        if plan.wants(f"classify-one-{model}"):
            yield _one(plan, service, bare, batch, requests[0], model, shape.single)
        if plan.wants(f"classify-32-{model}"):
            yield _many(plan, service, images, recipe, requests)


def _check(service: Service, cell: Cell, request: bytes, vector: Vectors) -> None:
    """The neighbours that are answered are those of the bare embedding of the same image."""
    answer = ask(service.port, [request], 1).answers[0]
    points = SupportSet.of(cell.embeddings(Split.TRAIN), Distance.COSINE, "cases/train")
    expected = build(points).search(vector, len(answer["neighbours"])).similarities[0]
    found = np.array([neighbour["similarity"] for neighbour in answer["neighbours"]])
    check_equal(found, expected, 1e-4, "similarities answered and computed")


def _one(
    plan: Plan, service: Service, bare: Bare, batch: torch.Tensor, block: bytes, model: str,
    count: int,
) -> Result:  # fmt: skip
    def forward() -> Spent:
        time.sleep(_REST)
        return worker.submit(_forward, bare, batch).result()[1]

    def request() -> Spent:
        time.sleep(_REST)
        return Spent(ask(service.port, [block], 1).latencies[0])

    with ThreadPoolExecutor(1) as worker:
        singles = interleave([request, forward], plan.rounds * count)
    spent = [_medians(side, count) for side in singles]
    times = [1000 * typical(side) for side in spent]
    detail = f"request {times[0]:.1f} ms, forward {times[1]:.1f} ms"
    told = f"medians of {count} per round, {CASES:,} cases, PNG of {SIZE} px"
    return compare(f"classify-one-{model}", told, spent, detail)


def _forward(bare: Bare, batch: torch.Tensor) -> tuple[Vectors, Spent]:
    """In a thread beside the main one, as in the service: on a busy machine that is the faster one,
    since with two teams of threads OpenMP lets none of them spin while it waits.
    """
    with watch() as spent, torch.inference_mode():
        features = bare.features(batch)
    return features.numpy(), Spent(spent.wall)


def _many(
    plan: Plan, service: Service, images: Images, recipe: Recipe, requests: list[bytes]
) -> Result:
    embed = Embed(images, recipe)
    embed()

    def rate() -> Spent:
        """Seconds per image, as the sides differ by two images."""
        time.sleep(_REST)
        return Spent(embed().wall / images.total)

    def clients() -> Spent:
        time.sleep(_REST)
        return Spent(ask(service.port, requests, CLIENTS).seconds / len(requests))

    spent = interleave([rate, clients], plan.rounds)
    rates = [1 / typical(side) for side in spent]
    detail = f"images/s: embed {rates[0]:.1f}, service {rates[1]:.1f}"
    told = f"{len(requests):,} uploads, {CASES:,} cases, PNG of {SIZE} px"
    return compare(f"classify-32-{recipe.backbone.name}", told, spent, detail)


def _medians(spent: list[Spent], count: int) -> list[Spent]:
    """Of every ``count`` runs that follow one another: requests and passes alternate."""
    return [Spent(typical(spent[first : first + count])) for first in range(0, len(spent), count)]
