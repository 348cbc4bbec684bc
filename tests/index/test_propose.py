from __future__ import annotations

import numpy as np
import pytest

from index import propose as module
from index.propose import propose


@pytest.mark.parametrize(("queries", "points"), [(1, 1), (7, 5), (64, 64)])
@pytest.mark.parametrize("euclidean", [False, True])
def test_the_best_across_blocks(
    monkeypatch: pytest.MonkeyPatch, queries: int, points: int, euclidean: bool
) -> None:
    monkeypatch.setattr(module, "_QUERIES", queries)
    monkeypatch.setattr(module, "_POINTS", points)
    rng = np.random.default_rng(3)
    q, p = (rng.normal(size=(n, 6)).astype(np.float32) for n in (15, 41))
    squares = (p**2).sum(axis=1) if euclidean else None
    worth = -np.linalg.norm(q[:, None] - p, axis=2) if euclidean else q @ p.T
    expected = np.argsort(-worth, axis=1)[:, :4]
    rows, values = propose(q, p, squares, 4)
    if euclidean:
        worth = q @ p.T - (p**2).sum(axis=1) / 2
    np.testing.assert_allclose(values, np.take_along_axis(worth, rows, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(rows, expected)


def test_as_many_as_there_are() -> None:
    points = np.eye(3, dtype=np.float32)
    assert sorted(propose(points[:1], points, None, 3)[0][0]) == [0, 1, 2]


def test_what_overflows_is_missing() -> None:
    points = np.array([[3e38, 3e38], [1, 0]], np.float32)
    squares = np.array([np.inf, 1], np.float32)
    found, _ = propose(points[:1], points, squares, 2)
    assert -1 in found
