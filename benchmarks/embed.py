"""``embed`` against the bare network on ready tensors, and against the common script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.results import Result, compare
from benchmarks.rounds import Side, check_equal, interleave, typical
from benchmarks.runs import Bare, Embed, Images, Script, workers


@dataclass(frozen=True)
class Shape:
    """How many images, and how many at a time; a network that is slow gets fewer."""

    count: int
    batch: int


SHAPES = {"resnet18": Shape(128, 64), "vit": Shape(8, 4)}
FULL = {"resnet18": Shape(1024, 64), "vit": Shape(256, 64)}
SIZES = (28, 224)


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    for model, shape in (FULL if plan.full else SHAPES).items():
        for size in SIZES:
            name = f"embed-{model}-{size}"
            wanted = [n for n in (f"{name}-bare", f"{name}-script") if plan.wants(n)]
            if wanted:
                images = Images(folder / name, size, shape.count, shape.batch)
                yield from _measure(plan, images, model, wanted)


def _measure(plan: Plan, images: Images, model: str, wanted: list[str]) -> Iterator[Result]:
    images.write()
    recipe = material.recipe(model)
    embed, bare = Embed(images, recipe), Bare(images, recipe)
    script = Script(images, recipe, bare.features)
    rivals: dict[str, tuple[Side, str]] = {}
    for name in wanted:
        rivals[name] = (bare, "bare") if name.endswith("bare") else (script, "script")
    _check(embed, bare, script, model)
    spent = interleave([embed, *(side for side, _ in rivals.values())], plan.rounds)
    for (name, (_, noun)), theirs in zip(rivals.items(), spent[1:], strict=True):
        rates = [images.total / typical(side) for side in (spent[0], theirs)]
        detail = f"images/s: embed {rates[0]:.1f}, {noun} {rates[1]:.1f}"
        if noun == "script":
            detail += f" with {workers()} workers"
        yield compare(name, images.describe(), (theirs, spent[0]), detail)


def _check(embed: Embed, bare: Bare, script: Script, model: str) -> None:
    """Run each side once, which warms it up, and compare what it computes."""
    for side in (embed, bare, script):
        side()
    check_equal(embed.vectors(), bare.vectors(), 1e-4, f"{model}, embed and bare")
    check_equal(embed.vectors(), script.vectors(), 1e-4, f"{model}, embed and script")
