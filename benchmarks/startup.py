"""How long commands take to say what they do, and the service to be ready: seconds, not ratios."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.processes import run
from benchmarks.results import Result
from benchmarks.rounds import Spread, interleave, typical
from benchmarks.serving import serving

COMMANDS = (
    ("embed",), ("knn-eval",), ("probe-eval",), ("casebook",), ("casebook", "serve"),
)  # fmt: skip
CASES = 100_000


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    if plan.wants("start-help"):
        yield _help(plan, folder)
    if plan.wants("start-serve"):
        yield _serve(plan, folder)


def _help(plan: Plan, folder: Path) -> Result:
    sides = [partial(run, folder, *words, "--help") for words in COMMANDS]
    interleave(sides, 1)
    spent = interleave(sides, plan.rounds)
    rounds = [max(one.wall for one in row) for row in zip(*spent, strict=True)]
    slowest = max(zip(COMMANDS, spent, strict=True), key=lambda pair: typical(pair[1]))[0]
    detail = f"the slowest is mostly {' '.join(slowest)}"
    names = ", ".join(" ".join(words) for words in COMMANDS)
    return Result("start-help", names, Spread.of(rounds), None, len(rounds), detail)


def _serve(plan: Plan, folder: Path) -> Result:
    recipe = material.recipe("vit")
    store = folder / "store"
    material.store_cell(store, recipe, material.weights_hash(recipe), (CASES, 1, 1), "cases")
    besides, loading = [], []
    for _ in range(plan.rounds):
        with serving(folder, store) as service:
            besides.append(service.seconds - service.loading)
            loading.append(service.loading)
    detail = f"loading vit took {median(loading):.2f} s more"
    told = f"{CASES:,} x {recipe.backbone.width}, in the page cache"
    return Result("start-serve", told, Spread.of(besides), None, plan.rounds, detail)
