"""What the images of a benchmark look like, and cases that a vote got right and wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from embedder.datasets import Dataset, ImageSource
from embedder.errors import DatasetError, EvaluationError
from embedder.selection import title
from embedder.store import Cell
from embedder.types import Distance, Labels, Pixels, Rows, Split, Task, case_id
from evaluate.canvas import SMALL, STYLED, TEXT, TITLE, Page, place, plain, start, wrap, write
from evaluate.gallery import EDGE, FAINT, Picture, legend, paint
from evaluate.knn import Protocol, find_neighbours
from evaluate.neighbours import name_of
from evaluate.panels import Corner, fit
from evaluate.replay import Replay
from evaluate.schemes import scheme_of
from evaluate.sheets import Pictures, find_images, lay_out
from evaluate.shots import Draw
from index.search import Neighbours
from index.vote import agrees, decide

_SEED = 2025
_MEASURED = {Distance.COSINE: "cosine", Distance.EUCLIDEAN: "Euclidean distance"}
_BESIDE = 5
"""The most training cases that are shown beside a query."""

_EXAMPLES = 3
"""Of each dataset, where there is one size only."""

_NAMES, _HEAD, _SPACE, _UNDER = 2.35, 0.22, 0.1, 0.34
"""Inches: the names at the left, the sizes above, the space between tiles, the text under them."""

_SMALL, _LARGE, _PAGE = 0.82, 1.35, 10.4
"""Inches: the least and greatest side of a tile, and what all lines should take together."""

Example = tuple[int, Labels]
"""A row of test, and its label, uint8 (1,) or (L,)."""


@dataclass(frozen=True, eq=False)
class Shelf:
    """One dataset, and its images at each size in pixels; None where they are not at hand.

    ``erased`` are rows of test that may not be shown.
    """

    dataset: Dataset
    sources: Mapping[int, ImageSource | None]
    erased: frozenset[int] = frozenset()

    @classmethod
    def of(cls, cells: Sequence[Cell], words: Sequence[str], folder: Path | None) -> Shelf:
        """The images that cells of one dataset were embedded from, as ``find_images`` has them."""
        sources: dict[int, ImageSource | None] = {}
        for cell in cells:
            if sources.get(cell.size) is None:
                sources[cell.size] = find_images(cell, words, folder)[0]
        erased = {int(row) for cell in cells for row in cell.erased[Split.TEST]}
        return cls(cells[0].dataset, sources, frozenset(erased))

    def examples(self, count: int) -> list[Example]:
        """The first rows that have different labels, at most ``count``, in order of the labels."""
        source = next((source for source in self.sources.values() if source), None)
        found: dict[bytes, Example] = {}
        for row, label in enumerate(source.labels(Split.TEST) if source else ()):
            if len(found) < count and row not in self.erased:
                found.setdefault(label.tobytes(), (row, label))
        return [found[key] for key in sorted(found)]

    def look(self, size: int, examples: Sequence[Example]) -> tuple[Pixels | None, str]:
        """The images of the examples at one size, uint8 (N, H, W, C); or None and why not."""
        source = self.sources.get(size)
        if source is None:
            return None, "images not at hand" if size in self.sources else "not in the store"
        if not examples:
            return None, "no test case"
        try:
            return np.stack([source.image(Split.TEST, row) for row, _ in examples]), ""
        except DatasetError:
            return None, "images cannot be read"


@STYLED
def dataset_sheet(shelves: Sequence[Shelf]) -> Figure | None:
    """Datasets by sizes, each with the same test cases at every size, all tiles equally large.

    Of several sizes the first case is shown, of a single one the first of up to three different
    labels. None where no image is at hand.
    """
    if not any(source for shelf in shelves for source in shelf.sources.values()):
        return None
    sizes = sorted({size for shelf in shelves for size in shelf.sources})
    each, under = (_EXAMPLES, _UNDER) if len(sizes) == 1 else (1, 0.0)
    side = min(_LARGE, max(_SMALL, _PAGE / len(shelves) - under - _SPACE))
    group, tall, left = each * (side + _SPACE), side + under + _SPACE, EDGE + _NAMES
    cases = (
        "the first test case of each" if each == 1 else "the first test cases of different labels"
    )
    width = left + len(sizes) * group - _SPACE + EDGE
    page = Page(f"The datasets: {cases}", (), "")
    figure, head = start(page, width, len(shelves) * tall + _HEAD)
    for column, size in enumerate(sizes):
        middle = left + column * group + (group - _SPACE) / 2
        write(figure, middle, head, [f"{size} px"], TEXT, color=FAINT, ha="center")
    for line, shelf in enumerate(shelves):
        top, examples = head + _HEAD + line * tall, shelf.examples(each)
        _name(figure, (EDGE, top), side, shelf.dataset, examples if each == 1 else ())
        for column, size in enumerate(sizes):
            pixels, reason = shelf.look(size, examples)
            corner = (left + column * group, top)
            if pixels is None:
                _empty(figure, corner, side, reason)
            else:
                _fill(figure, corner, side, pixels)
        if each > 1:
            _describe(figure, (left, top + side), side, shelf.dataset, examples)
    return figure


def _name(
    figure: Figure, corner: Corner, side: float, dataset: Dataset, examples: Sequence[Example]
) -> None:
    """What a line of the sheet is of, half-way up its tiles."""
    room, noun = _NAMES - 0.15, "labels" if dataset.task is Task.MULTILABEL else "classes"
    texts = [f"{dataset.task}, {len(dataset.classes)} {noun}"]
    texts += [f"{Split.TEST}/{row}: {name_of(label, dataset)}" for row, label in examples]
    top = corner[1] + (side - 0.2 - 0.16 * len(texts)) / 2
    name = fit(dataset.name, room, TITLE, "bold")
    write(figure, corner[0], top, [name], TITLE, weight="bold")
    lines = [fit(text, room, TEXT) for text in texts]
    write(figure, corner[0], top + 0.2, lines, TEXT, color=FAINT)


def _fill(figure: Figure, corner: Corner, side: float, images: Pixels) -> None:
    for number, pixels in enumerate(images):
        paint(_tile(figure, (corner[0] + number * (side + _SPACE), corner[1]), side), pixels)


def _empty(figure: Figure, corner: Corner, side: float, reason: str) -> None:
    text = "\n".join(wrap(reason, side - 0.1, SMALL))
    axes = _tile(figure, corner, side)
    axes.text(0.5, 0.5, text, size=SMALL, color=FAINT, ha="center", va="center")


def _tile(figure: Figure, corner: Corner, side: float) -> Axes:
    """A thin frame around nothing yet."""
    axes = place(figure, *corner, side, side)
    axes.set_axis_off()
    axes.add_patch(
        Rectangle(
            (0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=FAINT, linewidth=0.6,
            clip_on=False,
        )
    )  # fmt: skip
    return axes


def _describe(
    figure: Figure, corner: Corner, side: float, dataset: Dataset, examples: Sequence[Example]
) -> None:
    """The label and the row of each example, under its tile."""
    for number, (row, label) in enumerate(examples):
        middle = corner[0] + number * (side + _SPACE) + side / 2
        name = fit(name_of(label, dataset), side, SMALL)
        write(figure, middle, corner[1] + 0.03, [name], SMALL, ha="center")
        case = f"{Split.TEST}/{row}"
        write(figure, middle, corner[1] + 0.16, [case], SMALL, color=FAINT, ha="center")


@STYLED
def cases_gallery(replay: Replay, source: ImageSource, count: int = 2) -> Figure | None:
    """Up to ``count`` queries that were right and as many that were wrong, drawn at random.

    The seed is fixed, so that one record gives one picture. Each stands beside the nearest of the
    training cases that voted. Multi-label: a query is right where every label is. None where there
    is no query. Raises EvaluationError for a record that is not of a vote.
    """
    record, cell = replay.record, replay.cell
    if record.kind != "knn":
        raise EvaluationError(f"a {record.kind} record has no neighbours that voted; give a k-NN's")
    predicted = decide(replay.scores, cell.dataset.task)
    right = (predicted == replay.labels).all(axis=1)
    good, bad = _draw(np.flatnonzero(right), count), _draw(np.flatnonzero(~right), count)
    chosen = np.concatenate([good, bad])
    if not len(chosen):
        return None
    how = record.protocol
    beside = min(_BESIDE, how["k"])
    protocol = Protocol((beside,), Distance(how["distance"]), split=Split(record.split))
    support = Draw.of(cell, how["draw"]).support(how["shots"]) if how.get("shots") else None
    found = find_neighbours(cell, protocol, replay.rows[chosen], support)
    whole = " in every label" if cell.dataset.task is Task.MULTILABEL else ""
    heading = [
        f"{plain(title(cell))}, {scheme_of(record)[1]}",
        f"drawn at random: {len(good)} of the {right.sum():,} {record.split} cases that were "
        f"right{whole}, {len(bad)} of the {(~right).sum():,} others",
        f"each beside the {beside} nearest of the {how['k']} training cases that voted, with "
        f"their {_MEASURED[protocol.distance]}",
        legend(cell.dataset.task),
    ]
    groups = _groups(replay, source, chosen, predicted[chosen], found)
    verdicts = [_verdict(replay, place, predicted[place]) for place in chosen]
    return lay_out(groups, 1, heading, verdicts)


def _verdict(replay: Replay, place: int, predicted: Labels) -> str:
    record, dataset, label = replay.record, replay.cell.dataset, replay.labels[place]
    case = case_id(dataset.name, Split(record.split), int(replay.rows[place]))
    word = "right" if np.array_equal(label, predicted) else "wrong"
    labelled = f"labelled {name_of(label, dataset)}; predicted {name_of(predicted, dataset)}"
    return f"{word}: {case} is {labelled}"


def _draw(places: Rows, count: int) -> Rows:
    """Some of the places, ascending."""
    rng = np.random.default_rng(_SEED)
    return np.sort(rng.choice(places, min(count, len(places)), replace=False))


def _groups(
    replay: Replay, source: ImageSource, chosen: Rows, predicted: Labels, found: Neighbours
) -> list[list[Picture]]:
    """Each of the chosen queries, and after it its neighbours, with what the vote says of them."""
    split, task = Split(replay.record.split), replay.cell.dataset.task
    queries = [(split, int(row)) for row in replay.rows[chosen]]
    cases = [[(Split.TRAIN, int(row)) for row in line] for line in found.rows]
    sheet = Pictures(replay.cell, source, [*queries, *(case for line in cases for case in line)])
    groups = []
    for query, line, near, decided in zip(
        queries, cases, found.similarities, predicted, strict=True
    ):
        same = np.array_equal(sheet.label(query), decided)
        group = [sheet.picture(query, "", same)]
        agreeing = agrees(np.array([sheet.label(case) for case in line]), decided, task)
        for case, similarity, yes in zip(line, near, agreeing, strict=True):
            group.append(sheet.picture(case, f"  {abs(similarity):.3f}", bool(yes)))
        groups.append(group)
    return groups
