"""Embeddings as maps: a point for each case, near ones for images that a backbone finds alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from embedder.datasets import Dataset
from embedder.errors import CasebookError, EvaluationError
from embedder.selection import title
from embedder.store import Cell
from embedder.types import Distance, Labels, Rows, Split, Task, Vectors
from evaluate.canvas import STYLED, TEXT, place, wrap
from evaluate.gallery import FAINT, INK
from evaluate.neighbours import name_of
from evaluate.panels import NAME, Mark, arrange, entitle, key, key_height, mark, width_of
from index.points import ready

Points = NDArray[np.float64]
"""Float64 (N, 2)."""

_MOST, _LEAST = 1000, 10
"""Cases that are drawn of one dataset, at most and at least."""

_CLASSES = 11
"""The most that have a mark of their own."""

_COMPONENTS, _PERPLEXITY = 50, 30
_FINDINGS: tuple[str, ...] = ("no finding", "one finding", "several findings")
_COLUMNS, _GAP, _SIZE = 2, 0.08, 14.0
"""Columns of the key, inches above it, and points squared of a mark."""


def project(vectors: Vectors, seed: int = 0) -> Points:
    """Embeddings, float32 (N, D), in two dimensions, float64 (N, 2), by t-SNE.

    L. van der Maaten, G. Hinton, Visualizing data using t-SNE, JMLR 9, 2008: as scikit-learn has
    it, on vectors of unit length (whose Euclidean distances rank as cosines do), reduced to 50
    principal components where there are more, begun from the first two, with a perplexity of 30,
    or (N - 1) / 3 where that is less. One thread, since sums in another order would grow into
    another map: the same vectors and seed give the same map.

    Raises EvaluationError for fewer than 10 vectors, or where all are alike; ZeroVectorError.
    """
    count = len(vectors)
    if count < _LEAST:
        raise EvaluationError(f"{count} cases are too few for a map; it takes {_LEAST}")
    points = ready(vectors, Distance.COSINE, "vectors").astype(np.float64)
    if not np.ptp(points, axis=0).any():
        raise EvaluationError(f"all {count} embeddings are alike; there is nothing to map")
    with threadpool_limits(1):
        if min(points.shape) > _COMPONENTS:
            points = PCA(_COMPONENTS, random_state=seed).fit_transform(points)
        elif points.shape[1] == 1:
            points = np.hstack([points, np.zeros_like(points)])
        perplexity = min(_PERPLEXITY, (count - 1) / 3)
        flat = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(points)
    return np.asarray(flat, np.float64)


@dataclass(frozen=True, eq=False)
class _Map:
    """What one panel shows: ``groups``, int64 (N,), says which of the marks each point has.

    Where ``sentence`` says why there is no map, the rest is empty.
    """

    detail: str
    marks: list[Mark]
    points: Points
    groups: Rows
    sentence: str = ""


@STYLED
def embedding_map(cells: Sequence[Cell], seed: int = 0) -> Figure | None:
    """A panel for each cell: its test cases in two dimensions, by ``project``.

    Of more than 1,000 cases as many are drawn at random. Points are marked by class; of more than
    11 classes the ten most frequent, the others alike. Multi-label: by how many findings there are.
    A panel without a map says why. None where there is no cell.
    """
    if not cells:
        return None
    maps = [_map(cell, seed) for cell in cells]
    side = width_of(len(maps))
    heights = [NAME + side + _GAP + key_height(len(each.marks), _COLUMNS) for each in maps]
    made_by = {(cell.header.variant, cell.size) for cell in cells}
    of = "{} at {} px: ".format(*made_by.pop()) if len(made_by) == 1 else ""
    what = f"{of}test cases in two dimensions, by t-SNE of embeddings of unit length"
    notes = "Near points are images that the backbone finds alike; far distances mean little."
    figure, corners = arrange(heights, what, notes)
    for cell, each, (left, top) in zip(cells, maps, corners, strict=True):
        name = cell.dataset.name if of else title(cell)
        entitle(figure, (left, top), side, name, each.detail)
        _plot(place(figure, left, top + NAME, side, side), each, side)
        key(figure, (left, top + NAME + side + _GAP), side, each.marks, _COLUMNS)
    return figure


def _map(cell: Cell, seed: int) -> _Map:
    live = cell.live(Split.TEST)
    drawn = np.random.default_rng(seed).choice(live, min(_MOST, len(live)), replace=False)
    rows = np.sort(drawn)
    vectors: Vectors = np.asarray(cell.embeddings(Split.TEST)[rows], np.float32)
    known = vectors.any(axis=1)
    shown, zeros = int(known.sum()), int((~known).sum())
    detail = f"{len(live):,} cases" if shown == len(live) else f"{shown:,} of {len(live):,} cases"
    if zeros:
        detail += f", without {zeros} zero vector{'s' if zeros > 1 else ''}"
    try:
        points = project(vectors[known], seed)
    except CasebookError as error:
        return _Map(detail, [], np.empty((0, 2)), rows[:0], str(error))
    return _Map(detail, *_group(cell.dataset, cell.labels(Split.TEST)[rows[known]], points))


def _group(
    dataset: Dataset, labels: Labels, points: Points
) -> tuple[list[Mark], Points, Rows]:  # fmt: skip
    """The marks of what is there, and which of them each point has."""
    if dataset.task is Task.MULTILABEL:
        names, values = _FINDINGS, labels.sum(axis=1).clip(0, 2).astype(np.int64)
    else:
        numbers = np.arange(len(dataset.classes), dtype=np.uint8)
        names = tuple(name_of(number, dataset) for number in numbers[:, None])
        values = labels[:, 0].astype(np.int64)
    counts = np.bincount(values, minlength=len(names))
    frequent = np.argsort(-counts, kind="stable")
    kept = np.sort(frequent if len(names) <= _CLASSES else frequent[: _CLASSES - 1])
    marks = [mark(place, names[number]) for place, number in enumerate(kept)]
    groups = np.full(len(names), len(kept))
    groups[kept] = np.arange(len(kept))
    if len(kept) < len(names):
        marks.append(Mark(f"{len(names) - len(kept)} other classes", FAINT, "."))
    return marks, points, groups[values]


def _plot(axes: Axes, each: _Map, side: float) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.6)
    if each.sentence:
        text = "\n".join(wrap(each.sentence, side - 0.4, TEXT))
        axes.text(
            0.5, 0.5, text, size=TEXT, color=FAINT, ha="center", va="center", parse_math=False,
            transform=axes.transAxes,
        )  # fmt: skip
        return
    axes.set_aspect("equal", adjustable="datalim")
    for number, how in enumerate(each.marks):
        chosen = each.points[each.groups == number]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=_SIZE, c=how.colour, marker=how.marker, alpha=0.85,
            edgecolors=INK, linewidths=0.3,
        )  # fmt: skip
