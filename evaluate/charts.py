"""The figures of Doerrich et al. (Scientific Reports 15, 7669, 2025), drawn from any figures.

Distributions over datasets and what a higher resolution gains are here, the heat maps in
``evaluate.heatmaps``. Lengths are in inches, sizes of letters in points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, isfinite, radians, sin

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from embedder.errors import EvaluationError
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
    shades,
    start,
    wrap,
    write,
)  # fmt: skip
from evaluate.gallery import EDGE, FAINT, INK
from evaluate.statistics import Figure as Value

SAME = 1e-10
"""Percent: nearer figures are equal, since a mean over seeds may differ in its last digits."""

_SLOT, _APART, _NARROW, _WIDE, _TALL, _TILT = 0.155, 0.15, 3.8, 7.4, 1.6, 40
"""The least width of a box or bar, the space between models, the least width of a panel, the most
for which names stand level, a panel's height, and the angle in degrees of names that do not."""

_GRID = "#e2e2e2"
_LONG = 18
"""The most letters of a name on one line, where it can be broken."""

_DOTS = 12
"""The most datasets that are shown one by one."""


class Values:
    """Figures by (dataset, scheme, model, resolution), and what they have along each axis.

    Schemes come in the order of ``schemes``, their names for people; resolutions rise; all else is
    as it comes. Raises EvaluationError where there are none, one stands twice or is not finite.
    """

    def __init__(self, figures: Iterable[Value], schemes: Mapping[str, str]) -> None:
        self.by_key: dict[tuple[str, str, str, int], float] = {}
        for dataset, scheme, model, resolution, value in figures:
            name = f"{dataset} {scheme} {model} {resolution} px"
            if (dataset, scheme, model, resolution) in self.by_key:
                raise EvaluationError(f"{name} stands twice; give one figure of each")
            if not isfinite(value):
                raise EvaluationError(f"{name} is {value}; every figure must be finite")
            self.by_key[dataset, scheme, model, resolution] = value
        if not self.by_key:
            raise EvaluationError("there are no figures to draw; measure some, or ask for more")
        datasets, found, models, sizes = zip(*self.by_key, strict=True)
        self.datasets, self.models = tuple(dict.fromkeys(datasets)), tuple(dict.fromkeys(models))
        self.resolutions = tuple(sorted(set(sizes)))
        self.schemes = tuple(key for key in dict.fromkeys((*schemes, *found)) if key in found)
        self.names = {key: schemes.get(key, key) for key in self.schemes}

    def over_datasets(self, scheme: str, model: str, resolution: int) -> dict[str, float]:
        keys = [(dataset, scheme, model, resolution) for dataset in self.datasets]
        return {key[0]: self.by_key[key] for key in keys if key in self.by_key}


@dataclass(frozen=True)
class Improvement:
    """On how many datasets a figure rose, fell or stayed from one resolution to the next."""

    scheme: str
    model: str
    lower: int
    upper: int
    rose: int
    fell: int
    equal: int

    @property
    def of(self) -> int:
        """Datasets with a figure at both."""
        return self.rose + self.fell + self.equal


def count_improvements(figures: Iterable[Value]) -> list[Improvement]:
    """For each scheme, model and two resolutions of the study that follow each other.

    What no dataset has at both is left out. Errors as ``Values``.
    """
    study, found = Values(figures, {}), []
    for scheme in study.schemes:
        for model in study.models:
            for lower, upper in pairwise(study.resolutions):
                before = study.over_datasets(scheme, model, lower)
                after = study.over_datasets(scheme, model, upper)
                gains = [after[name] - before[name] for name in before.keys() & after.keys()]
                rose, fell = sum(gain > SAME for gain in gains), sum(gain < -SAME for gain in gains)
                counts = (rose, fell, len(gains) - rose - fell)
                if gains:
                    found.append(Improvement(scheme, model, lower, upper, *counts))
    return found


