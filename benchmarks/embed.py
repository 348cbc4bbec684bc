"""``embed`` against the bare network on ready tensors, and against the common script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.results import Result, compare
from benchmarks.rounds import check_equal, interleave, typical
from benchmarks.runs import Bare, Embed, Images, Script, workers


@dataclass(frozen=True)
class Shape:
    """How many images, and how many at a time; a network that is slow gets fewer."""

    count: int
    batch: int


SHAPES = {
    ("resnet18", 28): Shape(128, 64),
    ("resnet18", 224): Shape(256, 64),
    ("vit", 28): Shape(8, 4),
    ("vit", 224): Shape(8, 4),
}
"""By model and size; of large images inflating the first batch would weigh too much in fewer."""


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    for (model, size), shape in SHAPES.items():
        name = f"embed-{model}-{size}"
        wanted = [n for n in (f"{name}-bare", f"{name}-script") if plan.wants(n)]
        if wanted:
            images = Images(folder / name, size, shape.count, shape.batch)
            yield from _measure(plan, images, model, wanted)


def _measure(plan: Plan, images: Images, model: str, wanted: list[str]) -> Iterator[Result]:
    images.write()
    recipe = material.recipe(model)
    bare = Bare(images, recipe)
    for name in wanted:
        against_bare = name.endswith("bare")
        embed = Embed(images, recipe, plain=against_bare)
        rival = bare if against_bare else Script(images, recipe)
        _check(embed, rival, name)
        ours, theirs = interleave([embed, rival], plan.rounds)
        rates = [images.total / typical(side) for side in (ours, theirs)]
        detail = (
            f"images/s: embed {rates[0]:.1f}, {'bare' if against_bare else 'script'} {rates[1]:.1f}"
        )
        if not against_bare:
            detail += f" with {workers()} workers"
        yield compare(name, images.describe(), (theirs, ours), detail)


def _check(embed: Embed, rival: Bare | Script, name: str) -> None:
    """Run both sides once, which warms them up, and compare what they compute."""
    embed()
    rival()
    check_equal(embed.vectors(), rival.vectors(), 1e-4, f"{name}, both sides")
