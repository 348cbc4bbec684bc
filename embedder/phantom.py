"""Built-in datasets: procedural pictures that look medical, drawn on demand.

An image is a function of (seed, dataset, split, row), but for rounding on other processors. Its
master is float32 (C, 224, 224) in [0, 1]; at any size it is the master's area average, rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import cos, pi, sin
from zlib import crc32

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from embedder.datasets import SIZES, Dataset
from embedder.errors import DatasetError
from embedder.types import Labels, Pixels, Split, Task

Plane = NDArray[np.floating]  # float32 (224, 224), or broadcasts to it; (3, 224, 224) in colour
_VERSION = 1  # of the drawings: raise it with every change that moves a pixel
_MASTER = 224
_AXIS: Plane = ((np.arange(_MASTER) + 0.5) / (_MASTER / 2) - 1).astype(np.float32)
_Y, _X = _AXIS[:, None], _AXIS[None, :]
# Smooth weights of evenly spread knots, float32 (224, knots).
_UP = {n: np.exp(-np.square((_Y + 1) * (n - 1) / 2 - np.arange(n))) for n in (3, 6, 14, 32, 70)}


def _averaging(size: int) -> Plane:
    """Float32 (size, 224): row i averages the stretch of the master that pixel i covers."""
    edges, pixel = np.arange(size + 1) * (_MASTER / size), np.arange(_MASTER)
    shared = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.maximum(shared, 0) * (size / _MASTER), np.float32)


def _field(rng: Generator, knots: int) -> Plane:
    """A smooth random plane of mean 0 and variance near 1 with about ``knots`` bumps a side."""
    up = _UP[knots].astype(np.float32)
    return up @ rng.standard_normal((knots, knots), np.float32) @ up.T / 1.25


def _ramp(depth: Plane, softness: float) -> Plane:
    """0 outside (depth < 0), 1 inside, linear over ``softness`` in between."""
    return np.asarray(np.clip(depth / softness + 0.5, 0, 1))


def _oval(y: float, x: float, height: float, width: float, power: float = 2.0) -> Plane:
    """Depth inside a (super-)ellipse: 0 on its edge, and about 1 per radius near it."""
    down, across = np.abs((_Y - y) / height) ** power, np.abs((_X - x) / width) ** power
    return np.asarray((1 - down - across) / power)


def _stack(*rows: ArrayLike) -> Plane:
    """Arrays and numbers as float32 rows of one length: spots or lines, one a column."""
    return np.stack(np.broadcast_arrays(*map(np.atleast_1d, rows))).astype(np.float32)


def _splat(*dots: Plane) -> Plane:
    """The sum of Gaussian spots, each (4, K): y, x, sigma, height. A tube is a row of them."""
    y, x, sigma, height = np.hstack(dots)[:, :, None]
    down = np.exp(np.maximum(-0.5 * np.square((_AXIS - y) / sigma), -20))
    across = np.exp(np.maximum(-0.5 * np.square((_AXIS - x) / sigma), -20))
    return np.asarray((down * height).T @ across)


def _tubes(rng: Generator, lines: Plane) -> Plane:
    """Spots of wandering lines, (6, K): y, x, heading, length, sigma and bend in radians."""
    y, x, heading, length, sigma, bend = lines[:, :, None]
    count = 2 + int(np.max(length / sigma) / 1.8)
    along = np.linspace(0, 1, count)
    wander = rng.normal(0, 0.5 / count**0.5, (len(y), count)).cumsum(axis=1)
    turn, step, sigmas = heading + bend * along + wander, length / count, sigma * (1 - 0.3 * along)
    y, x = y + np.cumsum(step * np.sin(turn), axis=1), x + np.cumsum(step * np.cos(turn), axis=1)
    return _stack(y, x, sigmas, step / (2.507 * sigmas)).reshape(4, -1)


def _trees(rng: Generator, lines: Plane) -> Plane:
    """Spots of such lines with two thinner side branches each."""
    trunks = _tubes(rng, lines)
    _, _, heading, length, sigma, bend = np.repeat(lines, 2, axis=1)
    place, points = rng.uniform(0.15, 0.85, len(bend)), trunks.shape[1] // lines.shape[1]
    start = trunks[:2, ((np.arange(len(bend)) // 2 + place) * points).astype(np.int64)]
    fork = heading + bend * place + rng.choice((-0.8, -0.5, 0.5, 0.8), len(bend))
    twigs = _stack(*start, fork, length * rng.uniform(0.25, 0.5, len(bend)), 0.65 * sigma, 0)
    return np.hstack([trunks, _tubes(rng, twigs)])


def _scatter(rng: Generator, count: float, reach: float, small: float, large: float) -> Plane:
    """About ``count`` spots within ``reach`` of the middle."""
    many = rng.poisson(count)
    out, turn = reach * np.sqrt(rng.random(many)), rng.uniform(0, 2 * pi, many)
    return _stack(out * np.sin(turn), out * np.cos(turn), rng.uniform(small, large, many), 1)


def _rgb(colour: ArrayLike) -> Plane:
    return np.asarray(colour, np.float32)[:, None, None]


def _paint(canvas: Plane, mask: Plane, colour: ArrayLike) -> None:
    """Lay a colour over float32 (3, 224, 224), as thickly as the mask says."""
    canvas += mask * (_rgb(colour) - canvas)


def _draw_nodule(rng: Generator, label: Labels) -> Plane:
    """A CT patch of lung beside the chest wall; vessels cross it, some of them end on."""
    lean = rng.uniform(0, 2 * pi)
    inward = _X * cos(lean) + _Y * sin(lean) + rng.uniform(0.6, 1.2) + 0.1 * _field(rng, 3)
    y, x, turn = rng.uniform(-1.1, 1.1, (3, rng.integers(3, 6)))
    sigma, bend = rng.uniform(0.02, 0.045, len(y)), rng.normal(0, 0.4, len(y))
    trees = _trees(rng, _stack(y, x, np.arctan2(-y, -x) + turn, 1.4, sigma, bend))
    vessels = 1 - np.exp(-_splat(trees, _scatter(rng, 4, 1.0, 0.02, 0.05)))
    tissue = 0.16 + 0.03 * _field(rng, 14) + rng.uniform(0.2, 0.32) * vessels
    y, x = rng.normal(0, 0.16, 2).tolist()
    if label[0]:
        size = rng.uniform(0.14, 0.38)
        depth = _oval(y, x, size, size) + rng.uniform(0.08, 0.25) * _field(rng, 14)
        tissue += _ramp(depth, rng.uniform(0.25, 0.9)) * (rng.uniform(0.4, 0.7) - 0.6 * tissue)
    elif rng.random() < 0.5:
        knot = _stack(y, x, rng.uniform(0, 2 * pi, 3), 0.6, rng.uniform(0.03, 0.07), 0)
        tissue += rng.uniform(0.2, 0.4) * np.tanh(_splat(_tubes(rng, knot)))
    wall = 0.55 + 0.03 * _field(rng, 32) - 0.2 * np.exp(-np.square((inward + 0.1) * 15))
    wall += 0.3 * _ramp(0.1 + 0.1 * _field(rng, 6) - np.abs(inward + 0.32), 0.08)
    image = wall + _ramp(inward, 0.05) * (tissue - wall)
    return (image * rng.uniform(0.8, 1.2) + rng.uniform(-0.04, 0.06))[None]


# Radius; lobe size, count, spread, arc; granule count, size, strength; RGB of plasm, core, granule.
_CELLS = np.array([
    [.50, .74, 1, .06, 1.0, 8, .016, .1, .66, .72, .90, .36, .20, .56, .55, .25, .60],
    [.66, .40, 6, .30, 3.2, 25, .014, .2, .72, .71, .83, .45, .30, .60, .60, .40, .65],
    [.60, .21, 4, .42, 4.2, 70, .013, .3, .91, .80, .84, .38, .20, .52, .75, .50, .68],
    [.60, .28, 2, .42, 2.6, 90, .026, .9, .92, .76, .74, .42, .24, .56, .86, .40, .30],
    [.44, .50, 1, .03, 1.0, 4, .014, .1, .78, .64, .74, .27, .12, .40, .60, .40, .60],
    [.24, .05, 1, .02, 1.0, 45, .018, .8, .80, .70, .84, .55, .36, .66, .52, .28, .62],
])  # fmt: skip


def _red_cells(rng: Generator, free: float) -> Plane:
    """Thickness of a loose carpet of biconcave discs that leaves the middle free."""
    thick = np.zeros((_MASTER, _MASTER), np.float32)
    grid, size = np.arange(-1.2, 1.3, rng.uniform(0.46, 0.62)), rng.uniform(0.21, 0.27)
    for middle in np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2):
        (y, x), radius = (middle + rng.normal(0, 0.09, 2)).tolist(), rng.normal(size, 0.015)
        if np.hypot(y, x) > free + 0.8 * radius and rng.random() < 0.8:
            rows, columns = np.abs(_AXIS - np.array([[y], [x]])) < 1.1 * radius
            away = np.square((_Y[rows] - y) / radius) + np.square((_X[:, columns] - x) / radius)
            thick[np.ix_(rows, columns)] += _ramp(1 - away, 0.2) * (1 - 0.55 * np.exp(-4 * away))
    return thick


def _draw_cells(rng: Generator, label: Labels) -> Plane:
    """A stained smear: one cell among red cells, its looks mixed with those of another kind."""
    look = _CELLS[label[0]]
    look = look + rng.uniform(0, 0.25) * (_CELLS[rng.integers(len(_CELLS))] - look)
    look[:8] *= np.exp(rng.normal(0, 0.09, 8))
    radius, lobe, lobes, spread, arc, granules, grain, strength = look[:8].tolist()
    y, x = rng.normal(0, 0.07, 2).tolist()
    canvas: Plane = np.exp((_red_cells(rng, radius) + 0.4) * _rgb([-0.07, -0.26, -0.23]))
    body = _ramp(_oval(y, x, radius, radius * rng.uniform(0.8, 1.2)) + 0.05 * _field(rng, 6), 0.09)
    _paint(canvas, body * (0.9 + 0.06 * _field(rng, 32)), look[8:11])
    grains = _scatter(rng, granules, 0.9 * radius, 0.7 * grain, 1.2 * grain)
    _paint(canvas, np.minimum(_splat(grains), 1) * body * min(strength, 1), look[14:17])
    count = max(1, round(rng.normal(lobes, 0.4)))
    turn = rng.uniform(0, 2 * pi) + np.linspace(-arc, arc, count) / 2 + rng.normal(0, 0.15, count)
    far, size = rng.normal(1, 0.12, (2, count)) * [[radius * spread], [radius * lobe * 0.85]]
    core = _splat(_stack(y + far * np.sin(turn), x + far * np.cos(turn), size, 1))
    core = _ramp(core - 0.5 + 0.05 * _field(rng, 14), 0.16) * body
    _paint(canvas, core * (0.93 + 0.09 * _field(rng, 32)), look[11:14])
    stain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.06, 3))
    return (1 + 0.04 * _field(rng, 3)) * np.asarray(np.maximum(canvas, 0.02) ** _rgb(stain))


def _draw_grade(rng: Generator, label: Labels) -> Plane:
    """An eye ground; red and yellow lesions grow in number and size with the grade."""
    load, side = max(0.0, float(label[0]) + rng.normal(0, 0.25)), float(rng.choice((-1, 1)))
    disc_y, disc_x = rng.normal(0, 0.04), side * rng.uniform(0.52, 0.62)
    away = np.square(_Y - rng.normal(0, 0.015)) + np.square(_X - rng.normal(0, 0.015))
    light = 1 - 0.4 * away - _splat(_stack(0.03, -0.08 * side, 0.17, 0.3)) + 0.04 * _field(rng, 6)
    canvas: Plane = light * _rgb([0.80, 0.38, 0.17]) * _rgb(np.exp(rng.normal(0, 0.1, 3)))
    _paint(canvas, _ramp(_oval(disc_y, disc_x, 0.17, 0.15), 0.25) * 0.85, (0.96, 0.76, 0.46))
    _paint(canvas, _splat(_stack(disc_y, disc_x, 0.06, 0.7)), (1.0, 0.92, 0.72))
    way, start = np.repeat((-side, side), 3), disc_x + side * rng.normal(0.02, 0.01, 6)
    heading = (1 + side) / 2 * pi + way * (np.tile((1.75, 1.35, 2.2), 2) + rng.normal(0, 0.08, 6))
    length, bend = np.tile((2.0, 1.0, 0.9), 2), -way * np.tile((2.3, 1.2, -0.4), 2)
    lines = _stack(disc_y, start, heading, length, rng.uniform(0.017, 0.022, 6), bend)
    canvas *= 1 - (1 - np.exp(-_splat(_trees(rng, lines)))) * _rgb([0.18, 0.36, 0.32])
    rough = 1 + 0.3 * _field(rng, 32) + 0.2 * _field(rng, 70)
    dots = _scatter(rng, 8 * load, 0.3 + 0.13 * load, 0.012, 0.02 + 0.008 * load)
    blots = _scatter(rng, 4 * max(0, load - 0.5), 0.1 + 0.12 * load, 0.03, 0.04 + 0.015 * load)
    _paint(canvas, _ramp(_splat(dots, blots) * rough - 0.5, 0.6) * 0.8, (0.38, 0.06, 0.04))
    hard = _scatter(rng, 9 * load, 0.05 + 0.13 * load, 0.015, 0.02 + 0.008 * load)
    _paint(canvas, _ramp(_splat(hard) * rough - 0.5, 0.4) * 0.85, (0.97, 0.85, 0.45))
    if load > 3.3:
        tangle = _stack(disc_y, disc_x, np.arange(12) / 2, 0.4, 0.009, rng.normal(0, 4, 12))
        _paint(canvas, np.minimum(_splat(_tubes(rng, tangle)), 1) * 0.6, (0.5, 0.08, 0.06))
    return canvas * _ramp(rng.uniform(0.97, 1.01) - np.sqrt(away), 0.04) * rng.normal(1, 0.07)


def _chest(rng: Generator, large_heart: bool) -> tuple[Plane, Plane, Plane]:
    """Soft tissue without lungs; how much air there is; how much of the air the heart hides."""
    u, v = _X + rng.normal(0, 0.02), _Y + rng.normal(0, 0.03)
    wide, height, width = np.abs(u), rng.uniform(0.66, 0.74), rng.uniform(0.33, 0.38)
    body = _ramp(_oval(0.7, 0, rng.uniform(1.6, 1.75), rng.uniform(0.97, 1.1), 3), 0.06)
    shape = np.maximum(*(_oval(-0.06, side, height, width, 2.6) for side in (-0.44, 0.44)))
    domes = rng.uniform(0.4, 0.52) + 0.06 * u + 0.8 * np.square(wide - 0.36) - v
    air = _ramp(shape + 0.03 * _field(rng, 3), 0.1) * _ramp(domes, 0.05)
    bulk = rng.normal(1.3 if large_heart else 1.0, 0.07)
    heart = _oval(0.2 + 0.05 * bulk, 0.02 + 0.1 * bulk, 0.33, 0.34 * bulk)
    heart = _ramp(heart + 0.9 * (u - 0.1) * (v - 0.2), 0.3)
    trunk = np.exp(-np.square((u - 0.03) / rng.uniform(0.13, 0.17)))
    solid = np.maximum(np.maximum(heart, 0.7 * _ramp(_oval(-0.22, 0.13, 0.12, 0.11), 0.5)), trunk)
    tissue = 0.58 + 0.03 * _field(rng, 6) + 0.1 * trunk * (1 + 0.2 * np.cos(v * 30))
    return tissue * body, air, 0.93 * solid


def _draw_findings(rng: Generator, label: Labels) -> Plane:
    """A frontal chest view, the patient's left on the right; each finding is drawn by itself."""
    large_heart, effusion, consolidation, pneumothorax, nodule, device = label.tolist()
    image, air, solid = _chest(rng, large_heart)
    side, sick = np.repeat((-1, 1), 5), float(rng.choice((-1, 1)))
    fan = rng.normal(0, 0.9, 10) + pi * (side < 0)
    roots = _trees(rng, _stack(rng.normal(0, 0.08, 10), 0.17 * side, fan, 0.5, 0.024, 0))
    inside = 0.02 * _field(rng, 14) + 0.14 * (1 - np.exp(-_splat(roots)))
    if pneumothorax:
        rest = _oval(0.1, 0.3 * sick, rng.uniform(0.5, 0.6), 0.31, 2.4)
        gone = _ramp(-rest, 0.08) * (sick * _X > 0)
        inside = inside * (1 - gone) + gone * (0.6 - 0.73 * gone)
    phase = (_Y + 0.35 * np.square(np.abs(_X) - 0.8)) * rng.uniform(22, 26) + rng.uniform(0, 6)
    inside += 0.08 * _ramp(np.cos(phase), 1.2)
    if consolidation:
        spot = _stack(rng.uniform(-0.3, 0.3), sick * 0.42, rng.uniform(0.16, 0.28), 0.34)
        inside += np.maximum(_splat(spot) * (0.75 + 0.35 * _field(rng, 14)), 0)
    if nodule:
        inside += _splat(_stack(rng.uniform(-0.5, 0.2), -sick * rng.uniform(0.3, 0.6), 0.06, 0.34))
    if effusion:
        level = rng.uniform(0.0, 0.32) - 2 * np.square(_X - 0.25 * sick)
        air = air * (1 - 0.95 * _ramp(_Y - level, 0.12) * (sick * _X > 0))
    image = image - air * (rng.uniform(0.36, 0.44) - inside) * (1 - solid)
    if device:
        y, x = rng.normal(-0.55, 0.06), rng.normal(0.6, 0.05)
        wire = _stack(y, x, pi - rng.uniform(0.2, 0.5), 1.35, 0.014, -rng.uniform(1.6, 2.2))
        box = _ramp(_oval(y, x, 0.12, 0.1, 4), 0.1)
        image += 0.4 * np.maximum(np.minimum(_splat(_tubes(rng, wire)), 1), box)
    image = 0.03 + np.maximum(image, 0.02) ** rng.uniform(0.8, 1.25) * rng.uniform(0.9, 1.15)
    return np.asarray(image)[None]


