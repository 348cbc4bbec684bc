from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from embedder.types import Distance, Rows, Vectors
from index.build import Kind
from index.live import LiveIndex, Part
from service import familiarity
from service.familiarity import Familiarity, draw


def build(vectors: Vectors, rows: Rows | None = None) -> tuple[LiveIndex, Familiarity | None]:
    chosen = np.arange(len(vectors)) if rows is None else rows
    index = LiveIndex.of(vectors, chosen, Distance.COSINE, "toy/train", Kind.CPU)
    return index, Familiarity.of(index, lambda some: vectors[some])


def test_is_the_rank_among_leave_one_out_means() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    _, usual = build(vectors)
    assert usual is not None
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = -np.sort(-cosines, axis=1)
    for k in (1, 5, 100):
        means = nearest[:, :k].mean(axis=1)
        for query in (nearest[7, :k] - 0.01, np.full(k, 0.2), np.full(k, 1.0)):
            expected = percentileofscore(means, query.mean(), kind="mean")
            assert usual.percentile(query.astype(np.float32)) == pytest.approx(expected, abs=0.4)


def test_extremes_and_ties() -> None:
    _, usual = build(np.tile(np.float32([1, 0, 0]), (10, 1)))
    assert usual is not None
    assert usual.percentile(np.ones(3, np.float32)) == 50
    assert usual.percentile(np.full(3, 0.5, np.float32)) == 0
    assert usual.percentile(np.full(3, 1.0001, np.float32)) == 100


def test_a_single_case_has_no_other() -> None:
    _, usual = build(np.ones((1, 3), np.float32))
    assert usual is None


def test_fewer_cases_than_k() -> None:
    """With 3 cases each has 2 others; a query's mean is taken over as many."""
    _, usual = build(np.array([[1, 0], [1, 1], [0, 1]], np.float32))
    assert usual is not None
    assert usual.nearest.rows.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert usual.percentile(np.array([1, 1, -1], np.float32)) == 100


def test_the_sample_depends_on_the_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(familiarity, "SAMPLE", 10)
    rows = np.arange(1000)
    chosen = draw(rows)
    assert len(chosen) == 10
    assert chosen.tolist() == sorted(chosen)
    assert draw(rows[::-1]).tolist() == chosen.tolist()
    assert set(draw(np.delete(rows, chosen[0]))) > set(chosen[1:])
    assert draw(rows[:7]).tolist() == list(range(7))
    # Spread over all rows: the mean of a fair sample of 10 is within 4 sigma of 499.5.
    assert abs(chosen.mean() - 499.5) < 4 * 288.7 / 10**0.5


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(4, 150), sample=st.integers(3, 60))
def test_a_change_gives_what_is_drawn_anew(seed: int, count: int, sample: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(familiarity, "SAMPLE", sample)
        patch.setattr(familiarity, "MOST", 5)
        rng = np.random.default_rng(seed)
        vectors = rng.standard_normal((count + 6, 3)).astype(np.float32)
        vectors[rng.integers(0, len(vectors), 3)] = vectors[0]  # duplicates: ties
        index, usual = build(vectors, np.arange(count))
        late: list[int] = []
        for step in range(8):
            rows = index.rows()
            if step % 2 == 0 and len(late) < 6:
                late.append(count + len(late))
                numbers = np.array(late)
                part = Part.of(vectors, numbers, Distance.COSINE, "toy/added", Kind.CPU)
                index, change = index.having(part), {"added": numbers[-1:]}
            else:
                gone = int(rng.choice(rows[rows < count]))
                index, change = index.without([gone]), {"erased": np.array([gone])}
            usual = Familiarity.of(index, lambda some: vectors[some], usual, **change)
            _, anew = build(vectors, index.rows())
            assert usual is not None
            assert anew is not None
            assert usual.rows.tolist() == anew.rows.tolist()
            assert usual.nearest.rows.tolist() == anew.nearest.rows.tolist()
            assert usual.nearest.similarities.tolist() == anew.nearest.similarities.tolist()
            if len(index.rows()[index.rows() < count]) < 3:
                break
