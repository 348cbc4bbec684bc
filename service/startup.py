"""What may be served: complete cells, made as the loaded backbone makes them, and their images."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from embedder import console
from embedder.datasets import DATASETS, ImageSource, is_path
from embedder.errors import DatasetError, StoreError, UsageError
from embedder.loading import describe
from embedder.plan import PlannedCell, State
from embedder.recipe import Precision, Recipe, Storage, Weights
from embedder.selection import matches, select_cells, stored_names, title
from embedder.sources import Library
from embedder.store import Cell, Store
from embedder.types import Split
from embedder.writer import refuse_other
from service.settings import Settings

log = logging.getLogger("casebook")


def choose(settings: Settings) -> list[Cell]:
    """The cells that the settings name, all of them complete.

    Raises StoreError for one that is not, and where nothing is stored under a name.
    """
    store = Store(settings.store)
    asked = (settings.dataset, settings.model, [str(size) for size in settings.res])
    _refuse_incomplete(store, settings)
    cells, failures = select_cells(store, *asked)
    if failures:
        raise StoreError(failures[0])
    known = {path.parts[-3] for path in store.paths()}
    for dataset in sorted(stored_names(settings.dataset, known)) or [""]:
        for model in console.words(settings.model) or [""]:
            for size in settings.res or (0,):
                if not any(_is(cell, dataset, model, size) for cell in cells):
                    wanted = " ".join(filter(None, (model, dataset, f"{size} px" if size else "")))
                    raise StoreError(f"{wanted} is not stored; embed it first")
    return cells


def _refuse_incomplete(store: Store, settings: Settings) -> None:
    """A name that is that of a complete variant does not mean the others of its backbone."""
    sizes = [str(size) for size in settings.res]
    asked = set(console.words(settings.model))
    exact = asked & {path.stem for path in store.paths()}
    for path in store.partial_paths():
        variant = path.name.removesuffix(".h5.partial")
        models = sorted(asked - exact | asked & {variant})
        if (models or not asked) and matches(path, settings.dataset, models, sizes):
            raise StoreError(f"{path} is not complete; run embed again to finish it, then serve")


def _is(cell: Cell, dataset: str, model: str, size: int) -> bool:
    names = {cell.header.variant, cell.header.fingerprint.backbone, "", "all"}
    return dataset in ("", cell.dataset.name) and model in names and size in (0, cell.size)


def recipe_of(cell: Cell, weights: Path | None) -> Recipe:
    """How the cell was made. Raises UsageError where that needs ``--weights``."""
    found = cell.header.fingerprint
    kind, _, rest = found.checkpoint.partition(":")
    if kind == "random":
        chosen = Weights(random_seed=int(rest))
    elif kind == "file":
        if weights is None:
            raise UsageError(f"{title(cell)} was made with a weights file; give it by --weights")
        chosen = Weights(weights)
    else:
        chosen = Weights()
    precision, storage = Precision(found.precision), Storage(found.storage)
    return Recipe(describe(found.backbone), chosen, precision, storage)


def check(cell: Cell, recipe: Recipe, weights: str) -> None:
    """Raise FingerprintError where the loaded backbone is not the one that made the cell."""
    planned = PlannedCell(
        cell.dataset.name, cell.dataset, cell.size, recipe, cell.path, State.COMPLETE
    )
    refuse_other(cell, planned.fingerprint(None, weights), cell.dataset)


def refuse_unlike(cell: Cell, first: Cell) -> None:
    """Raise StoreError where two cells of one dataset are not of the same cases."""
    one, two = cell.header.fingerprint, first.header.fingerprint
    same = cell.dataset == first.dataset
    if same and one.size == two.size:
        same = one.dataset_checksum == two.dataset_checksum
    for split in Split if same else ():
        rows = np.intersect1d(cell.live(split), first.live(split))
        same &= bool((cell.labels(split)[rows] == first.labels(split)[rows]).all())
    if not same:
        raise StoreError(
            f"{cell.path} and {first.path} were made of different states of {cell.dataset.name}; "
            "delete the older one and embed it again"
        )


def find_images(cell: Cell, library: Library, paths: Iterable[str]) -> ImageSource | None:
    """The images that were embedded; None, with a warning, where they are not at hand."""
    name = cell.dataset.name
    try:
        named = [path for path in paths if is_path(path) and stored_names([path], {name}) == {name}]
        if name not in DATASETS and not named:
            log.warning("%s: no images are shown; to have them give --dataset PATH", name)
            return None
        wanted = named[0] if named else name
        if not library.is_here(wanted, cell.size):
            path = library.path(wanted, cell.size)
            log.warning("%s: no images are shown; %s is not there", name, path)
            return None
        source = library.open(wanted, cell.size)
    except DatasetError as error:
        log.warning("%s: no images are shown; %s", name, error)
        return None
    if source.checksum != cell.header.fingerprint.dataset_checksum:
        log.warning("%s: no images are shown; the dataset's file is not what was embedded", name)
        return None
    return source
