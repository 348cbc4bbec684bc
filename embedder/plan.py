"""Which cells are asked for, and which of them are left to embed.

Cells are independent of one another: any order, any subset, any machine gives the same files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from embedder.backbones import CANVAS
from embedder.datasets import Dataset
from embedder.errors import CasebookError, DatasetError, EncodingError, StoreError, UsageError
from embedder.fingerprint import Fingerprint
from embedder.recipe import Recipe, Storage
from embedder.sources import Library
from embedder.store import Store, read_cell, store_errors
from embedder.writer import refuse_other, rows_done


class State(StrEnum):
    NEW = "new"
    PARTIAL = "to go on"
    COMPLETE = "complete"
    REFUSED = "refused"


@dataclass(frozen=True)
class PlannedCell:
    """One dataset at one size by one recipe.

    ``source`` is the dataset as the user named it; ``done`` how many images an interrupted run
    left; ``refusal`` why a stored file of this name cannot stand for the cell.
    """

    source: str
    dataset: Dataset
    size: int
    recipe: Recipe
    path: Path
    state: State
    done: int = 0
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


@dataclass(frozen=True)
class Plan:
    """The cells that are asked for, and the datasets, given by path, that cannot be read."""

    cells: list[PlannedCell]
    failures: list[tuple[str, CasebookError]]


def plan(
    store: Store,
    library: Library,
    datasets: Iterable[str],
    sizes: tuple[int, ...] | None,
    recipes: Iterable[Recipe],
) -> Plan:
    """The cells of every recipe, dataset and size, with what the store has of each.

    Nothing is downloaded and no backbone loaded. Raises UsageError for a size that does not exist.
    """
    sources: list[tuple[str, int, Dataset]] = []
    failures: list[tuple[str, CasebookError]] = []
    for name in datasets:
        try:
            for size in library.sizes(name, sizes):
                known = library.known(name)
                sources.append((name, size, known or library.open(name, size).dataset))
        except DatasetError as error:
            failures.append((name, error))
    cells: dict[Path, PlannedCell] = {}
    for recipe in recipes:
        for name, size, dataset in sources:
            path = store.path(dataset.name, size, recipe.variant)
            cell = PlannedCell(name, dataset, size, recipe, path, State.NEW)
            if path not in cells:
                cells[path] = _look(library, cell)
            elif not _is_same(cells[path].source, name):
                other = cells[path].source
                clash = UsageError(f"{other} and {name} have one name in the store; rename one")
                failures.append((name, clash))
    return Plan(list(cells.values()), failures)


def _is_same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _look(library: Library, cell: PlannedCell) -> PlannedCell:
    """The same cell with what is there already."""
    path = cell.path
    try:
        if cell.size > CANVAS and cell.recipe.backbone.input_size:
            raise EncodingError(
                f"images of {cell.size} px do not fit the canvas of {CANVAS} px; make them smaller"
            )
        with store_errors(path):
            partial = path.with_name(f"{path.name}.partial")
            complete, begun = path.exists(), partial.exists()
        if not complete and not begun:
            return cell
        asked = cell.fingerprint(_checksum(library, cell), None)
        refuse_other(read_cell(path if complete else partial), asked, cell.dataset)
        if complete:
            return replace(cell, state=State.COMPLETE)
        return replace(cell, state=State.PARTIAL, done=rows_done(partial))
    except (StoreError, EncodingError) as error:
        return replace(cell, state=State.REFUSED, refusal=error)


def _checksum(library: Library, cell: PlannedCell) -> str | None:
    """The dataset's, or None where its file is not at hand: complete cells do not need it."""
    try:
        here = library.is_here(cell.source, cell.size)
        return library.open(cell.source, cell.size).checksum if here else None
    except DatasetError:
        return None
