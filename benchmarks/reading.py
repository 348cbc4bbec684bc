"""Reading a cell into the index against reading its bytes, from the page cache and without it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import material
from benchmarks.plan import Plan
from benchmarks.results import Result, absent, compare
from benchmarks.rounds import Side, Spent, check_equal, interleave, timed, typical, watch
from embedder.errors import EvaluationError
from embedder.store import Cell, Store
from embedder.types import Distance, Split, Vectors
from index.build import Kind, build
from index.search import SupportSet

ROWS = 165466
_SAMPLES = 64

_KEPT = "the system keeps the file in its page cache"

_TRIES = 50
"""To have the system forget a file: pages that another core has just read stay for a moment."""


def measure(plan: Plan, folder: Path) -> Iterator[Result]:
    recipe = material.recipe("vit")
    cell = material.store_cell(folder, recipe, "none", (ROWS, 1, 1), "reading")
    width = recipe.backbone.width
    shape = f"{ROWS:,} x {width}, {ROWS * width * 4 / 1e6:.0f} MB"
    _check(folder, cell)
    ours, theirs = timed(lambda: into_index(folder, cell.path)), timed(lambda: plain(cell))
    if plan.wants("reading-warm"):
        yield _measure(plan, "reading-warm", shape, [ours, theirs])
    if plan.wants("reading-cold"):
        cold = [_cold(cell.path, lambda: into_index(folder, cell.path)),
                _cold(cell.path, lambda: plain(cell))]  # fmt: skip
        try:
            yield _measure(plan, "reading-cold", shape, cold)
        except EvaluationError as error:
            yield absent("reading-cold", str(error))


def _measure(plan: Plan, name: str, shape: str, sides: list[Side]) -> Result:
    spent = interleave(sides, plan.rounds)
    detail = f"cell {typical(spent[0]):.2f} s, np.fromfile {typical(spent[1]):.2f} s"
    return compare(name, shape, spent, detail)


def into_index(root: Path, path: Path) -> SupportSet:
    """What ``knn-eval`` does before it searches: open, check, normalise, build."""
    cell = Store(root).read(path)
    points = SupportSet.of(cell.embeddings(Split.TRAIN), Distance.COSINE, "reading/train")
    build(points, Kind.CPU)
    return points


def plain(cell: Cell) -> Vectors:
    extent = cell.extents[Split.TRAIN]
    count = extent.rows * extent.width
    return np.fromfile(cell.path, np.float32, count, offset=extent.offset)


def drop(path: Path) -> bool:
    """Ask the system to forget the file's pages; whether it did."""
    with path.open("rb") as stream:
        handle = stream.fileno()
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        places = np.linspace(0, path.stat().st_size - 4096, _SAMPLES).astype(np.int64)
        return not any(_is_cached(handle, int(place)) for place in places)


def _is_cached(handle: int, place: int) -> bool:
    try:
        return os.preadv(handle, [bytearray(1)], place, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False


def _cold(path: Path, action: Callable[[], object]) -> Side:
    def side() -> Spent:
        tries = 0
        while not drop(path):
            if (tries := tries + 1) == _TRIES:
                raise EvaluationError(_KEPT)
            time.sleep(0.02)
        with watch() as spent:
            action()
        return spent

    return side


def _check(root: Path, cell: Cell) -> None:
    """The index has the file's rows, of unit length."""
    extent = cell.extents[Split.TRAIN]
    rows = plain(cell).reshape(extent.rows, extent.width)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    check_equal(into_index(root, cell.path).points, unit, 1e-6, "cell and np.fromfile")