# How to draw each dataset, and how often each class, or each label, is to be seen.
_RECIPES: dict[str, tuple[Callable[[Generator, Labels], Plane], tuple[float, ...]]] = {
    "phantom-nodule": (_draw_nodule, (0.6, 0.4)),
    "phantom-cells": (_draw_cells, (0.22, 0.14, 0.24, 0.16, 0.12, 0.12)),
    "phantom-grade": (_draw_grade, (0.32, 0.18, 0.2, 0.16, 0.14)),
    "phantom-findings": (_draw_findings, (0.34, 0.38, 0.3, 0.16, 0.22, 0.28)),
}


class PhantomSource:
    """A built-in dataset as an ImageSource; ``seed`` chooses one of many like it."""

    def __init__(self, dataset: Dataset, size: int, seed: int = 0) -> None:
        if size not in SIZES:
            raise DatasetError(f"{dataset.name} has no size {size}; its sizes are {SIZES}")
        self.dataset, self.size, self._seed, self._averaging = dataset, size, seed, _averaging(size)
        self.checksum = f"phantom-{_VERSION}:seed{seed}:{dataset.name}"

    def labels(self, split: Split) -> Labels:
        """Uint8 (N, 1), or (N, L) for the multi-label dataset."""
        rng, often = self._rng(split, 0), np.array(_RECIPES[self.dataset.name][1])
        count = self.dataset.count(split)
        if self.dataset.task is Task.MULTILABEL:
            return (rng.random((count, len(often))) < often).astype(np.uint8)
        return np.searchsorted(np.cumsum(often)[:-1], rng.random((count, 1))).astype(np.uint8)

    def batches(self, split: Split, batch_size: int, start: int = 0) -> Iterator[Pixels]:
        count = self.dataset.count(split)
        for first in range(start, count, batch_size):
            yield self.pick(split, range(first, min(first + batch_size, count)))

    def pick(self, split: Split, rows: Sequence[int]) -> Pixels:
        labels, known = self.labels(split), range(self.dataset.count(split))
        with threadpool_limits(1, "blas"):  # threads slow such small products down, three times
            images = [self._render(split, known[row], labels) for row in rows]
        return np.array(images, np.uint8).reshape(-1, self.size, self.size, self.dataset.channels)

    def image(self, split: Split, row: int) -> Pixels:
        return self.pick(split, [self.dataset.known_row(split, row)]).squeeze(0)

    def _render(self, split: Split, row: int, labels: Labels) -> Pixels:
        rng = self._rng(split, row + 1)
        master = _RECIPES[self.dataset.name][0](rng, labels[row])
        grain = rng.standard_normal((_MASTER, _MASTER), np.float32) + 0.6 * _field(rng, 70)
        master = np.clip(master + rng.uniform(0.006, 0.018) * grain, 0, 1)
        image = self._averaging @ master @ self._averaging.T if self.size < _MASTER else master
        return np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0)

    def _rng(self, split: Split, stream: int) -> Generator:
        dataset, part = crc32(self.dataset.name.encode()), crc32(split.value.encode())
        return np.random.default_rng([self._seed, dataset, part, stream])
