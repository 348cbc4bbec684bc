"""An audit's findings as sheets of small pictures, in the style of the gallery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from embedder.datasets import DATASETS, ImageSource, is_path
from embedder.errors import CasebookError
from embedder.files import write_whole
from embedder.selection import stored_names, title
from embedder.sources import library_from_environment
from embedder.store import Cell, store_errors
from embedder.types import Labels, Pixels, Split, Task
from evaluate.audit import Audit, Suspect
from evaluate.canvas import plain, png_bytes, write
from evaluate.gallery import EDGE, GAP, TEXT, TILE, Picture, begin, shorten, show
from evaluate.neighbours import name_of

_APART = 0.5
"""Inches between two groups of one line."""

_TITLE = 0.24
"""Inches for the line above a group."""

_NEIGHBOURS = 5
"""The most that are shown beside a suspected label."""

Place = tuple[Split, int]
"""A row of a split."""


def find_images(
    cell: Cell, words: Sequence[str], folder: Path | None
) -> tuple[ImageSource | None, str]:  # fmt: skip
    """The images that a cell was embedded from, or None and why they are not at hand.

    ``words`` are datasets as given, paths among them; ``folder`` is that of MedMNIST+ files.
    """
    name = cell.dataset.name
    paths = [word for word in words if is_path(word) and stored_names([word], {name}) == {name}]
    if name not in DATASETS and not paths:
        return None, f"where the images of {name} lie is not known; give --dataset PATH"
    word = paths[0] if paths else name
    library = library_from_environment(folder, cell.dataset.task)
    try:
        if not library.is_here(word, cell.size):
            return None, f"the images are not at {library.path(word, cell.size)}; give --data"
        source = library.open(word, cell.size)
    except CasebookError as error:
        return None, str(error)
    if source.checksum != cell.header.fingerprint.dataset_checksum:
        return None, f"{word} is not what was embedded"
    return source, ""


def draw_duplicates(cell: Cell, found: Audit, source: ImageSource, show: int, path: Path) -> None:
    """The first ``show`` pairs; nothing where there is none."""
    pairs = found.duplicates[:show]
    if not pairs:
        return
    places = [((d.split, d.row), (d.twin_split, d.twin_row)) for d in pairs]
    sheet = Pictures(cell, source, (place for pair in places for place in pair))
    groups = []
    for pair, (case, twin) in zip(pairs, places, strict=True):
        cosine = "no cosine" if pair.similarity is None else f"cosine {pair.similarity:.5f}"
        texts = (case, f"\n{pair.kind}"), (twin, f"\n{cosine}")
        groups.append([sheet.picture(place, text, pair.same_label) for place, text in texts])
    heading = f"{title(cell)}: {len(pairs)} of {len(found.duplicates)} pairs of likely duplicates"
    legend = "solid blue: both have the same label; dashed orange: they differ"
    draw_sheet(groups, 3, [heading, legend], path)


def draw_suspects(cell: Cell, found: Audit, source: ImageSource, show: int, path: Path) -> None:
    """The strongest ``show``, each beside its nearest cases; nothing where there is none."""
    suspects, beside = found.suspects[:show], min(_NEIGHBOURS, found.k)
    if not suspects:
        return
    places = [[(Split.TRAIN, row) for row in s.neighbours[:beside]] for s in suspects]
    wanted = [place for line in places for place in line]
    sheet = Pictures(cell, source, [*wanted, *((s.split, s.row) for s in suspects)])
    groups = []
    for suspect, line in zip(suspects, places, strict=True):
        case = sheet.picture(
            (suspect.split, suspect.row), f"  {suspect.strength:.2f}\n{suspect.suggested}?", False
        )
        agree = [_has(sheet.label(place), suspect, cell) for place in line]
        nearest = [sheet.picture(place, "", yes) for place, yes in zip(line, agree, strict=True)]
        groups.append([case, *nearest])
    heading = (
        f"{title(cell)}: {len(suspects)} of {len(found.suspects)} labels that all {found.k} "
        f"nearest training cases contradict; the case and its strength, then the {beside} nearest"
    )
    legend = "solid blue: has what they suggest; dashed orange: has not"
    draw_sheet(groups, 2, [heading, legend], path)


def _has(label: Labels, suspect: Suspect, cell: Cell) -> bool:
    """Whether a case has what is suggested."""
    classes = cell.dataset.classes
    if cell.dataset.task is not Task.MULTILABEL:
        return classes[int(label[0])] == suspect.suggested
    return bool(label[classes.index(suspect.label)]) == (suspect.suggested == suspect.label)


class Pictures:
    """The pictures of some cases; each split's images are read once."""

    def __init__(self, cell: Cell, source: ImageSource, places: Iterable[Place]) -> None:
        self._dataset = cell.dataset
        self._labels = {split: cell.labels(split) for split in Split}
        self._pixels: dict[Place, Pixels] = {}
        wanted = sorted(set(places))
        for split in Split:
            rows = [row for place, row in wanted if place is split]
            for row, pixels in zip(rows, source.pick(split, rows) if rows else (), strict=True):
                self._pixels[split, row] = pixels

    def label(self, place: Place) -> Labels:
        found: Labels = self._labels[place[0]][place[1]]
        return found

    def picture(self, place: Place, text: str, agrees: bool) -> Picture:
        name = plain(name_of(self.label(place), self._dataset))
        return Picture(self._pixels[place], name, f"{place[0]}/{place[1]}{text}", agrees)


def draw_sheet(groups: list[list[Picture]], across: int, heading: list[str], path: Path) -> None:
    """Write ``lay_out``'s figure to ``path``, whole or not at all.

    Raises StoreError where it cannot be written.
    """
    block = png_bytes(lay_out(groups, across, heading))
    with store_errors(path, "--out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, block)


def lay_out(
    groups: list[list[Picture]], across: int, heading: list[str], titles: Sequence[str] = ()
) -> Figure:
    """Groups of equally many pictures, ``across`` of them on a line.

    Each text of the ``heading`` begins a line; ``titles``, one for each group, stand above them.
    """
    across = min(across, len(groups))
    group = len(groups[0]) * (TILE + GAP) - GAP
    width = 2 * EDGE + across * (group + _APART) - _APART
    above = _TITLE if titles else 0.0
    tall = above + TILE + TEXT + GAP
    figure, head = begin(width, -(-len(groups) // across) * tall, heading)
    for number, pictures in enumerate(groups):
        line, place = divmod(number, across)
        left, top = EDGE + place * (group + _APART), head + line * tall
        for text in titles[number : number + 1]:
            write(figure, left, top, [shorten(plain(text), group, 9.5)], 9.5)
        for column, picture in enumerate(pictures):
            show(figure, (left + column * (TILE + GAP), top + above), TILE, picture, 8)
    return figure
