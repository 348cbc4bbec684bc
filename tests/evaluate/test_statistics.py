from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from embedder.errors import EvaluationError, UnknownNameError
from evaluate import published
from evaluate.statistics import (
    Analysis,
    Correction,
    Figure,
    SignedRank,
    Table,
    analyse,
    friedman,
    post_hoc,
    quartiles,
    table_by,
)

Floats = NDArray[np.float64]


def make_table(values: Floats) -> Table:
    n, k = values.shape
    return Table(values, tuple(f"b{i}" for i in range(n)), tuple(f"t{j}" for j in range(k)))


@pytest.fixture(scope="module")
def accuracies() -> list[Figure]:
    return [
        Figure(r.dataset, r.scheme, r.model, r.resolution, r.mean)
        for r in published.table()
        if r.metric == "acc"
    ]


def compare(figures: list[Figure], factor: str) -> Analysis:
    return analyse(table_by(figures, factor))


# What the paper says, as far as the protocol quotes it.


def test_resolutions_as_published(accuracies: list[Figure]) -> None:
    found = compare(accuracies, "resolution")
    assert found.friedman is not None
    assert (found.friedman.n, found.friedman.df) == (10, 3)
    assert round(found.friedman.chi2, 1) == 30.0
    assert f"{found.friedman.p:.6f}" == "0.000001"
    assert round(found.friedman.w, 6) == 1.0
    assert [row.name for row in found.quartiles] == ["28", "64", "128", "224"]
    assert [round(row.median, 2) for row in found.quartiles] == [72.44, 76.97, 79.36, 80.10]
    assert found.post_hoc.threshold == pytest.approx(0.008, abs=0.0005)
    assert len(found.post_hoc.pairs) == 6
    for pair in found.post_hoc.pairs:
        assert pair.test.z is not None
        assert pair.test.r is not None
        assert (round(pair.test.z, 3), round(pair.test.p, 3)) == (-2.803, 0.002)
        assert round(pair.test.r, 3) == 0.886
        assert pair.higher == pair.second


def test_schemes_as_published(accuracies: list[Figure]) -> None:
    found = compare(accuracies, "scheme")
    assert found.friedman is not None
    assert (found.friedman.n, found.friedman.df) == (10, 2)
    assert round(found.friedman.chi2, 1) == 14.6
    assert round(found.friedman.p, 4) == 0.0007
    assert round(found.friedman.w, 2) == 0.73
    assert round(found.post_hoc.threshold or 0, 4) == 0.0167
    assert [pair.higher for pair in found.post_hoc.pairs] == ["end_to_end", "end_to_end", None]


def test_models_as_published(accuracies: list[Figure]) -> None:
    found = compare(accuracies, "model")
    assert len(found.table.blocks) == 12
    assert len(found.post_hoc.pairs) == 45
    assert round(found.post_hoc.threshold or 0, 4) == 0.0011
    # The smallest p that the normal approximation can give for n = 12 is above that threshold.
    assert 2 * stats.norm.sf(39 / math.sqrt(162.5)) > 0.05 / 45
    assert sum(pair.higher is not None for pair in found.post_hoc.pairs) == 20
    medians = {row.name: round(row.median, 2) for row in found.quartiles}
    assert medians["dino"] == 86.08
    assert medians["sam"] == 69.64


def test_the_tables_are_the_means_of_numpy(accuracies: list[Figure]) -> None:
    cube = np.array([f.value for f in accuracies]).reshape(12, 3, 10, 4)
    for factor, expected in (
        ("resolution", cube.mean(axis=(0, 1))),
        ("scheme", cube.mean(axis=(0, 3)).T),
        ("model", cube.mean(axis=(1, 3))),
    ):
        table = table_by(reversed(accuracies), factor)
        order = [table.treatments.index(name) for name in table_by(accuracies, factor).treatments]
        rows = [table.blocks.index(name) for name in table_by(accuracies, factor).blocks]
        np.testing.assert_allclose(table.values[np.ix_(rows, order)], expected, rtol=1e-12)


# Against scipy, NumPy and enumeration.

grids = st.tuples(st.integers(2, 8), st.integers(3, 5), st.integers(1, 40)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, shape[2]), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0], max_size=shape[0],
    )
)  # fmt: skip
"""Tables of whole numbers: few different ones make ties and zeros."""


def as_percent(rows: list[list[int]]) -> Floats:
    values = np.array(rows, np.float64)
    assume(np.ptp(values, axis=1).any())
    return 50 + values / 100


