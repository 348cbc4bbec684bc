"""Which cells are asked for, and which of them are left to embed.

Cells are independent of one another: any order, any subset, any machine gives the same files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from embedder.datasets import Dataset, ImageSource
from embedder.errors import CasebookError, DatasetError, StoreError
from embedder.fingerprint import Fingerprint
from embedder.recipe import Recipe, Storage
from embedder.sources import Library
from embedder.store import Store, read_cell
from embedder.writer import refuse_other


class State(StrEnum):
    NEW = "new"
    PARTIAL = "to go on"
    COMPLETE = "complete"
    REFUSED = "refused"


@dataclass(frozen=True)
class PlannedCell:
    """One dataset at one size by one recipe.

    ``source`` is the dataset as the user named it; ``refusal`` why a stored file of this name
    cannot stand for the cell.
    """

    source: str
    dataset: Dataset
    size: int
    recipe: Recipe
    path: Path
    state: State
    refusal: CasebookError | None = None

    @property
    def title(self) -> str:
        return f"{self.recipe.variant} {self.dataset.name} {self.size} px"

    @property
    def images(self) -> int:
        return sum(self.dataset.counts)

    @property
    def bytes(self) -> int:
        """What the embeddings take on disk."""
        number = 2 if self.recipe.storage is Storage.FLOAT16 else 4
        return self.images * self.recipe.backbone.width * number

    def fingerprint(self, checksum: str | None, weights: str | None) -> Fingerprint:
        row = self.recipe.backbone
        return Fingerprint(
            self.dataset.name, checksum, self.size, row.name, self.recipe.checkpoint, weights,
            row.features, row.preprocessing, row.width, str(self.recipe.precision),
            str(self.recipe.storage),
        )  # fmt: skip


def plan(
    store: Store,
    library: Library,
    datasets: Iterable[str],
    sizes: tuple[int, ...] | None,
    recipes: Iterable[Recipe],
) -> list[PlannedCell]:
    """The cells of every recipe, dataset and size, with what the store has of each.

    Nothing is downloaded and no backbone loaded. Raises DatasetError for a dataset given by path
    that cannot be read, UsageError for a size that does not exist.
    """

    @cache
    def source(name: str, size: int) -> ImageSource:
        return library.open(name, size)

    def look(name: str, size: int, recipe: Recipe) -> PlannedCell:
        dataset = library.known(name) or source(name, size).dataset
        path = store.path(dataset.name, size, recipe.variant)
        cell = PlannedCell(name, dataset, size, recipe, path, State.NEW)
        state, refusal = State.NEW, None
        partial = path.with_name(f"{path.name}.partial")
        if path.exists() or partial.exists():
            state = State.COMPLETE if path.exists() else State.PARTIAL
            try:
                checksum = source(name, size).checksum if library.is_here(name, size) else None
            except DatasetError:
                checksum = None
            try:
                asked = cell.fingerprint(checksum, None)
                refuse_other(read_cell(path if path.exists() else partial), asked)
            except StoreError as error:
                state, refusal = State.REFUSED, error
        return PlannedCell(name, dataset, size, recipe, path, state, refusal)

    asked = [(name, library.sizes(name, sizes)) for name in datasets]
    return [
        look(name, size, recipe)
        for recipe in recipes
        for name, found in asked
        for size in found
    ]  # fmt: skip
