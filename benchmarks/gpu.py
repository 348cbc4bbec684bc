"""``embed`` and exact k-NN on a CUDA device, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.results import Result, absent, compare
from benchmarks.rounds import check_equal, interleave, timed, typical
from benchmarks.runs import Bare, Embed, Images
from embedder.errors import EvaluationError, SearchError
from embedder.recipe import Precision
from embedder.types import Distance
from index.build import Kind, build, resolve
from index.search import SupportSet

COUNT, BATCH = 2048, 256
SUPPORT, WIDTH, QUERIES, K = 165_466, 768, 2048, 11


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    device = "cuda" if torch.cuda.is_available() else None
    for model in ("resnet18", "vit"):
        for precision in Precision:
            name = f"gpu-embed-{model}-{precision}"
            if plan.wants(name):
                images = Images(folder / name, 28, COUNT, BATCH)
                yield embed(plan, name, model, precision, images, device)
    if plan.wants("gpu-knn"):
        yield _knn(plan)


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
    tolerance = 1e-3 if precision is Precision.FP32 else 0.02
    check_equal(sides[0].vectors(), sides[1].vectors(), tolerance, name)
    ours, theirs = interleave(sides, plan.rounds)
    rates = [images.total / typical(side) for side in (ours, theirs)]
    detail = f"images/s: embed {rates[0]:.0f}, bare {rates[1]:.0f}; {told(busy(sides[0]))}"
    return compare(name, images.describe(), (theirs, ours), detail)


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


def _knn(plan: Plan) -> Result:
    try:
        resolve(Kind.GPU)
    except SearchError:
        return absent("gpu-knn", "no CUDA device that FAISS can use")
    points = SupportSet.of(material.vectors(SUPPORT, WIDTH), Distance.COSINE, "benchmark/train")
    queries = material.vectors(QUERIES, WIDTH, 1)
    sides = [build(points, kind) for kind in (Kind.CPU, Kind.GPU)]
    found = [side.search(queries, K).rows for side in sides]
    if not np.array_equal(found[0], found[1]):
        raise EvaluationError("the CPU's neighbours and the GPU's differ; report it")
    spent = interleave([timed(partial(side.search, queries, K)) for side in sides], plan.rounds)
    detail = f"CPU {typical(spent[0]):.2f} s, GPU {typical(spent[1]):.2f} s"
    return compare("gpu-knn", f"{QUERIES:,} queries, {SUPPORT:,} x {WIDTH}", spent, detail)
