"""How often each model is among the best, as heat maps at three levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evaluate.canvas import (
    SMALL,
    STYLED,
    TEXT,
    Page,
    contrast,
    measure,
    place,
    plain,
    rise,
    shade,
    start,
    wrap,
)  # fmt: skip
from evaluate.charts import SAME, Values
from evaluate.gallery import EDGE, FAINT, INK
from evaluate.statistics import Figure as Value

_MOST, _FEW = 5, 8
"""How many are the best, and the fewest models for which it is that many."""

_OF_ALL, _OF_SCHEME, _OF_SIZE, _ROW, _APART, _GAP, _NARROW = 0.52, 0.8, 0.42, 0.26, 0.07, 0.2, 4.6
"""Inches: the widths of a column of the three levels, the height of a row, the spaces between the
schemes of the third level and between levels, and the least width of a page."""

_LINE = rise(1, SMALL)


@dataclass(frozen=True)
class Column:
    """``counts``, per model: in how many ``of`` settings it is among the best.

    ``scheme`` and ``resolution`` are None where the column is of all.
    """

    scheme: str | None
    resolution: int | None
    of: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Top:
    """Models by their count over all settings, best first, and how often each is among the best.

    A setting is a dataset, a scheme and a resolution. ``columns``: over all, per scheme, per scheme
    and resolution. ``left_out`` counts settings in which a model has no figure.
    """

    top: int
    models: tuple[str, ...]
    columns: tuple[Column, ...]
    left_out: int


def count_top(figures: Iterable[Value], top: int) -> Top:
    """How often each model is among the ``top`` best.

    Equal values share the better rank, so that more than ``top`` may count. Only settings in which
    every model of the study has a figure are counted. Models of one count stay in the order in
    which they come. Errors as ``evaluate.charts.Values``.
    """
    study = Values(figures, {})
    best: dict[tuple[str, str, int], set[str]] = {}
    settings = {(dataset, scheme, size) for dataset, scheme, _, size in study.by_key}
    for dataset, scheme, size in settings:
        keys = {model: (dataset, scheme, model, size) for model in study.models}
        if study.by_key.keys() >= {*keys.values()}:
            values = {model: study.by_key[key] for model, key in keys.items()}
            best[dataset, scheme, size] = _best(values, top)

    overall = Counter(model for each in best.values() for model in each)
    models = sorted(study.models, key=lambda model: -overall[model])

    def column(scheme: str | None, size: int | None) -> Column:
        inside = [b for (_, s, r), b in best.items() if scheme in (None, s) and size in (None, r)]
        counts = tuple(sum(model in each for each in inside) for model in models)
        return Column(scheme, size, len(inside), counts)

    columns = [column(None, None)]
    columns += [column(scheme, None) for scheme in study.schemes]
    columns += [column(*pair) for pair in product(study.schemes, study.resolutions)]
    return Top(top, tuple(models), tuple(columns), len(settings) - len(best))


def _best(values: Mapping[str, float], top: int) -> set[str]:
    """Those that fewer than ``top`` others are above."""
    return {
        model
        for model, value in values.items()
        if sum(other > value + SAME for other in values.values()) < top
    }


@STYLED
def top_five(
    figures: Sequence[Value], schemes: Mapping[str, str], metric: str = "accuracy"
) -> Figure | None:
    """Models by settings: over all, per scheme, and per scheme and resolution.

    Five are the best, or half of fewer than 8 models. One resolution has no third level, which
    would repeat the second. None for one model, and where no setting has a figure of every model.
    Errors as ``evaluate.charts.Values``.
    """
    study = Values(figures, schemes)
    many = len(study.models)
    found = count_top(figures, _MOST if many >= _FEW else max(1, many // 2))
    if many < 2 or not found.columns[0].of:
        return None
    chart = _Chart(study, found)
    names = [plain(model) for model in found.models]
    left = EDGE + 0.1 + max(measure(name, TEXT) for name in names)
    body = chart.head + many * _ROW + 0.1
    page = Page(_title(found, metric), _key(), _notes(found.left_out))
    figure, top = start(page, max(left + chart.width + EDGE, _NARROW), body)
    axes = place(figure, left, top, chart.width, body)
    axes.set(xlim=(0, chart.width), ylim=(body, 0))
    axes.set_axis_off()
    for row, name in enumerate(names):
        middle = chart.head + (row + 0.5) * _ROW
        _text(axes, -0.08, middle, name, TEXT, ha="right", va="center_baseline")
    chart.draw(axes)
    return figure


def _title(found: Top, metric: str) -> str:
    best = "most accurate" if metric == "accuracy" else f"highest in {metric}"
    number = {1: "", 5: "five "}.get(found.top, f"{found.top} ")
    among = f"among the {number}" if number else "the "
    return f"How often each of {len(found.models)} models is {among}{best}"


def _key() -> list[tuple[str, str]]:
    return [(f"{share} %", shade(share / 100)) for share in (0, 25, 50, 75, 100)]


def _notes(left_out: int) -> str:
    notes = (
        "Count of settings, coloured by their share of all settings in the column. A setting is "
        "a dataset, a scheme and a resolution. Equal values share the better rank."
    )
    if left_out:
        settings = "setting" if left_out == 1 else "settings"
        notes += f" Left out: {left_out} {settings} in which a model has no figure."
    return notes


class _Chart:
    """Where the columns stand, and what is above them; from the upper left of the cells."""

    def __init__(self, study: Values, found: Top) -> None:
        columns = {(column.scheme, column.resolution): column for column in found.columns}
        several = len(study.resolutions) > 1
        self._placed = [(columns[None, None], 0.0, _OF_ALL)]
        self._heads = [(["all"], 0.0, _OF_ALL, False)]
        x, wide = _OF_ALL + _GAP, _OF_SCHEME if several else 1.5 * _OF_SCHEME
        for scheme in study.schemes:
            self._placed.append((columns[scheme, None], x, wide))
            self._heads.append((_name(study, scheme, wide), x, wide, False))
            x += wide
        for scheme in study.schemes if several else ():
            x += _GAP if scheme == study.schemes[0] else _APART
            group = len(study.resolutions) * _OF_SIZE
            self._heads.append((_name(study, scheme, group), x, group, True))
            for size in study.resolutions:
                self._placed.append((columns[scheme, size], x, _OF_SIZE))
                x += _OF_SIZE
        self.width = x
        self.head = max(len(lines) + group for lines, _, _, group in self._heads) * _LINE
        self.head += _LINE + 0.1

    def draw(self, axes: Axes) -> None:
        for lines, x, width, group in self._heads:
            bottom = self.head - 0.06 - _LINE * (2 if group else 1)
            for number, line in enumerate(reversed(lines)):
                y = bottom - number * _LINE - (0.07 if group else 0.04)
                _text(axes, x + width / 2, y, line, SMALL, ha="center", weight="bold")
            if group:
                axes.plot([x + 0.03, x + width - 0.03], [bottom - 0.02] * 2, color=INK, lw=0.6)
        for column, x, width in self._placed:
            middle = x + width / 2
            if column.resolution:
                size = f"{column.resolution} px"
                _text(axes, middle, self.head - 0.1 - _LINE, size, SMALL, ha="center")
            of = f"of {column.of}"
            _text(axes, middle, self.head - 0.08, of, SMALL, color=FAINT, ha="center")
            for row, count in enumerate(column.counts):
                self._cell(axes, x, row, width, count, column.of)

    def _cell(self, axes: Axes, x: float, row: int, width: float, count: int, of: int) -> None:
        colour, text = (shade(count / of), str(count)) if of else ("white", "–")
        top = self.head + row * _ROW
        axes.add_patch(
            Rectangle((x, top), width, _ROW, facecolor=colour, edgecolor="white", linewidth=1)
        )
        _text(
            axes, x + width / 2, top + _ROW / 2, text, TEXT, color=contrast(colour), ha="center",
            va="center_baseline",
        )  # fmt: skip


def _name(study: Values, scheme: str, width: float) -> list[str]:
    return wrap(plain(study.names[scheme]), width - 0.06, SMALL, "bold")


def _text(axes: Axes, x: float, y: float, text: str, size: float, **style: Any) -> None:
    axes.text(x, y, text, size=size, parse_math=False, **({"color": INK} | style))
