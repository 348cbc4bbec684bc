"""Interleaved rounds, and what is made of them: medians, spreads, ratios."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from embedder.errors import EvaluationError

ROUNDS = 5
"""The fewest that the documentation is written from."""

_MOST = 4
"""Quick sides have at most so many times the rounds that were asked for."""

_ENOUGH = 12.0
"""Seconds after which quick sides have no further rounds."""

REST = 0.05
"""Seconds after which threads cease to wait for more work (OpenBLAS's after 2**26 cycles)."""


@dataclass
class Spent:
    """Seconds of one run: by the clock, and of all cores together.

    ``cpu`` counts this process with its threads and the children that it has waited for; None where
    another process did the work.
    """

    wall: float
    cpu: float | None = None


Side = Callable[[], Spent]


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and the least and the greatest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@contextmanager
def watch() -> Iterator[Spent]:
    """Time the block; the figures are there once it is left."""
    spent = Spent(0.0)
    processor, began = _processor_seconds(), time.perf_counter()
    yield spent
    spent.wall = time.perf_counter() - began
    spent.cpu = _processor_seconds() - processor


def timed(action: Callable[[], object]) -> Side:
    def side() -> Spent:
        with watch() as spent:
            action()
        return spent

    return side


def interleave(sides: Sequence[Side], rounds: int) -> list[list[Spent]]:
    """For each side what its runs took. Each round runs every side once, every other backwards,
    after a moment in which the threads of the side before cease to wait for more work.

    Quick sides have more rounds, if ``rounds`` are ROUNDS or more.
    """
    spent: list[list[Spent]] = [[] for _ in sides]
    began = time.perf_counter()
    for number in range(_MOST * rounds):
        if number >= rounds and (rounds < ROUNDS or time.perf_counter() - began > _ENOUGH):
            break
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            time.sleep(REST)
            spent[place].append(sides[place]())
    return spent


def wall_ratio(upper: Sequence[Spent], lower: Sequence[Spent], scale: float = 1) -> Spread:
    """``scale`` times the upper's seconds over the lower's, round by round."""
    return Spread.of(
        [scale * one.wall / other.wall for one, other in zip(upper, lower, strict=True)]
    )


def cpu_ratio(upper: Sequence[Spent], lower: Sequence[Spent], scale: float = 1) -> Spread | None:
    """As ``wall_ratio``, of processor time; None where that is not known of both."""
    pairs = [(one.cpu, other.cpu) for one, other in zip(upper, lower, strict=True)]
    ratios = [scale * one / other for one, other in pairs if one is not None and other]
    return Spread.of(ratios) if len(ratios) == len(pairs) else None


def typical(spent: Sequence[Spent]) -> float:
    """The median of the seconds by the clock."""
    return median(one.wall for one in spent)


def check_equal(
    found: NDArray[np.generic], expected: NDArray[np.generic], tolerance: float, what: str
) -> None:
    """Raise EvaluationError where two sides do not compute the same thing.

    ``tolerance`` is relative to the largest absolute value that is expected.
    """
    if found.shape != expected.shape:
        raise EvaluationError(
            f"{what}: one side gives shape {found.shape}, the other {expected.shape}; "
            "they cannot be compared"
        )
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0)
    limit = tolerance * np.abs(expected.astype(np.float64)).max(initial=0)
    if not difference <= limit:
        raise EvaluationError(
            f"{what}: the sides differ by {difference:.2g}, allowed is {limit:.2g}; "
            "they cannot be compared"
        )


def _processor_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system
