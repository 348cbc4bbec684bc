"""The white page on which a chart stands: letters that fit, shades that print, files that repeat.

Lengths are in inches from the upper left, sizes of letters in points.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from embedder.store import store_errors
from evaluate.gallery import EDGE, FAINT, INK

_FONT = "DejaVu Sans"

STYLED = matplotlib.style.context(
    [
        "default",
        {
            "font.family": _FONT, "text.hinting": "none", "svg.fonttype": "path",
            "svg.hashsalt": "casebook",
        },
    ]
)  # fmt: skip
"""Decorates what draws or writes, so that the caller's settings of matplotlib do not matter."""

TITLE, TEXT, SMALL = 10.0, 8.0, 7.0

_LINE = 1.35
"""From line to line, of the size of the letters."""

_SWATCH, _BESIDE, _NEXT = 0.13, 0.06, 0.2
"""A colour of the key, what parts it from its text, and that from the next."""

_DPI = 150


@dataclass(frozen=True)
class Page:
    """What stands around a chart: above it a title and a key of colours, below it notes."""

    title: str
    key: Sequence[tuple[str, str]]
    notes: str


def start(page: Page, width: float, height: float) -> tuple[Figure, float]:
    """A page as wide as that, with room for a chart of that height; and where the chart begins."""
    room = width - 2 * EDGE
    title = wrap(plain(page.title), room, TITLE, "bold")
    notes = wrap(plain(page.notes), room, SMALL)
    places, bottom = _key(page.key, width, EDGE + rise(len(title), TITLE))
    whole = bottom + height + EDGE + (rise(len(notes), SMALL) + 0.1 if notes else 0)
    figure = Figure(figsize=(width, whole), facecolor="white")
    write(figure, EDGE, EDGE, title, TITLE, weight="bold")
    write(figure, EDGE, whole - EDGE - rise(len(notes), SMALL), notes, SMALL, color=FAINT)
    for (label, colour), (left, top) in zip(page.key, places, strict=True):
        write(figure, left + _SWATCH + _BESIDE, top, [label], TEXT)
        figure.add_artist(
            Rectangle(
                (left / width, 1 - (top + _SWATCH) / whole), _SWATCH / width, _SWATCH / whole,
                facecolor=colour, edgecolor=INK, linewidth=0.6,
            )
        )  # fmt: skip
    return figure, bottom


def _key(
    key: Sequence[tuple[str, str]], width: float, top: float
) -> tuple[list[tuple[float, float]], float]:
    """Where each entry stands, in as many lines as it takes, and where they end."""
    places: list[tuple[float, float]] = []
    left, top = EDGE, top + 0.08
    for label, _ in key:
        wide = _SWATCH + _BESIDE + measure(label, TEXT)
        if places and left + wide > width - EDGE:
            left, top = EDGE, top + 0.2
        places.append((left, top))
        left += wide + _NEXT
    return places, top + 0.3


def write(
    figure: Figure, left: float, top: float, lines: Sequence[str], size: float, **style: Any
) -> None:
    """Lines of text below each other; ``left`` is their middle or right end with ``ha``."""
    width, height = figure.get_size_inches()
    for number, line in enumerate(lines):
        baseline = top + rise(number, size) + size / 72
        figure.text(
            left / width, 1 - baseline / height, line, size=size, va="baseline", parse_math=False,
            **({"color": INK} | style),
        )  # fmt: skip


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    across, down = figure.get_size_inches()
    box = (left / across, 1 - (top + height) / down, width / across, height / down)
    return figure.add_axes(box)


def rise(lines: int, size: float) -> float:
    """How high some lines of text are."""
    return lines * _LINE * size / 72


@cache
def measure(text: str, size: float, weight: str = "normal") -> float:
    """How wide a line of text is."""
    font = FontProperties(family=_FONT, size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def wrap(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """Lines no wider than ``width``; a word that is wider is broken, ``k = 11`` is one word."""
    lines: list[str] = []
    for word in text.replace(" = ", "\u00a0=\u00a0").split(" "):
        for piece in _break(word, width, size, weight):
            longer = f"{lines[-1]} {piece}" if lines else piece
            if lines and measure(longer, size, weight) <= width:
                lines[-1] = longer
            elif piece:
                lines.append(piece)
    return [line.replace("\u00a0", " ") for line in lines]


def _break(word: str, width: float, size: float, weight: str) -> list[str]:
    if measure(word, size, weight) <= width:
        return [word]
    pieces = [""]
    for letter in word:
        if pieces[-1] and measure(pieces[-1] + letter, size, weight) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def plain(text: str) -> str:
    """On one line, with a mark for what the font lacks."""
    known = _glyphs()
    return "".join(
        letter if letter.isprintable() and ord(letter) in known else "\ufffd"
        for letter in " ".join(text.split())
    )


@cache
def _glyphs() -> frozenset[int]:
    fonts = (FontProperties(family=_FONT, weight=weight) for weight in ("normal", "bold"))
    regular, bold = (get_font(findfont(font)).get_charmap() for font in fonts)
    return frozenset(regular.keys() & bold.keys())


def shades(count: int) -> list[str]:
    """Colours in order, from light to dark: of one hue, so that they are told apart in grey too."""
    places = np.linspace(0.12, 0.95, count) if count > 1 else [0.5]
    return [shade(float(place)) for place in places]


def shade(share: float) -> str:
    """White to dark blue for 0 to 1."""
    return to_hex(matplotlib.colormaps["Blues"](share))


def contrast(colour: str) -> str:
    """Ink or white, whichever is told apart from it better (WCAG 2.2, contrast ratio)."""
    levels = {each: _luminance(each) + 0.05 for each in (colour, INK, "white")}
    return INK if levels[colour] / levels[INK] > levels["white"] / levels[colour] else "white"


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def png_bytes(figure: Figure) -> bytes:
    """At 150 dots per inch; the same bytes for the same figure."""
    return _render(figure, "png", {"Software": None})


def svg_bytes(figure: Figure) -> bytes:
    """Letters as outlines, so that no font is needed; the same bytes for the same figure."""
    return _render(figure, "svg", {"Date": None})


@STYLED
def _render(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write ``stem`` with .png and .svg after it. Raises StoreError where it cannot be written."""
    paths = (stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg"))
    for path, content in zip(paths, (png_bytes(figure), svg_bytes(figure)), strict=True):
        with store_errors(path, "--out"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return paths
