"""Reliability curves: of what was given a score, the share that came true."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from embedder.types import Task
from evaluate.calibration import BINS, Bin, measure_calibration
from evaluate.canvas import SMALL, STYLED, TEXT, place
from evaluate.gallery import FAINT, INK, Stroke
from evaluate.panels import (
    NAME,
    Corner,
    Mark,
    arrange,
    entitle,
    fit,
    key,
    key_height,
    mark,
    width_of,
)  # fmt: skip
from evaluate.replay import Replay
from evaluate.schemes import replicate_of, scheme_of

_FEW = 10
"""A bin of fewer scores has an empty mark."""

_HISTOGRAM, _AXIS, _GAP, _LEFT = 0.5, 0.46, 0.15, 0.42
"""Inches: the histogram's height, its axis with words, the space above it, room for numbers."""

_UNDER = _GAP + _HISTOGRAM + _AXIS

_LINES: tuple[Stroke, ...] = ("solid", (0, (3, 2)), (0, (1, 1)), (0, (3, 1, 1, 1)))
_HATCHES = ("", "//////", "......", "xxxxxx")


@STYLED
def curves(replays: Sequence[Replay]) -> Figure | None:
    """A panel for each dataset and split: the curve of each record, and how many cases it rests on.

    The curves are those that the expected calibration error is taken of (15 bins of equal width,
    see ``measure_calibration``): binary of the score of class 1, multi-class and ordinal of that of
    the predicted class. Multi-label: the labels' curves pooled, while the error is the mean over
    labels. None where there is no record. Raises EvaluationError for scores that are no
    probabilities.
    """
    panels: dict[tuple[str, str], list[Replay]] = {}
    for replay in replays:
        panels.setdefault((replay.record.dataset, replay.record.split), []).append(replay)
    if not panels:
        return None
    width = width_of(len(panels))
    side = width - _LEFT
    heights = [NAME + side + _UNDER + key_height(len(each), 1) for each in panels.values()]
    title = "Reliability: the share of cases that came true, by the score that they were given"
    notes = (
        f"Dashed line: what would come true if scores were right. Empty marks: fewer than {_FEW} "
        f"scores. Below: how many scores each of {BINS} bins has. ECE: expected calibration error; "
        "multi-label its mean over labels."
    )
    figure, corners = arrange(heights, title, notes)
    for each, corner in zip(panels.values(), corners, strict=True):
        _panel(figure, corner, width, each)
    return figure


def pool(curves: Sequence[Sequence[Bin]]) -> tuple[Bin, ...]:
    """Curves over the same bins as one: that of all their rows together."""
    return tuple(_join(parts) for parts in zip(*curves, strict=True))


def _join(parts: Sequence[Bin]) -> Bin:
    count = sum(part.count for part in parts)
    filled = [part for part in parts if part.count]
    confidence = sum(part.count * (part.confidence or 0) for part in filled)
    observed = sum(part.count * (part.observed or 0) for part in filled)
    return Bin(
        low=parts[0].low,
        high=parts[0].high,
        count=count,
        confidence=confidence / count if count else None,
        observed=observed / count if count else None,
    )


def _panel(figure: Figure, corner: Corner, width: float, replays: Sequence[Replay]) -> None:
    first, (left, top) = replays[0], corner
    side, dataset = width - _LEFT, first.cell.dataset
    entitle(figure, corner, width, dataset.name, f"{len(first.rows):,} {first.record.split} cases")
    above = place(figure, left + _LEFT, top + NAME, side, side)
    below = place(figure, left + _LEFT, top + NAME + side + _GAP, side, _HISTOGRAM)
    _frame(above, below, side, _scored(first))
    marks, most = [], 0
    for number, replay in enumerate(replays):
        found = measure_calibration(
            replay.labels, replay.scores, dataset.task, dataset.classes
        )  # fmt: skip
        how = mark(number, f"ECE {found.ece:.3f}: {_title(replay)}", _LINES[number % len(_LINES)])
        marks.append(how)
        curve = pool(found.curves)
        _draw_curve(above, curve, how)
        _draw_counts(below, curve, how, number, len(replays))
        most = max(most, *(part.count for part in curve))
    below.set(ylim=(0, 1.25 * most), yticks=(0, most), yticklabels=("0", f"{most:,}"))
    key(figure, (left, top + NAME + side + _UNDER), width, marks, 1)


def _scored(replay: Replay) -> str:
    """What the scores are of."""
    dataset = replay.cell.dataset
    if dataset.task is Task.MULTILABEL:
        return "score of a label, all labels pooled"
    if dataset.task is Task.BINARY:
        return f"score of {dataset.classes[1]}"
    return "score of the predicted class"


def _title(replay: Replay) -> str:
    """How the scores were come by."""
    record, number = replay.record, replicate_of(replay.record)
    drawn = "" if number is None else f", {'seed' if record.kind == 'probe' else 'draw'} {number}"
    return f"{scheme_of(record)[1]}{drawn}, {record.variant} {record.size} px"


def _frame(above: Axes, below: Axes, side: float, scored: str) -> None:
    ticks = [0, 0.25, 0.5, 0.75, 1]
    above.plot([0, 1], [0, 1], color=FAINT, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
    above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=ticks, yticks=ticks, xticklabels=[])
    above.set_ylabel("share that came true", size=TEXT, color=INK)
    below.set(xlim=(-0.02, 1.02), xticks=ticks)
    below.set_xlabel(fit(scored, side, TEXT), size=TEXT, color=INK, parse_math=False)
    below.set_ylabel("count", size=TEXT, color=INK)
    for axes in (above, below):
        axes.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=2.5)
        axes.grid(visible=True, color="#e3e3e3", linewidth=0.5)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set(color=FAINT, linewidth=0.6)


def _draw_curve(axes: Axes, curve: Sequence[Bin], how: Mark) -> None:
    points = [
        (part.confidence, part.observed, part.count >= _FEW)
        for part in curve
        if part.confidence is not None and part.observed is not None
    ]
    x, y, _ = zip(*points, strict=True)
    axes.plot(x, y, color=how.colour, linestyle=how.line, linewidth=1.3, zorder=2)
    for score, share, many in points:
        axes.plot(
            score, share, marker=how.marker, markersize=5.5, color=how.colour if many else "white",
            markeredgecolor=INK if many else how.colour, markeredgewidth=0.4 if many else 1.1,
            zorder=3,
        )  # fmt: skip


def _draw_counts(axes: Axes, curve: Sequence[Bin], how: Mark, number: int, of: int) -> None:
    """A bar for each bin, those of several records side by side."""
    for part in curve:
        width = 0.86 * (part.high - part.low) / of
        left = (part.low + part.high) / 2 + (number - of / 2) * width
        axes.bar(
            left, part.count, width, align="edge", color=how.colour, linewidth=0.4,
            edgecolor="white", hatch=_HATCHES[number % len(_HATCHES)],
        )  # fmt: skip
