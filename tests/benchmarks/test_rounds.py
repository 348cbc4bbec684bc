"""Interleaving, ratios and spreads, on literal seconds: nothing here is timed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rounds import (
    REST,
    Spent,
    Spread,
    check_equal,
    cpu_ratio,
    interleave,
    typical,
    wall_ratio,
    watch,
)
from embedder.errors import EvaluationError


def test_every_other_round_runs_the_sides_backwards() -> None:
    order: list[str] = []

    def side(name: str) -> Spent:
        order.append(name)
        return Spent(float(len(order)))

    spent = interleave([lambda: side("a"), lambda: side("b"), lambda: side("c")], 3)
    assert "".join(order) == "abccbaabc"
    assert [[one.wall for one in row] for row in spent] == [[1, 6, 7], [2, 5, 8], [3, 4, 9]]


def test_quick_sides_have_more_rounds_of_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def side(seconds: float) -> Spent:
        clock[0] += seconds
        return Spent(seconds)

    rests: list[float] = []
    monkeypatch.setattr("benchmarks.rounds.time.sleep", rests.append)
    monkeypatch.setattr("benchmarks.rounds.time.perf_counter", lambda: clock[0])
    counts = [len(interleave([partial(side, seconds)], 5)[0]) for seconds in (0.1, 2.0, 9.0)]
    assert counts == [20, 7, 5]
    assert rests == [REST] * sum(counts)
    assert len(interleave([partial(side, 0.1)], 4)[0]) == 4


def test_ratios_are_of_one_round_each() -> None:
    upper = [Spent(2.0, 3.0), Spent(6.0, 4.0), Spent(9.0, 5.0)]
    lower = [Spent(1.0, 1.0), Spent(4.0, 2.0), Spent(3.0, 1.0)]
    assert wall_ratio(upper, lower) == Spread(2.0, 1.5, 3.0)
    assert wall_ratio(upper, lower, 3) == Spread(6.0, 4.5, 9.0)
    assert cpu_ratio(upper, lower) == Spread(3.0, 2.0, 5.0)
    assert typical(upper) == 6.0


def test_processor_time_that_one_side_does_not_know_has_no_ratio() -> None:
    assert cpu_ratio([Spent(1.0, 2.0), Spent(1.0)], [Spent(1.0, 1.0), Spent(1.0, 1.0)]) is None
    assert cpu_ratio([Spent(1.0, 2.0)], [Spent(1.0, 0.0)]) is None


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=9))
def test_a_spread_holds_its_median(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.low <= spread.median <= spread.high
    assert spread.median == pytest.approx(float(np.median(values)))


def test_watch_counts_both_clocks() -> None:
    with watch() as spent:
        sum(range(1000))
    assert spent.wall > 0
    assert spent.cpu is not None
    assert spent.cpu >= 0


def test_sides_that_differ_are_not_timed() -> None:
    one = np.array([[100.0, 1.0]], np.float32)
    check_equal(one, one + 0.009, 1e-4, "sides")
    with pytest.raises(EvaluationError, match=r"the sides differ by 0\.1\d*, allowed is 0\.01"):
        check_equal(one, one + np.float32(0.1), 1e-4, "sides")
    with pytest.raises(EvaluationError, match=r"shape \(1, 2\), the other \(2,\)"):
        check_equal(one, one[0], 1.0, "sides")
    with pytest.raises(EvaluationError):
        check_equal(np.array([np.nan]), np.array([1.0]), 1.0, "sides")