@STYLED
def distributions(figures: Sequence[Value], schemes: Mapping[str, str], metric: str) -> Figure:
    """A box over the datasets per model and resolution, a panel per scheme.

    Quartiles as in ``evaluate.statistics``; whiskers as Tukey's (1977), to the furthest value
    within 1.5 interquartile ranges. A single value is a dot. Errors as ``Values``.
    """
    study = Values(figures, schemes)
    count, sizes, values = len(study.datasets), study.resolutions, [*study.by_key.values()]
    title, notes = f"{metric[:1].upper()}{metric[1:]} on {study.datasets[0]}", ""
    if count > 1:
        title = f"{metric[:1].upper()}{metric[1:]} over {count} datasets"
        notes = "Box: median and quartiles over datasets; whiskers: to the furthest within 1.5 "
        notes += "interquartile ranges; dots: "
        notes += "single datasets." if count <= _DOTS else "datasets beyond."
        if len(values) < len(study.schemes) * len(study.models) * len(sizes) * count:
            notes += f" Where figures are missing, a box has fewer than {count} datasets."
    colours = shades(len(sizes))
    key = [(f"{size} px", colour) for size, colour in zip(sizes, colours, strict=True)]
    panels = _Panels(study, Page(title, key, notes), len(sizes), 0.04)
    room = max(0.06 * (max(values) - min(values)), 0.5)
    low, high = min(values) - room, max(values) + room
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    for scheme, axes in panels.axes.items():
        axes.set_ylim(low, high)
        axes.set_yticks([tick for tick in ticks if low <= tick <= min(high, 100)])
        axes.set_ylabel(f"{metric} (%)", size=TEXT, color=INK, parse_math=False)
        for number, model in enumerate(study.models):
            for slot, size in enumerate(sizes):
                here = [*study.over_datasets(scheme, model, size).values()]
                if here:
                    x = panels.centre(number, slot)
                    _spread(axes, x, 0.8 * panels.slot, here, colours[slot], count <= _DOTS)
    return panels.figure


def _spread(
    axes: Axes, x: float, width: float, values: list[float], colour: str, dots: bool
) -> None:
    if len(values) == 1:
        axes.plot([x], values, "o", ms=5, mfc=colour, mec=INK, mew=0.6)
        return
    axes.boxplot(
        values, positions=[x], widths=width, patch_artist=True, showcaps=False, showfliers=not dots,
        manage_ticks=False, whiskerprops={"color": INK, "linewidth": 0.6},
        boxprops={"facecolor": colour, "edgecolor": INK, "linewidth": 0.6},
        medianprops={"color": contrast(colour), "linewidth": 1.3, "zorder": 4},
        flierprops={"markersize": 2, "markerfacecolor": FAINT, "markeredgewidth": 0},
    )  # fmt: skip
    if dots:
        axes.plot(
            [x] * len(values), values, "o", ms=16 * width, mfc=FAINT, mec="white", mew=0.3, zorder=3
        )


