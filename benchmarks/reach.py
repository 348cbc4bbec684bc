"""Convolutional backbones by windows, as ``embed`` has them, against the whole canvas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.results import Result, compare
from benchmarks.rounds import check_equal, interleave, timed, typical
from embedder.backbones import Backbone
from embedder.loading import load
from embedder.types import Pixels

MODELS = ("vgg16", "alexnet", "resnet18", "densenet121", "efficientnet_b4")
SIZES = (28, 64, 128)


COUNT = 16
"""Images that are embedded, all at a time."""


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    for model in MODELS:
        wanted = [size for size in SIZES if plan.wants(f"reach-{model}-{size}")]
        if wanted:
            recipe = material.recipe(model)
            windows, plain = load(recipe, "cpu"), load(recipe, "cpu", plain=True)
            for size in wanted:
                name = f"reach-{model}-{size}"
                pixels = material.tiles(size, COUNT)
                yield compare_ways(plan, name, pixels, windows.backbone, plain.backbone)


def compare_ways(
    plan: Plan, name: str, pixels: Pixels, windows: Backbone, plain: Backbone,
    tolerance: float = 1e-5,
) -> Result:  # fmt: skip
    found, expected = windows.embed(pixels), plain.embed(pixels)
    check_equal(found, expected, tolerance, f"{name}, windows and the whole canvas")
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    sides = [timed(lambda: plain.embed(pixels)), timed(lambda: windows.embed(pixels))]
    spent = interleave(sides, plan.rounds)
    rates = [len(pixels) / typical(side) for side in spent]
    same = "the same bits" if not errors.any() else f"relative error at most {errors.max():.0e}"
    detail = f"images/s: plain {rates[0]:.1f}, windows {rates[1]:.1f}; {same}"
    return compare(name, f"{len(pixels)} colour images at a time", spent, detail)
