"""From settings to what is served: cells, their backbones, and a worker for each of both."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from embedder.datasets import ImageSource
from embedder.errors import BackboneError, StoreError, UsageError
from embedder.heap import give_back
from embedder.loading import LoadedBackbone, load
from embedder.recipe import Recipe
from embedder.selection import title
from embedder.sources import Library
from embedder.store import Cell
from embedder.types import Pixels, Vectors
from index.build import Kind
from service import png
from service.batcher import Batcher
from service.collection import Collection
from service.errors import BadUploadError
from service.overlay import Overlay, overlay_path
from service.probe import ServedProbe, find_probe
from service.settings import Settings
from service.startup import check, choose, find_images, recipe_of, refuse_unlike
from service.workers import Found, Query, embed_with, search_in

log = logging.getLogger("casebook")

Observe = Callable[[str, int, float], None]
"""Told of each batch: the worker's name, how many items, how many seconds."""


@dataclass(frozen=True)
class ServedCell:
    """A cell that is served, by its backbone's worker and one of its own.

    ``images`` is None where the dataset's file is not at hand, or is not what was embedded,
    ``probe`` where no head of the cell is in the store.
    """

    cell: Cell
    fingerprint: str
    collection: Collection
    embedder: Batcher[Pixels, Vectors]
    searcher: Batcher[Query, Found]
    images: ImageSource | None
    reader: ThreadPoolExecutor
    """Reads single images, apart from all else: one late in a large file may take a minute."""
    probe: ServedProbe | None

    @property
    def model(self) -> str:
        return self.cell.header.variant

    @property
    def untrained(self) -> bool:
        return self.cell.header.fingerprint.checkpoint.startswith("random:")

    def count(self) -> int:
        """Training cases that are searched now."""
        return len(self.collection.state.views[self.fingerprint].index)

    def version(self) -> int:
        return self.collection.state.version

    def as_stored(self, vector: Vectors) -> Vectors:
        """As it would be read from the cell, float32 (D,). Raises BadUploadError on overflow."""
        storage = self.cell.header.fingerprint.storage
        with np.errstate(over="ignore"):
            stored: Vectors = vector.astype(storage).astype(np.float32)
        if not np.isfinite(stored).all():
            raise BadUploadError(f"the embedding is not finite in {storage}; send another image")
        return stored


def fingerprint_of(cell: Cell) -> str:
    """``sha256:`` of a cell's fingerprint, the name by which answers give it."""
    text = cell.header.fingerprint.to_json().encode()
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


@dataclass(frozen=True)
class _Made:
    """A backbone, and the worker that runs it."""

    loaded: LoadedBackbone
    worker: Batcher[Pixels, Vectors]