@settings(deadline=None)
@given(rows=grids)
def test_friedman_is_scipys(rows: list[list[int]]) -> None:
    table = make_table(as_percent(rows))
    found, n, k = friedman(table), *table.values.shape
    expected = stats.friedmanchisquare(*np.array(rows).T)
    assert found.chi2 == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)
    # Kendall's W from the spread of the rank sums, with the correction for ties.
    ranks = stats.rankdata(rows, axis=1)
    spread = np.square(ranks.sum(axis=0) - n * (k + 1) / 2).sum()
    ties = sum((c**3 - c).sum() for c in (np.unique(r, return_counts=True)[1] for r in rows))
    assert found.w == pytest.approx(12 * spread / (n**2 * (k**3 - k) - n * ties))
    assert found.mean_ranks == pytest.approx(ranks.mean(axis=0))
    assert -1e-12 <= found.w <= 1 + 1e-12


@settings(deadline=None)
@given(rows=grids)
def test_wilcoxon_is_scipys_and_enumeration(rows: list[list[int]]) -> None:
    for pair in post_hoc(make_table(as_percent(rows))).pairs:
        columns = [int(name[1:]) for name in (pair.first, pair.second)]
        check(pair.test, np.diff(np.array(rows)[:, columns], axis=1).ravel().astype(float))


def check(found: SignedRank, differences: Floats) -> None:
    moved = differences[differences != 0]
    n = len(differences)
    assert (found.above, found.below) == ((moved > 0).sum(), (moved < 0).sum())
    assert found.equal == n - len(moved)
    if not len(moved):
        assert (found.z, found.p, found.r) == (None, 1.0, None)
        return
    expected = stats.wilcoxon(moved, method="asymptotic", correction=False)
    assert found.z == pytest.approx(expected.zstatistic, abs=1e-12)
    assert min(found.sum_above, found.sum_below) == expected.statistic
    assert found.r == pytest.approx(abs(expected.zstatistic) / math.sqrt(n), abs=1e-12)
    ranks = stats.rankdata(np.abs(moved))
    signs = np.array(list(itertools.product((0, 1), repeat=len(moved))))
    sums = np.minimum(signs @ ranks, (1 - signs) @ ranks)
    assert found.p == pytest.approx((sums <= expected.statistic + 1e-9).mean())


@pytest.mark.parametrize("n", [2, 5, 12, 30, 60])
def test_exact_p_without_ties_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(0.4, 1, (n, 2))
    (pair,) = post_hoc(make_table(values)).pairs
    expected = stats.wilcoxon(values[:, 0], values[:, 1], method="exact")
    assert pair.test.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_exact_p_with_ties_is_no_table_for_untied_ranks() -> None:
    values = np.array([[1, 2], [1, 2], [1, 2], [1, 2], [5, 4]], np.float64)
    (pair,) = post_hoc(make_table(values)).pairs
    assert (pair.test.sum_above, pair.test.sum_below) == (12.0, 3.0)
    assert pair.test.p == 12 / 32  # one sign or none differs: (1 + 5) of 32, on both sides


def test_equal_means_are_ties_though_their_last_digits_differ() -> None:
    parts = [0.1, 0.2, 0.3]
    first, second = sum(parts), sum(reversed(parts))
    assert first != second
    values = np.array([[first, second, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert friedman(make_table(values)).mean_ranks == pytest.approx((3.5 / 3, 5.5 / 3, 3.0))
    assert post_hoc(make_table(values)).pairs[0].test.equal == 1


def test_bonferroni_and_holm() -> None:
    rng = np.random.default_rng(15)
    values = rng.normal(0, 1, (9, 4)) + np.array([0, 0.3, 1.5, 3])
    plain, holm = (post_hoc(make_table(values), correction) for correction in Correction)
    p = [pair.test.p for pair in plain.pairs]
    assert [pair.adjusted_p for pair in plain.pairs] == [min(1.0, 6 * x) for x in p]
    assert plain.threshold == 0.05 / 6
    assert holm.threshold is None
    order = sorted(range(6), key=lambda i: p[i])
    for place, index in enumerate(order):
        steps = [min(1.0, (6 - earlier) * p[order[earlier]]) for earlier in range(place + 1)]
        assert holm.pairs[index].adjusted_p == pytest.approx(max(steps))
    for one, other in zip(plain.pairs, holm.pairs, strict=True):
        assert other.adjusted_p <= one.adjusted_p
        assert (one.higher is not None) == (one.test.p < 0.05 / 6)
    assert sum(pair.higher is not None for pair in holm.pairs) > sum(
        pair.higher is not None for pair in plain.pairs
    )


def test_the_matrix_has_a_sign_per_significant_pair() -> None:
    steps = np.arange(8)[:, None] * 0.01
    values = np.array([0.3, 0.1, 0.30001]) + np.hstack([steps, steps, -steps + 0.035])
    found = post_hoc(make_table(values))
    assert [pair.higher for pair in found.pairs] == ["t0", None, "t2"]
    assert found.matrix().tolist() == [[0, 1, 0], [-1, 0, -1], [0, 1, 0]]


def test_quartiles_interpolate() -> None:
    values = np.array([[1.0, 7.0], [2.0, 7.0], [4.0, 8.0], [10.0, 9.0]])
    first, second = quartiles(make_table(values))
    assert (first.name, first.n, first.q1, first.median, first.q3) == ("t0", 4, 1.75, 3.0, 5.5)
    assert (second.q1, second.median, second.q3) == (7.0, 7.5, 8.25)


# What cannot be compared.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((1, 3)), "2 or more distinct blocks, not ['b0']"),
        (np.ones((3, 1)), "2 or more distinct treatments, not ['t0']"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "the value of t1 for b1 is nan"),
        (np.array([[np.inf, 2.0], [3.0, 4.0]]), "the value of t0 for b0 is inf"),
    ],
)
def test_tables_that_cannot_be(values: Floats, message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        make_table(values)
    assert message in str(caught.value)


def test_names_that_do_not_fit() -> None:
    with pytest.raises(EvaluationError, match=r"shape \(2, 2\) have names for \(2, 3\)"):
        Table(np.ones((2, 2)), ("a", "b"), ("x", "y", "z"))
    with pytest.raises(EvaluationError, match="distinct treatments"):
        Table(np.ones((2, 2)), ("a", "b"), ("x", "x"))


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.arange(3.0)[:, None] + np.zeros((3, 4))])
def test_nothing_differs(values: Floats) -> None:
    for test in (friedman, post_hoc, analyse):
        with pytest.raises(EvaluationError, match="all treatments are equal for every block"):
            test(make_table(values))