@STYLED
def improvements(
    figures: Sequence[Value], schemes: Mapping[str, str], metric: str = "accuracy"
) -> Figure | None:
    """A bar per model and step from one resolution to the next, a panel per scheme.

    None where no dataset has a figure at both resolutions of a step. Errors as ``Values``.
    """
    study = Values(figures, schemes)
    found = {(i.scheme, i.model, i.upper): i for i in count_improvements(figures)}
    if not found:
        return None
    count, steps = len(study.datasets), [*pairwise(study.resolutions)]
    texts = {key: str(i.rose) if i.of == count else f"{i.rose}/{i.of}" for key, i in found.items()}
    title = f"On how many of {count} datasets {metric} rose from one resolution to the next"
    if count == 1:
        title = f"Whether {metric} on {study.datasets[0]} rose from one resolution to the next"
    notes = ["3/5: on three of the five datasets that have both resolutions."]
    notes = notes if any("/" in text for text in texts.values()) else []
    if len(found) < len(study.schemes) * len(study.models) * len(steps):
        notes.append("–: no dataset has both resolutions.")
    colours = shades(len(steps) + 1)[1:]
    key = [(f"{a} → {b} px", colour) for (a, b), colour in zip(steps, colours, strict=True)]
    widest = max(measure(text, SMALL) for text in texts.values())
    panels = _Panels(study, Page(title, key, " ".join(notes)), len(steps), widest + 0.05)
    upright = widest + 0.02 > panels.slot
    for scheme, axes in panels.axes.items():
        axes.set_ylim(0, count)
        axes.set_yticks(range(0, count + 1, -(-count // 6)))
        axes.set_ylabel("datasets", size=TEXT, color=INK)
        for number, model in enumerate(study.models):
            for slot, (_, upper) in enumerate(steps):
                x, step = panels.centre(number, slot), found.get((scheme, model, upper))
                text, height = texts.get((scheme, model, upper), "–"), step.rose if step else 0
                axes.bar(
                    x, height, 0.8 * panels.slot, color=colours[slot], edgecolor=INK, linewidth=0.6
                )  # fmt: skip
                axes.annotate(
                    text, (x, height), (0, 2), textcoords="offset points", ha="center", va="bottom",
                    size=SMALL, color=INK, rotation=90 if upright and "/" in text else 0,
                )  # fmt: skip
    return panels.figure


class _Panels:
    """Axes below each other, one per scheme, in which a model has ``pitch`` inches."""

    def __init__(self, study: Values, page: Page, slots: int, above: float) -> None:
        """``above`` is what is written above the axes."""
        names, count = [_fold(plain(name)) for name in study.models], len(study.models)
        widths = [max(measure(line, TEXT) for line in lines) for lines in names]
        deep = rise(max(map(len, names)), TEXT)
        narrow = slots * _SLOT + _APART
        level = max(narrow, max(widths) + 0.16)
        tilted = count * level > _WIDE
        narrow = max(narrow, deep / sin(radians(_TILT)))
        self.pitch = max(narrow if tilted else level, _NARROW / count)
        self.slot = min(0.3, (self.pitch - _APART) / slots)
        self._slots, angle = slots, radians(_TILT if tilted else 0)
        ends = [width * cos(angle) - (i + 0.5) * self.pitch for i, width in enumerate(widths)]
        left = EDGE + max(0.45, *ends) if tilted else EDGE + 0.45
        width, foot = count * self.pitch, max(widths) * sin(angle) + deep * cos(angle) + 0.1
        heads = {key: wrap(plain(study.names[key]), width, TEXT, "bold") for key in study.schemes}
        heights = {key: rise(len(head), TEXT) + above + 0.08 for key, head in heads.items()}
        body = sum(heights.values()) + len(heads) * _TALL + (len(heads) - 1) * 0.15 + foot
        self.figure, top = start(page, left + width + EDGE, body)
        self.axes: dict[str, Axes] = {}
        for key, head in heads.items():
            write(self.figure, left, top, head, TEXT, weight="bold")
            axes = place(self.figure, left, top + heights[key], width, _TALL)
            self._dress(axes, width)
            self.axes[key] = axes
            top += heights[key] + _TALL + 0.15
        labels = ["\n".join(lines) for lines in names]
        axes.set_xticklabels(labels, size=TEXT, color=INK, parse_math=False)
        for label in axes.get_xticklabels() if tilted else ():
            label.set(rotation=_TILT, ha="right", rotation_mode="anchor")

    def _dress(self, axes: Axes, width: float) -> None:
        axes.set_xlim(0, width)
        axes.set_xticks([(i + 0.5) * self.pitch for i in range(round(width / self.pitch))])
        axes.set_xticklabels([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set(color=INK, linewidth=0.6)
        axes.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)

    def centre(self, model: int, slot: int) -> float:
        return (model + 0.5) * self.pitch + (slot - (self._slots - 1) / 2) * self.slot


def _fold(name: str) -> list[str]:
    """A long name on two lines, broken nearest to its middle."""
    ends = [i + 1 for i, letter in enumerate(name[:-1]) if letter in "-_.:/ "]
    if len(name) <= _LONG or not ends:
        return [name]
    end = min(ends, key=lambda end: abs(2 * end - len(name)))
    return [name[:end], name[end:]]
