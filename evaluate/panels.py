"""Panels of one width on a page, each with its name above and a key beneath.

Lengths are in inches from the upper left, sizes of letters in points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from evaluate.canvas import SMALL, TEXT, TITLE, Page, measure, place, plain, start, write
from evaluate.gallery import EDGE, FAINT, INK, Stroke

COLOURS = (
    "#0072b2", "#e69f00", "#d55e00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#000000",
)  # fmt: skip
"""The palette of M. Okabe and K. Ito, Color Universal Design, 2008: told apart by the
colour-blind. Dark and light in turn, for print in grey."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
"""Shapes, so that what has nearly the same grey is told apart too."""

NAME = 0.42
"""Above a panel, for its name and a line of detail."""

_LINE, _BETWEEN, _BELOW, _SAMPLE = 0.17, 0.4, 0.32, 0.34
"""A line of a key, the spaces between panels, and the room for a sample in a key."""

Corner = tuple[float, float]
"""From the left and from the top."""


@dataclass(frozen=True)
class Mark:
    """What one class, or one curve, is drawn with, and what it is called."""

    name: str
    colour: str
    marker: str
    line: Stroke = "none"


def mark(number: int, name: str, line: Stroke = "none") -> Mark:
    """The ``number``-th of 88 different pairs of colour and shape; then from the first again."""
    return Mark(name, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], line)


def width_of(count: int) -> float:
    """How wide each of ``count`` panels is: fewer are wider."""
    return {1: 5.2, 2: 3.9, 4: 3.9}.get(count, 3.0)


def arrange(heights: Sequence[float], title: str, notes: str) -> tuple[Figure, list[Corner]]:
    """A page, and the corner of a panel of each height.

    Panels stand in up to three columns; those of one line begin at one height.
    """
    count = len(heights)
    width, columns = width_of(count), 2 if count == 4 else min(3, count)
    lines = [max(heights[first : first + columns]) for first in range(0, count, columns)]
    whole = 2 * EDGE + columns * (width + _BETWEEN) - _BETWEEN
    figure, head = start(Page(title, (), notes), whole, sum(lines) + (len(lines) - 1) * _BELOW)
    tops = [head + sum(lines[:line]) + line * _BELOW for line in range(len(lines))]
    return figure, [
        (EDGE + number % columns * (width + _BETWEEN), tops[number // columns])
        for number in range(count)
    ]


def entitle(figure: Figure, corner: Corner, width: float, name: str, detail: str) -> None:
    """The name of a panel at its corner, and a line of detail; ``NAME`` in all."""
    (left, top), bold = corner, fit(name, width, TITLE, "bold")
    write(figure, left, top, [bold], TITLE, weight="bold")
    write(figure, left, top + 0.19, [fit(detail, width, TEXT)], TEXT, color=FAINT)


def key_height(count: int, columns: int) -> float:
    """What a key of ``count`` marks takes."""
    return -(-count // columns) * _LINE


def key(figure: Figure, corner: Corner, width: float, marks: Sequence[Mark], columns: int) -> None:
    """What each mark means, in columns that are read downwards."""
    if not marks:
        return
    lines, room = -(-len(marks) // columns), width / columns
    axes = place(figure, *corner, width, lines * _LINE)
    axes.set(xlim=(0, width), ylim=(lines, 0))
    axes.set_axis_off()
    for number, each in enumerate(marks):
        column, line = divmod(number, lines)
        left = column * room
        axes.plot(
            [left, left + _SAMPLE / 2 - 0.04, left + _SAMPLE - 0.08], [line + 0.5] * 3,
            color=each.colour, marker=each.marker, markevery=[1], linestyle=each.line,
            markeredgecolor=INK, markeredgewidth=0.3, markersize=5, linewidth=1.3, clip_on=False,
        )  # fmt: skip
        name = fit(each.name, room - _SAMPLE - 0.05, SMALL)
        write(figure, corner[0] + left + _SAMPLE, corner[1] + line * _LINE + 0.02, [name], SMALL)


def fit(text: str, width: float, size: float, weight: str = "normal") -> str:
    """The text, cut to what fits the width, without letters that cannot be drawn."""
    whole = plain(text)
    if measure(whole, size, weight) <= width:
        return whole
    for end in range(len(whole) - 1, 0, -1):
        cut = f"{whole[:end].rstrip()}…"
        if measure(cut, size, weight) <= width:
            return cut
    return "…"
