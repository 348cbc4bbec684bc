"""What the tests say of a study, in words and tables: do resolutions, schemes, models differ?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from embedder.errors import EvaluationError
from evaluate.grid import Grid, Item
from evaluate.statistics import (
    ALPHA,
    FACTORS,
    Analysis,
    Correction,
    Figure,
    PostHoc,
    analyse,
    table_by,
)
from evaluate.study import Study

_FEW = 10
"""The most pairs that are shown; of more, a matrix is."""

_SIGNS = {1: "+", -1: "−", 0: "·"}


@dataclass(frozen=True)
class Finding:
    """About one factor: sentences, then tables. ``facts`` are plain JSON values."""

    factor: str
    sentences: tuple[str, ...]
    grids: tuple[Grid, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def findings(study: Study, correction: Correction = Correction.BONFERRONI) -> list[Finding]:
    """One for each factor of the protocol, on accuracy; where nothing can be tested, it says why.

    Schemes that lack a figure of any model, resolution or dataset of the study are left out
    wherever others do not; so are then datasets. Nothing is averaged over fewer than is said.
    """
    figures, left_out = _complete(study)
    return [_find(study, figures, left_out, factor, correction) for factor in FACTORS]


def _complete(study: Study) -> tuple[list[Figure], list[str]]:
    """The figures of the schemes that have everything, and the names of the others.

    Where no scheme has everything, all figures.
    """
    figures = study.figures()
    full = len(study.datasets) * len(study.models) * len(study.resolutions)
    complete = [key for key in study.schemes if sum(f.scheme == key for f in figures) == full]
    if not complete:
        return figures, []
    others = [study.schemes[key] for key in study.schemes if key not in complete]
    return [figure for figure in figures if figure.scheme in complete], others


def _find(
    study: Study, figures: list[Figure], left_out: list[str], factor: str, correction: Correction
) -> Finding:
    unit = FACTORS[factor]
    for noun, why in ((factor, "to compare"), (unit, f"to compare {factor}s over")):
        levels = {_level(study, noun, str(getattr(figure, noun))) for figure in figures}
        if len(levels) < 2:
            only = "".join(levels) or "none"
            return _unfinished(factor, left_out, f"There is only one {noun} {why}: {only}.")
    try:
        analysis = analyse(table_by(figures, factor, restrict=True), correction)
    except EvaluationError as error:
        return _unfinished(factor, left_out, f"Not tested: {error}.")
    facts = {"schemes_left_out": left_out, **analysis_facts(analysis)}
    return Finding(factor, _sentences(study, analysis, left_out), _grids(study, analysis), facts)


def _unfinished(factor: str, left_out: list[str], said: str) -> Finding:
    facts = {"schemes_left_out": left_out, "error": said}
    return Finding(factor, (*_without(left_out), said), facts=facts)


def _without(left_out: list[str]) -> list[str]:
    names = ", ".join(left_out)
    return [f"Schemes left out, since they lack figures: {names}."] if left_out else []


def _sentences(study: Study, analysis: Analysis, left_out: list[str]) -> tuple[str, ...]:
    table, test, after = analysis.table, analysis.friedman, analysis.post_hoc
    said = _without(left_out)
    if table.left_out:
        said.append(f"Datasets left out, since they lack figures: {', '.join(table.left_out)}.")
    what = f"n = {len(table.blocks)} {table.unit}s, each value the {table.over}"
    if test is not None:
        verdict = "differ" if test.p < ALPHA else "do not differ significantly"
        said.append(
            f"The {table.factor}s {verdict}: Friedman's test, χ²({test.df}) = {test.chi2:.2f}, "
            f"p = {test.p:.2g}, Kendall's W = {test.w:.2f} ({what})."
        )
    else:
        said.append(f"Two {table.factor}s are compared ({what}).")
    medians = [f"{_level(study, table.factor, q.name)} {q.median:.2f}" for q in analysis.quartiles]
    said.append(f"Medians: {', '.join(medians)}.")
    differ = [pair for pair in after.pairs if pair.higher is not None]
    said.append(
        f"{len(differ)} of {len(after.pairs)} pairs differ (Wilcoxon's signed-rank test, "
        f"two-sided, exact p, {after.correction.title()}'s correction{_bound(after)})."
    )
    return tuple(said)


def _bound(after: PostHoc) -> str:
    return f": p < {after.threshold:.4f}" if after.threshold else f": adjusted p < {ALPHA}"


def _level(study: Study, factor: str, name: str) -> str:
    if factor == "scheme":
        return study.schemes[name]
    return f"{name} px" if factor == "resolution" else name


def _grids(study: Study, analysis: Analysis) -> tuple[Grid, ...]:
    many = len(analysis.post_hoc.pairs) > _FEW
    matrix = (_matrix(study, analysis),) if many else ()
    return (
        _quartiles(study, analysis), *matrix, _pairs(study, analysis, folded=many),
        _values(study, analysis),
    )  # fmt: skip


def _quartiles(study: Study, analysis: Analysis) -> Grid:
    factor = analysis.table.factor
    ranks = analysis.friedman.mean_ranks if analysis.friedman else ()
    rows = []
    for number, row in enumerate(analysis.quartiles):
        spread = (f"{x:.2f}" for x in (row.q1, row.median, row.q3))
        rank = f"{ranks[number]:.2f}" if ranks else "-"
        rows.append(tuple(map(Item, (_level(study, factor, row.name), *spread, rank))))
    head = (factor, "lower quartile", "median", "upper quartile", "mean rank")
    return Grid(f"statistics-{factor}-quartiles", f"Accuracy (%) by {factor}", head, tuple(rows),
                "lrrrr", notes=("A higher mean rank is a higher accuracy.",))  # fmt: skip


def _pairs(study: Study, analysis: Analysis, *, folded: bool) -> Grid:
    factor, after = analysis.table.factor, analysis.post_hoc
    rows = []
    for pair in after.pairs:
        test, higher = pair.test, pair.higher
        rows.append(tuple(map(Item, (
            _level(study, factor, pair.first), _level(study, factor, pair.second),
            f"{test.above} of {test.n}", _decimals(test.z), f"{test.p:.2g}",
            f"{pair.adjusted_p:.2g}", _decimals(test.r),
            "no" if higher is None else f"{_level(study, factor, higher)} is higher",
        ))))  # fmt: skip
    head = ("first", "second", "second higher", "Z", "exact p", "adjusted p", "r", "significant")
    notes = ("Z is that of the normal approximation; r = |Z| / √n.",)
    return Grid(f"statistics-{factor}-pairs", f"All pairs of {factor}s", head, tuple(rows),
                "llrrrrrl", notes=notes, folded=folded)  # fmt: skip


def _matrix(study: Study, analysis: Analysis) -> Grid:
    factor, after = analysis.table.factor, analysis.post_hoc
    names = [_level(study, factor, name) for name in after.treatments]
    rows = []
    for name, line in zip(names, after.matrix(), strict=True):
        rows.append((Item(name), *(Item(_SIGNS[int(sign)]) for sign in line)))
    notes = ("+: the row is significantly higher than the column; −: lower; ·: no difference.",)
    return Grid(f"statistics-{factor}-matrix", f"Which {factor}s differ", ("", *names),
                tuple(rows), "l" + "r" * len(names), notes=notes)  # fmt: skip


def _values(study: Study, analysis: Analysis) -> Grid:
    table = analysis.table
    rows = tuple(
        (Item(_level(study, table.unit, block)), *(Item(f"{value:.4f}") for value in line))
        for block, line in zip(table.blocks, table.values, strict=True)
    )
    names = [_level(study, table.factor, name) for name in table.treatments]
    return Grid(f"statistics-{table.factor}-values", f"What was tested: the {table.over}",
                (table.unit, *names), rows, "l" + "r" * len(names), folded=True)  # fmt: skip


def analysis_facts(analysis: Analysis) -> dict[str, Any]:
    """An analysis as JSON has it."""
    facts: dict[str, Any] = {
        **asdict(analysis.table), "values": analysis.table.values.tolist(),
        "quartiles": [asdict(row) for row in analysis.quartiles],
        "friedman": asdict(analysis.friedman) if analysis.friedman else None,
        "post_hoc": asdict(analysis.post_hoc),
    }  # fmt: skip
    facts["post_hoc"]["matrix"] = analysis.post_hoc.matrix().tolist()
    return facts


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
