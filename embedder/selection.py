"""Which stored cells a command means by ``--dataset --model --res``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from embedder import console
from embedder.backbones import BACKBONES, BENCHMARK
from embedder.datasets import DATASETS, FAMILIES, is_path, name_of_path
from embedder.errors import CasebookError, StoreError, UnknownNameError, UsageError
from embedder.npz import NpzSource
from embedder.registry import find
from embedder.store import Cell, Store


def select_cells(
    store: Store,
    datasets: Sequence[str] | None,
    models: Sequence[str] | None,
    sizes: Sequence[str] | None,
) -> tuple[list[Cell], list[str]]:
    """The complete cells that match ``--dataset --model --res``, and why others cannot be read.

    None or nothing matches everything. Raises UnknownNameError for a name that no cell has,
    StoreError where none matches.
    """
    everything = list(store.paths())
    if not everything:
        raise StoreError(f"no embeddings in {store.root}; run embed first, or see --store")
    pixels = console.sizes(sizes)
    names = stored_names(datasets, {path.parts[-3] for path in everything})
    asked = set(console.words(models))
    wanted_models = (asked - {"all"}) | (set(BENCHMARK) if "all" in asked else set())
    _refuse_absent_sizes(pixels, {int(path.parts[-2]) for path in everything})
    cells: list[Cell] = []
    failures: list[str] = []
    known: set[str] = set()
    for path in everything:
        dataset, size, _ = path.parts[-3:]
        wanted = (not names or dataset in names) and (not pixels or int(size) in pixels)
        try:
            cell = store.read(path)
        except CasebookError as error:
            if wanted and (not wanted_models or _may_be(path.stem, wanted_models)):
                failures.append(str(error))
            continue
        known |= _names(cell)
        if wanted and (not wanted_models or _names(cell) & wanted_models):
            cells.append(cell)
    if not failures:
        for model in sorted(asked - {"all"}):
            _find_stored(sorted(known), model, "model", BACKBONES)
    if wanted_models:
        exact = {cell.header.variant for cell in cells} & wanted_models
        cells = [cell for cell in cells if _is_meant(cell, exact, wanted_models)]
    if not cells and not failures:
        raise StoreError(f"no stored cell matches; see casebook info --store {store.root}")
    return cells, failures


def _names(cell: Cell) -> set[str]:
    return {cell.header.variant, cell.header.fingerprint.backbone}


def _is_meant(cell: Cell, exact: set[str], models: set[str]) -> bool:
    """A name means the variant of exactly that name or, where there is none, all of a backbone."""
    return cell.header.variant in exact or bool(_names(cell) & (models - exact))


def _refuse_absent_sizes(asked: tuple[int, ...] | None, stored: set[int]) -> None:
    absent = sorted(set(asked or ()) - stored)
    if absent:
        known = ", ".join(map(str, sorted(stored)))
        raise UsageError(f"nothing is stored at {absent[0]} px; stored are {known}")


def _may_be(variant: str, models: set[str]) -> bool:
    """Whether a file that cannot be read is named as a variant of one of ``models`` would be."""
    names = {model.replace(":", "--").replace("/", "--") for model in models}
    return any(variant == name or variant.startswith(f"{name}-") for name in names)


def title(cell: Cell) -> str:
    return f"{cell.header.variant} {cell.dataset.name} {cell.size} px"


def stored_names(values: Sequence[str] | None, stored: set[str]) -> set[str]:
    """Names as the store has them, families written out; empty for every one."""
    names: set[str] = set()
    for word in console.words(values):
        if word in FAMILIES:
            names |= {row.name for row in FAMILIES[word]}
        elif is_path(word):
            names.add(_stored_name(word, stored))
        else:
            _find_stored(sorted(stored), word, "dataset", DATASETS)
            names.add(word)
    return names


def _stored_name(word: str, stored: set[str]) -> str:
    """What a dataset given by path is called in the store, whether or not it is there still."""
    path = Path(word)
    if os.path.isdir(path):
        return name_of_path(path, None)
    if os.path.isfile(path):
        return name_of_path(path, NpzSource(path).size)
    found = re.search(r"_([0-9]+)\.npz$", word)
    plain, short = name_of_path(path, 0), name_of_path(path, int(found[1]) if found else 0)
    if plain != short and {plain, short} <= stored:
        raise UsageError(f"{word} may be {plain} or {short}, both stored; give the name")
    return short if short in stored else plain


def matches(
    path: Path,
    datasets: Sequence[str] | None,
    models: Sequence[str] | None,
    sizes: Sequence[str] | None,
) -> bool:
    """Whether a cell's file, which need not be readable, is named as one of those meant."""
    name, size = path.parts[-3], int(path.parts[-2])
    asked = set(console.words(models))
    named = any(_means(word, name) for word in console.words(datasets) or [name])
    sized = size in (console.sizes(sizes) or (size,))
    wanted = (asked - {"all"}) | (set(BENCHMARK) if "all" in asked else set())
    return named and sized and (not wanted or _may_be(path.name.partition(".h5")[0], wanted))


def _means(word: str, name: str) -> bool:
    try:
        return name in stored_names([word], {name})
    except CasebookError:
        return False


def _find_stored(stored: list[str], name: str, noun: str, known: Mapping[str, object]) -> None:
    """Raise UnknownNameError where ``name`` is not stored, saying so where it could be."""
    if name in known and name not in stored:
        raise UnknownNameError(f"no embeddings of {name} are stored; run embed --{noun} {name}")
    find(dict.fromkeys(stored), name, f"stored {noun}")