class Served:
    """Everything that is served, loaded; ``close`` drains the workers and lets the store go.

    Raises CasebookError where a cell is incomplete or was made in another way than its backbone
    makes them now.
    """

    def __init__(self, settings: Settings, observe: Observe, report: Callable[[str], None]) -> None:
        self.cells: list[ServedCell] = []
        self.workers: list[Batcher[Pixels, Vectors]] = []
        self.searchers: list[Batcher[Query, Found]] = []
        self.collections: dict[str, Collection] = {}
        self._settings = settings
        self._observe = observe
        try:
            self._load(report)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        end = time.monotonic() + self._settings.drain
        for worker in self.workers:
            worker.close(max(0, end - time.monotonic()))
        for searcher in self.searchers:
            searcher.close(max(0, end - time.monotonic()))
        for cell in self.cells:
            cell.reader.shutdown(wait=False, cancel_futures=True)
        for cases in self.collections.values():
            cases.close()

    def _load(self, report: Callable[[str], None]) -> None:
        chosen = choose(self._settings)
        made: dict[Recipe, _Made] = {}
        makers: list[_Made] = []
        for cell in chosen:
            recipe = recipe_of(cell, self._settings.weights)
            if recipe not in made:
                report(f"loading {recipe.variant}")
                on_cpu = recipe.backbone.library == "scikit-image"  # whatever the others run on
                loaded = load(recipe, "cpu" if on_cpu else self._settings.device)
                made[recipe] = _Made(loaded, self._worker(recipe, loaded))
            check(cell, recipe, made[recipe].loaded.weights)
            makers.append(made[recipe])
        for name in dict.fromkeys(cell.dataset.name for cell in chosen):
            report(f"indexing {name}")
            self._open(
                [
                    (cell, maker.loaded)
                    for cell, maker in zip(chosen, makers, strict=True)
                    if cell.dataset.name == name
                ]
            )
        self._refuse_unused(list(made))
        library = Library(self._settings.data)
        for cell, maker in zip(chosen, makers, strict=True):
            self.cells.append(self._serve(cell, maker.worker, library))
            if self.cells[-1].untrained:
                log.warning("%s is untrained: its neighbours mean little", title(cell))
        give_back()  # what only loading took; what a pass takes stays for the first request
        sizes = {
            (id(maker), cell.size): (cell, maker)
            for cell, maker in zip(chosen, makers, strict=True)
        }
        for cell, maker in sizes.values():
            report(f"trying {cell.header.variant} at {cell.size} px")
            _try(cell, maker.loaded)

    def _refuse_unused(self, recipes: list[Recipe]) -> None:
        """Raise UsageError for an option that nothing that is served has a use for."""
        if self._settings.weights and not any(recipe.weights.file for recipe in recipes):
            raise UsageError("no cell that is served was made with --weights; drop it")
        if self._settings.device == "cuda" and all(
            recipe.backbone.library == "scikit-image" for recipe in recipes
        ):
            raise UsageError("hog runs on the CPU only; drop --device cuda")

    def _worker(self, recipe: Recipe, loaded: LoadedBackbone) -> Batcher[Pixels, Vectors]:
        worker: Batcher[Pixels, Vectors] = Batcher(
            recipe.variant, embed_with(loaded), group=lambda pixels: pixels.shape,
            batch_limit=self._settings.batch_limit, capacity=self._settings.queue,
            observe=lambda size, seconds: self._observe(recipe.variant, size, seconds),
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def _open(self, cells: list[tuple[Cell, LoadedBackbone]]) -> None:
        """The collection over the cells of one dataset, each with its backbone."""
        first = cells[0][0]
        for cell, _ in cells:
            refuse_unlike(cell, first)
        overlay = Overlay(overlay_path(self._settings.store, first.dataset.name), first.dataset)
        try:
            for cell, loaded in cells:
                overlay.pin(cell.size, cell.header.fingerprint.dataset_checksum)
                self._embed_added(overlay, cell, loaded)
            kind = Kind(self._settings.index)
            by_name = {fingerprint_of(cell): cell for cell, _ in cells}
            cases = Collection(first.dataset, overlay, by_name, kind)
        except BaseException:
            overlay.close()
            raise
        self.collections[first.dataset.name] = cases

    def _embed_added(self, overlay: Overlay, cell: Cell, loaded: LoadedBackbone) -> None:
        """Give a cell the embeddings of cases that were added while it was not served."""
        name = fingerprint_of(cell)
        known = overlay.vectors(name)
        for case in overlay.cases():
            if case.number not in known:
                pixels = _added_pixels(overlay, case.number, cell)
                vector = loaded.backbone.embed(pixels[None])[0]
                stored = vector.astype(cell.header.fingerprint.storage).astype(np.float32)
                if not (np.isfinite(stored).all() and stored.any()):
                    raise StoreError(
                        f"{case.id(cell.dataset.name)} has no embedding by {cell.header.variant}: "
                        "its image is blank to it; erase that case while another model is served"
                    )
                overlay.put_vectors(name, {case.number: stored})

    def _serve(self, cell: Cell, worker: Batcher[Pixels, Vectors], library: Library) -> ServedCell:
        name, cases = fingerprint_of(cell), self.collections[cell.dataset.name]
        label = f"{cell.dataset.name}-{cell.size}-{cell.header.variant}"
        searcher: Batcher[Query, Found] = Batcher(
            label, search_in(cases, name), group=lambda query: query.own is None,
            batch_limit=self._settings.batch_limit, capacity=self._settings.queue,
            observe=lambda size, seconds: self._observe(label, size, seconds),
        )  # fmt: skip
        self.searchers.append(searcher)
        images = find_images(cell, library, self._settings.dataset)
        reader = ThreadPoolExecutor(1, f"{label}-images")
        probe = find_probe(self._settings.store, cell, cases.state.erased)
        return ServedCell(cell, name, cases, worker, searcher, images, reader, probe)


def _try(cell: Cell, loaded: LoadedBackbone) -> None:
    """Embed a blank image of the cell's size: by the first of a size it is decided how all of them
    are computed, for which no request shall wait.
    """
    blank = np.zeros((1, cell.size, cell.size, cell.dataset.channels), np.uint8)
    try:
        loaded.backbone.embed(blank)
    except MemoryError as error:
        raise BackboneError(
            f"{cell.header.variant} cannot be run at {cell.size} px on {loaded.device}: out of "
            "memory; serve fewer cells by --model and --res, or on another device"
        ) from error


def _added_pixels(overlay: Overlay, number: int, cell: Cell) -> Pixels:
    block = overlay.image(number, cell.size)
    if block is None:
        raise StoreError(f"{overlay.path} has no image of case {number}; restore it from backup")
    return png.decode(block, cell.size, cell.dataset.channels)
