"""A picture of one query beside the cases that decided it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from embedder.errors import CasebookError
from embedder.types import Pixels, Task

AGREE, DISAGREE, INK, FAINT = "#0072b2", "#d55e00", "#1a1a1a", "#6b6b6b"
"""Blue and vermilion of M. Okabe and K. Ito's palette, told apart by the colour-blind."""

_LEGEND = "solid blue: agrees with the prediction; dashed orange: does not"
_LEGEND_OF_SEVERAL = (
    "solid blue: has every predicted label, or has none where none is predicted "
    "(the query: no other than those); dashed orange: does not"
)

_COLUMNS = 6

TILE, BIG, TEXT, GAP, EDGE, HEAD, LINE = 1.35, 3.2, 0.42, 0.14, 0.25, 0.62, 0.19
"""Inches: a neighbour's side, the query's, the text under a neighbour, the spaces around, and a
further line of the heading."""


Stroke = str | tuple[int, tuple[int, ...]]
"""A line style as matplotlib takes it."""


@dataclass(frozen=True)
class Picture:
    """One image, uint8 (H, W, C), with the lines written under it."""

    pixels: Pixels
    title: str
    caption: str
    agrees: bool = True


def legend(task: Task) -> str:
    """What the frames mean."""
    return _LEGEND_OF_SEVERAL if task is Task.MULTILABEL else _LEGEND


def draw(query: Picture, neighbours: list[Picture], heading: list[str], path: Path) -> None:
    """Write the query and its neighbours, nearest first, to ``path`` (.png, .svg or .pdf).

    Each text of the ``heading`` begins a line; the last should be the ``legend``.

    A case that agrees with the prediction, the query's own label too, has a solid blue frame,
    another a dashed vermilion one. Raises CasebookError where the file cannot be written.
    """
    columns = min(_COLUMNS, len(neighbours))
    lines = -(-len(neighbours) // columns)
    left = 2 * EDGE + BIG
    width = left + columns * (TILE + GAP) - GAP + EDGE
    body = max(lines * (TILE + TEXT) + (lines - 1) * GAP, BIG + 2 * TEXT)
    figure, head = begin(width, body, heading)
    show(figure, (EDGE, head), BIG, query, 11)
    for number, neighbour in enumerate(neighbours):
        line, column = divmod(number, columns)
        corner = (left + column * (TILE + GAP), head + line * (TILE + TEXT + GAP))
        show(figure, corner, TILE, neighbour, 8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise CasebookError(
            f"cannot write {path}: {error.strerror or error}; check --out"
        ) from error


def begin(width: float, body: float, heading: list[str]) -> tuple[Figure, float]:
    """A white figure under its heading, and how far below its top edge the rest begins.

    ``width``, that of the figure, and ``body``, the height of the rest, are in inches, as what is
    returned. Each text of the heading begins a line, and is broken where it is too long.
    """
    room = letters(width - 2 * EDGE, 11)
    lines = [line for text in heading for line in textwrap.wrap(text, room)]
    head = HEAD + max(0, len(lines) - 1) * LINE
    height = head + body + EDGE
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    figure.text(
        EDGE / width, 1 - EDGE / height, "\n".join(lines), size=11, color=INK, va="top",
        parse_math=False,
    )  # fmt: skip
    return figure, head


def show(
    figure: Figure, corner: tuple[float, float], side: float, picture: Picture, size: float
) -> None:
    """One image in its frame; ``corner`` is its upper left, in inches from the figure's."""
    colour: str = AGREE if picture.agrees else DISAGREE
    stroke: Stroke = "solid" if picture.agrees else (0, (3, 2))
    width, height = figure.get_size_inches()
    box = (corner[0] / width, 1 - (corner[1] + side) / height, side / width, side / height)
    axes = figure.add_axes(box)
    paint(axes, picture.pixels)
    frame = Rectangle(
        (0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=colour, linestyle=stroke,
        linewidth=2, clip_on=False,
    )  # fmt: skip
    axes.add_patch(frame)
    caption = "\n".join(shorten(line, side, size) for line in picture.caption.split("\n"))
    for text, drop, ink, weight in (
        (shorten(picture.title, side, size), 0.45, colour, "bold"),
        (caption, 1.85, FAINT, "normal"),
    ):
        axes.annotate(
            text, (0.5, 0), (0, -drop * size), xycoords="axes fraction", weight=weight,
            textcoords="offset points", ha="center", va="top", size=size, color=ink,
            parse_math=False,
        )  # fmt: skip


def paint(axes: Axes, pixels: Pixels) -> None:
    """One image, uint8 (H, W, C), over the whole of the axes, no pixel smoothed."""
    image = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def shorten(text: str, side: float, size: float) -> str:
    """Cut to what fits ``side`` inches at ``size`` points."""
    room = letters(side, size)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def letters(side: float, size: float) -> int:
    """How many letters fit; a bold one is about 0.62 of its size."""
    return int(side * 72 / (0.62 * size))
