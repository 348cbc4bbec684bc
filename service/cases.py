"""Single cases: their ids, their labels and their pictures."""

from __future__ import annotations

import functools
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

import numpy as np

from embedder.datasets import Dataset
from embedder.errors import DatasetError
from embedder.registry import find
from embedder.types import Labels, Split, Task
from service import png
from service.answers import Case, Cases, Label
from service.errors import BadRequestError, NotFoundError
from service.overlay import ADDED
from service.served import Served, ServedCell

Place = Literal["train", "val", "test", "added"]

_PLACES = frozenset((*map(str, Split), ADDED))


@dataclass(frozen=True)
class CaseId:
    """``dataset/split/row``; ``split`` is None for a case that was added."""

    dataset: str
    split: Split | None
    row: int

    @classmethod
    def parse(cls, text: str) -> CaseId:
        """Raises BadRequestError where ``text`` is no id."""
        head, _, row = text.rpartition("/")
        dataset, _, place = head.rpartition("/")
        if place not in _PLACES or not (row.isascii() and row.isdecimal() and dataset):
            raise BadRequestError(f"{text[:200]!r} is no case; write it as dataset/train/0")
        if len(row) > 18:
            raise NotFoundError(f"there is no case {text[:200]}")
        return cls(dataset, None if place == ADDED else Split(place), int(row))

    @property
    def place(self) -> Place:
        return "added" if self.split is None else self.split.value

    def __str__(self) -> str:
        return f"{self.dataset}/{self.place}/{self.row}"


def names(dataset: Dataset, labels: Labels) -> list[Label]:
    """uint8 (1,) or (L,) in words: the class or, for a multi-label task, each label it has."""
    if dataset.task is Task.MULTILABEL:
        present = [number for number, value in enumerate(labels) if value]
    else:
        present = [int(labels[0])]
    known = _labels(dataset.classes)
    return [known[number] for number in present]


@functools.lru_cache(64)
def _labels(classes: tuple[str, ...]) -> tuple[Label, ...]:
    """Made once: an answer has one for each neighbour."""
    return tuple(Label(index=number, name=name) for number, name in enumerate(classes))


def read_labels(dataset: Dataset, words: list[str]) -> Labels:
    """Class names or indices as a request gives them, to uint8 (1,) or (L,).

    A single empty one says that a multi-label case has none. Raises BadRequestError for one that
    is not known, or for several of a single-label task.
    """
    known = {name: number for number, name in enumerate(dataset.classes)}
    found = []
    none = dataset.task is Task.MULTILABEL and words == [""]
    for word in () if none else words:
        if word.isascii() and word.isdecimal() and word not in known:
            if len(word) > 9 or int(word) >= len(known):
                raise BadRequestError(
                    f"label {word[:20]} is none of 0 to {len(known) - 1}; give one or its name"
                )
            found.append(int(word))
        else:
            found.append(find(known, word[:200], "label"))
    if dataset.task is Task.MULTILABEL:
        present = np.zeros(len(known), np.uint8)
        present[found] = 1
        return present
    if len(found) != 1:
        raise BadRequestError(f"a {dataset.task} case has one label; give one, not {len(found)}")
    return np.array(found, np.uint8)


def link(cell: ServedCell, name: CaseId) -> str | None:
    """Where the picture of a case is; None where it is not at hand."""
    if name.split is not None and cell.images is None:
        return None
    return f"/cases/{quote(str(name))}/image?res={cell.cell.size}"


def licence(cell: ServedCell, name: CaseId) -> str:
    """That of the dataset; of a case that was added nobody has said it."""
    return "unknown" if name.split is None else cell.cell.dataset.licence


def describe(cell: ServedCell, name: CaseId) -> Case:
    """Raises NotFoundError where there is no such case, or it was erased."""
    labels = cell.collection.labels_of(name.split, name.row)
    added = cell.collection.state.cases.get(name.row) if name.split is None else None
    return Case(
        id=str(name), dataset=name.dataset, split=name.place, row=name.row,
        labels=names(cell.cell.dataset, labels), image=link(cell, name),
        licence=licence(cell, name), added=added.added if added else None,
    )  # fmt: skip


def picture(cell: ServedCell, name: CaseId) -> bytes:
    """The PNG of a case. Raises NotFoundError where there is none, or it was erased."""
    cell.collection.labels_of(name.split, name.row)
    if name.split is None:
        block = cell.collection.image(name.row, cell.cell.size)
        if block is None:
            raise NotFoundError(f"there is no case {name}")
        return png.encode(png.decode(block, cell.cell.size, cell.cell.dataset.channels))
    if cell.images is None:
        raise NotFoundError(f"the image of {name} is not at hand; the dataset's file is not there")
    try:
        return png.encode(cell.images.image(name.split, name.row))
    except DatasetError as error:
        raise NotFoundError(f"the image of {name} cannot be read: {error}") from error


def tag(cell: ServedCell, name: CaseId) -> str:
    """An ETag: the picture behind an id and a size never changes, it only ceases to be.

    The time tells an added case from one of its number that a restored backup had not yet.
    """
    added = cell.collection.state.cases.get(name.row) if name.split is None else None
    content = added.added if added else cell.cell.header.fingerprint.dataset_checksum
    text = f"{name} {cell.cell.size} {content}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def find_cell(served: Served, dataset: str, size: int | None) -> ServedCell:
    """A served cell of the dataset, at ``size`` or its largest, with images if any has.

    Raises NotFoundError where none is served.
    """
    cells = [
        cell for cell in served.cells
        if cell.cell.dataset.name == dataset and size in (None, cell.cell.size)
    ]  # fmt: skip
    if not cells:
        where = dataset[:200] if size is None else f"{dataset[:200]} at {size} px"
        raise NotFoundError(f"{where} is not served; see GET /indexes")
    return max(cells, key=lambda cell: (cell.images is not None, cell.cell.size))


def named_cell(served: Served, dataset: str) -> ServedCell:
    """As ``find_cell``, for a parameter: raises UnknownNameError where none is served."""
    find({cell.cell.dataset.name: None for cell in served.cells}, dataset, "served dataset")
    return find_cell(served, dataset, None)


def sample(served: Served, dataset: str, place: Place, count: int, seed: int) -> Cases:
    """At most ``count`` cases at random. Raises UnknownNameError where it is not served."""
    cell, split = named_cell(served, dataset), None if place == ADDED else Split(place)
    found = []
    for row in cell.collection.sample(split, count, seed):
        with suppress(NotFoundError):  # erased in the meantime
            found.append(describe(cell, CaseId(dataset, split, row)))
    return Cases(cases=found)
