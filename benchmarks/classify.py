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
from benchmarks.rounds import (
    REST,
    Side,
    Spent,
    check_equal,
    interleave,
    timed,
    typical,
    wall_ratio,
    watch,
)
from benchmarks.runs import Bare, Embed, Images
from benchmarks.serving import Service, ask, serving, upload
from embedder.loading import load
from embedder.recipe import Recipe
from embedder.store import Cell
from embedder.types import Distance, Pixels, Split, Vectors
from index.build import build
from index.search import SupportSet

CASES = 10_000
SIZE = 28
CLIENTS = 32


@dataclass(frozen=True)
class Shape:
    """Requests of one client per round; images of 32 clients per round, and ``embed``'s batch."""

    single: int
    many: int
    batch: int


SHAPES = {"resnet18": Shape(20, 256, 64), "vit": Shape(4, 64, 16)}


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    for model, shape in SHAPES.items():
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
            yield _one(plan, service, bare, recipe, tiles[:1], shape.single)
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
    plan: Plan, service: Service, bare: Bare, recipe: Recipe, tile: Pixels, count: int
) -> Result:
    """Beside both sides, what ``embed`` takes for the image: it may compute less than the bare
    pass, and so does the service.
    """
    block, batch = upload(tile[0]), bare.prepare(tile)
    backbone = load(recipe, "cpu").backbone
    computed, expected = backbone.embed(tile), _forward(bare, batch)[0]
    check_equal(computed, expected, 1e-4, "what embed computes and the bare pass")

    def embed() -> Spent:
        return worker.submit(timed(lambda: backbone.embed(tile))).result()

    def forward() -> Spent:
        return worker.submit(_forward, bare, batch).result()[1]

    def request() -> Spent:
        return Spent(ask(service.port, [block], 1).latencies[0])

    with ThreadPoolExecutor(1) as worker:
        sides = [_repeated(action, count) for action in (request, forward, embed)]
        spent = interleave(sides, plan.rounds)
    times = [1000 * typical(side) for side in spent]
    alike = wall_ratio(spent[0], spent[2]).median
    detail = (
        f"request {times[0]:.1f} ms, forward {times[1]:.1f} ms, embed {times[2]:.1f} ms "
        f"(request / embed {alike:.2f})"
    )
    told = f"medians of {count} per round, {CASES:,} cases, PNG of {SIZE} px"
    return compare(f"classify-one-{recipe.backbone.name}", told, spent[:2], detail)


def _repeated(action: Side, count: int) -> Side:
    """The median of ``count`` runs, after one that finds the memory of another process in the
    processor's cache.
    """

    def side() -> Spent:
        runs = []
        for _ in range(count + 1):
            time.sleep(REST)
            runs.append(action())
        return Spent(typical(runs[1:]))

    return side


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
        return Spent(embed().wall / images.total)

    def clients() -> Spent:
        return Spent(ask(service.port, requests, CLIENTS).seconds / len(requests))

    spent = interleave([rate, clients], plan.rounds)
    rates = [1 / typical(side) for side in spent]
    detail = f"images/s: embed {rates[0]:.1f}, service {rates[1]:.1f}"
    told = f"{len(requests):,} uploads, {CASES:,} cases, PNG of {SIZE} px"
    return compare(f"classify-32-{recipe.backbone.name}", told, spent, detail)
