"""``embed`` and exact k-NN on a CUDA device, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from benchmarks import material, reach
from benchmarks.plan import Plan
from benchmarks.results import Result, absent, compare
from benchmarks.rounds import check_equal, interleave, timed, typical
from benchmarks.runs import Bare, Embed, Images
from embedder.errors import EvaluationError, SearchError
from embedder.loading import load
from embedder.recipe import Precision
from embedder.types import Distance, Pixels, Vectors
from index.build import Kind, build, resolve
from index.search import SupportSet

COUNT, BATCH = 2048, 256
_TOLERANCE = 1e-3
"""Of fp32 on a GPU, which may compute another shape by another algorithm."""

SUPPORT, WIDTH, QUERIES, K = 165_466, 768, 2048, 11


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    device = "cuda" if torch.cuda.is_available() else None
    for model, size, precision in product(("resnet18", "vit"), (28, 224), Precision):
        name = f"gpu-embed-{model}-{size}-{precision}"
        if plan.wants(name):
            images = Images(folder / name, size, COUNT, BATCH)
            yield embed(plan, name, model, precision, images, device)
    for model in ("vgg16", "resnet18"):
        name = f"gpu-reach-{model}-28"
        if plan.wants(name):
            yield windows(plan, name, model, material.tiles(28, BATCH), device)
    if wanted := [name for name in ("gpu-knn-product", "gpu-knn") if plan.wants(name)]:
        yield from search(plan, wanted, device)


def embed(
    plan: Plan, name: str, model: str, precision: Precision, images: Images, device: str | None
) -> Result:
    if device is None:
        return absent(name, "no CUDA device")
    images.write()
    recipe = material.recipe(model, precision)
    sides = Embed(images, recipe, device, plain=True), Bare(images, recipe, device)
    for side in sides:
        side()
    tolerance = _TOLERANCE if precision is Precision.FP32 else 0.02
    check_equal(sides[0].vectors(), sides[1].vectors(), tolerance, name)
    ours, theirs = interleave(sides, plan.rounds)
    rates = [images.total / typical(side) for side in (ours, theirs)]
    detail = f"images/s: embed {rates[0]:.0f}, bare {rates[1]:.0f}; {told(busy(sides[0]))}"
    return compare(name, images.describe(), (theirs, ours), detail)


def windows(plan: Plan, name: str, model: str, pixels: Pixels, device: str | None) -> Result:
    if device is None:
        return absent(name, "no CUDA device")
    recipe = material.recipe(model)
    ways = load(recipe, device).backbone, load(recipe, device, plain=True).backbone
    return reach.compare_ways(plan, name, pixels, *ways, tolerance=_TOLERANCE)


def busy(action: Callable[[], object]) -> list[float]:
    """Percentages of time in which the first GPU computes, ten a second while the action runs.

    None of them where there is no ``nvidia-smi``.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    words = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    sampler = subprocess.Popen(
        [command, *words, "--loop-ms=100"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        action()
    finally:
        sampler.terminate()
        lines = sampler.communicate()[0].splitlines()
    return [float(line) for line in lines if line.strip().isdecimal()]


def told(shares: list[float]) -> str:
    if not shares:
        return "how busy the GPU is, nvidia-smi does not tell"
    share = fmean(shares)
    return f"embed has the GPU busy for {share:.0f} % of its time, and wait for {100 - share:.0f} %"


def search(plan: Plan, wanted: list[str], device: str | None) -> Iterator[Result]:
    try:
        resolve(Kind.GPU)
    except SearchError:
        device = None
    if device is None:
        yield from (absent(name, "no CUDA device that torch and FAISS can use") for name in wanted)
        return
    points = SupportSet.of(material.vectors(SUPPORT, WIDTH), Distance.COSINE, "benchmark/train")
    queries = material.vectors(QUERIES, WIDTH, 1)
    indexes = [build(points, kind) for kind in (Kind.CPU, Kind.GPU)]
    found = [index.search(queries, K).rows for index in indexes]
    if not np.array_equal(found[0], found[1]):
        raise EvaluationError("the CPU's neighbours and the GPU's differ; report it")
    on_cpu, on_gpu = (timed(partial(index.search, queries, K)) for index in indexes)
    bare = timed(_product(queries, points.points, device))
    bare()
    others = {"gpu-knn-product": ("search", on_gpu, "product", bare),
              "gpu-knn": ("CPU", on_cpu, "GPU", on_gpu)}  # fmt: skip
    for name in wanted:
        one, upper, other, lower = others[name]
        spent = interleave([upper, lower], plan.rounds)
        detail = f"{one} {typical(spent[0]):.3f} s, {other} {typical(spent[1]):.3f} s"
        yield compare(name, f"{QUERIES:,} queries, {SUPPORT:,} x {WIDTH}", spent, detail)


def _product(queries: Vectors, points: Vectors, device: str) -> Callable[[], object]:
    """Of queries and points that are on the device already, to the end of the computation."""
    one, other = torch.from_numpy(queries).to(device), torch.from_numpy(points).to(device)

    def multiply() -> None:
        found = one @ other.T
        if found.is_cuda:
            torch.cuda.synchronize()

    return multiply
