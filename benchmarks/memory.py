"""The largest resident size of commands against the size of what they work on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.processes import peak_bytes, peak_of, resident_of
from benchmarks.results import Result, absent
from benchmarks.rounds import Spread
from benchmarks.serving import ask, serving, upload
from embedder.recipe import Recipe
from embedder.types import Split

SMALL = "timm:test_vit.r160_in1k"
"""A network that takes little memory itself, so that a dataset kept in memory would show."""

COUNT, MORE = 128, 8
"""Images, and how many times as many: were they kept, the peak would be about 1.15 times that."""

BATCH = 16
CASES = 100_000
QUERIES = 1024
TINY = 64


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    if plan.wants("memory-embed"):
        yield _embed(plan, folder)
    if not (plan.wants("memory-knn") or plan.wants("memory-serve")):
        return
    recipe = material.recipe("resnet18")
    weights = material.weights_hash(recipe)
    for name, count in (("large", CASES), ("tiny", TINY)):
        material.store_cell(folder / name, recipe, weights, (count, 1, QUERIES), "cases")
    if plan.wants("memory-knn"):
        yield _over_embeddings(plan, "memory-knn", recipe, lambda name: _knn(folder, name))
    if plan.wants("memory-serve"):
        if peak_of(os.getpid()) is None:
            yield absent("memory-serve", "the system does not tell the peak of a running process")
        else:
            yield _over_embeddings(plan, "memory-serve", recipe, lambda name: _serve(folder, name))


def _embed(plan: Plan, folder: Path) -> Result:
    peaks: dict[str, list[int]] = {"few": [], "many": []}
    for name, count in (("few", COUNT), ("many", MORE * COUNT)):
        tiles = material.tiles(224, count)
        images = {Split.TRAIN: tiles, Split.VAL: tiles[:1], Split.TEST: tiles[:1]}
        material.write_npz(folder / f"{name}.npz", images)
    for _ in range(plan.rounds):
        for name, found in peaks.items():
            found.append(
                peak_bytes(
                    folder, "embed", "--model", SMALL, "--random-weights", "0", "--device", "cpu",
                    "--batch-size", str(BATCH), "--dataset", f"{name}.npz",
                    "--store", f"store-{name}",
                )
            )  # fmt: skip
            _remove_cells(folder / f"store-{name}")
    ratios = [many / few for many, few in zip(peaks["many"], peaks["few"], strict=True)]
    detail = f"{min(peaks['few']) / 1e6:.0f} and {max(peaks['many']) / 1e6:.0f} MB"
    told = (
        f"{COUNT} and {MORE * COUNT:,} colour images, 224 px, batches of {BATCH}, a small network"
    )
    return Result("memory-embed", told, Spread.of(ratios), None, len(ratios), detail)


def _remove_cells(store: Path) -> None:
    for path in store.rglob("*.h5"):
        path.unlink()


def _over_embeddings(plan: Plan, name: str, recipe: Recipe, peak: Callable[[str], int]) -> Result:
    size = (CASES - TINY) * recipe.backbone.width * 4
    peaks = [(peak("large"), peak("tiny")) for _ in range(plan.rounds)]
    ratios = [(large - tiny) / size for large, tiny in peaks]
    told = f"{CASES:,} x {recipe.backbone.width} and {TINY} x {recipe.backbone.width}"
    large, tiny = peaks[-1]
    detail = f"{large / 1e6:.0f} and {tiny / 1e6:.0f} MB; mapped files count"
    return Result(name, told, Spread.of(ratios), None, len(ratios), detail)


def _knn(folder: Path, name: str) -> int:
    return peak_bytes(folder, "knn-eval", "--k", "11", "--store", name)


def _serve(folder: Path, name: str) -> int:
    """The peak or, with the few cases, what is left of it: loading takes memory for a moment, which
    with many cases is free again when they come.
    """
    with serving(folder, folder / name) as service:
        ask(service.port, [upload(tile) for tile in material.tiles(28, 8)], 4)
        return (resident_of if name == "tiny" else peak_of)(service.process) or 0
