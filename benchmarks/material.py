"""What is measured on: image files, embeddings and cells, the same ones at every run."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from embedder.datasets import DATASETS, Dataset
from embedder.fingerprint import library_versions
from embedder.loading import describe
from embedder.network import hash_weights
from embedder.phantom import PhantomSource
from embedder.plan import PlannedCell, State
from embedder.recipe import Precision, Recipe, Weights
from embedder.store import Cell, Header, Store
from embedder.types import Labels, Pixels, Split, Task, Vectors
from embedder.weights import build
from embedder.writer import CellWriter

SEED = 0
CLASSES = 11

_TILES = 32
_DIRECTIONS = 64
_CHUNK = 8192


def recipe(model: str, precision: Precision = Precision.FP32) -> Recipe:
    """Untrained, from one seed: what is computed takes as long with any weights."""
    return Recipe(describe(model), Weights(random_seed=SEED), precision)


def tiles(size: int, count: int) -> Pixels:
    """Colour images of cells, uint8 (N, S, S, 3): 32 different ones, in a random order."""
    source = PhantomSource(DATASETS["phantom-cells"], size)
    some = source.pick(Split.TRAIN, range(_TILES))
    rng = np.random.default_rng(SEED)
    return np.asarray(some[rng.integers(0, _TILES, count)])


def write_npz(path: Path, images: dict[Split, Pixels]) -> None:
    """A dataset file deflated as MedMNIST's are, at the fastest level; two classes in turn."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for split, array in images.items():
            labels = (np.arange(len(array)) % 2).astype(np.uint8)[:, None]
            for part, values in (("images", array), ("labels", labels)):
                with archive.open(f"{split}_{part}.npy", "w") as stream:
                    np.save(stream, values)


def vectors(count: int, width: int, part: int = 0) -> Vectors:
    """Embeddings like real ones, float32 (N, D): eleven classes that overlap, 64 directions in
    which cases differ, and a little noise in all; another ``part`` has other cases of the classes.
    """
    rng = np.random.default_rng(SEED)
    centres = rng.standard_normal((CLASSES, width), np.float32)
    directions = rng.standard_normal((_DIRECTIONS, width), np.float32) / 4
    rng = np.random.default_rng([SEED, 1 + part])
    found = np.empty((count, width), np.float32)
    for first in range(0, count, _CHUNK):
        rows = min(_CHUNK, count - first)
        block = rng.standard_normal((rows, width), np.float32) / 8
        block += rng.standard_normal((rows, _DIRECTIONS), np.float32) @ directions
        found[first : first + rows] = block + centres[rng.integers(0, CLASSES, rows)]
    return found


def weights_hash(made: Recipe) -> str:
    return hash_weights(build(made))


def store_cell(
    root: Path, made: Recipe, weights: str, counts: tuple[int, int, int], name: str
) -> Cell:
    """A complete cell of random embeddings that says of itself that the recipe made it."""
    classes = tuple(f"class {number}" for number in range(CLASSES))
    dataset = Dataset(name, Task.MULTICLASS, 3, counts, classes, "unknown")
    store = Store(root)
    path = store.path(name, 28, made.variant)
    planned = PlannedCell(name, dataset, 28, made, path, State.NEW)
    fingerprint = planned.fingerprint("npz-crc:sha256:00", weights)
    labels = {split: _labels(dataset.count(split)) for split in Split}
    with CellWriter(
        path, Header(dataset, made.variant, fingerprint, library_versions()), labels
    ) as writer:
        for part, split in enumerate(Split):
            writer.append(split, 0, vectors(dataset.count(split), made.backbone.width, part))
        writer.finish()
    return store.read(path)


def _labels(count: int) -> Labels:
    return (np.arange(count) % CLASSES).astype(np.uint8)[:, None]