def test_two_treatments_have_no_friedman() -> None:
    table = make_table(np.array([[1.0, 2.0], [1.0, 3.0]]))
    with pytest.raises(EvaluationError, match="needs 3 treatments"):
        friedman(table)
    assert analyse(table).friedman is None


def test_one_equal_pair_does_not_stop_the_others() -> None:
    values = np.array([[1.0, 1.0, 2.0], [4.0, 4.0, 3.0]])
    same, *_ = post_hoc(make_table(values)).pairs
    assert (same.test.z, same.test.p, same.test.r, same.higher) == (None, 1.0, None, None)


def small(models: str = "ab", datasets: str = "xyz") -> list[Figure]:
    keys = itertools.product(datasets, ("knn", "probe"), models, (224, 28))
    return [Figure(*key, value=float(i)) for i, key in enumerate(keys)]


def test_an_incomplete_table_is_refused_or_restricted() -> None:
    figures = [f for f in small() if (f.dataset, f.model, f.scheme) != ("y", "b", "knn")]
    with pytest.raises(EvaluationError) as caught:
        table_by(figures, "resolution")
    assert str(caught.value).startswith(
        "2 of 24 figures are missing: y knn b 28 px, y knn b 224 px; add them, or"
    )
    table = table_by(figures, "resolution", restrict=True)
    assert table.over == "mean over datasets (2 of 3) and schemes (2)"
    assert table.left_out == ("y",)
    complete = [f for f in figures if f.dataset != "y"]
    expected = table_by(complete, "resolution")
    assert table.values.tolist() == expected.values.tolist()
    assert (expected.over, expected.left_out) == ("mean over datasets (2) and schemes (2)", ())
    assert table_by(figures, "model", restrict=True).blocks == ("x", "z")
    assert (
        table_by(figures, "model", restrict=True).over
        == "mean over schemes (2) and resolutions (2)"
    )


def test_a_table_that_no_dataset_completes_stays_refused() -> None:
    figures = [Figure("x", "knn", "a", 28, 1.0), Figure("y", "knn", "b", 28, 2.0)]
    with pytest.raises(EvaluationError, match="2 of 4 figures are missing: x knn b 28 px, y knn a"):
        table_by(figures, "model", restrict=True)


def test_resolutions_come_in_order() -> None:
    assert table_by(small(), "resolution").treatments == ("28", "224")


def test_figures_that_cannot_be_compared() -> None:
    with pytest.raises(EvaluationError, match="x knn a 224 px stands twice"):
        table_by([*small(), small()[0]], "model")
    with pytest.raises(EvaluationError, match="no figures"):
        table_by([], "model")
    with pytest.raises(EvaluationError, match="the value of a for x is nan"):
        table_by([small()[0]._replace(value=math.nan), *small()[1:]], "model")
    with pytest.raises(UnknownNameError, match="did you mean scheme"):
        table_by(small(), "schema")
