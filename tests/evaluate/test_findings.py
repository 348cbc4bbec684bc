from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from scipy import stats

from evaluate.findings import Finding, findings
from evaluate.statistics import Correction
from evaluate.study import Entry, Study, of_published


def study(*places: tuple[str, str, str, int]) -> Study:
    rng = np.random.default_rng(0)
    entries = tuple(Entry(*p, {"accuracy": float(rng.uniform(50, 90))}) for p in places)
    schemes = {key: f"the {key}" for key in dict.fromkeys(p[1] for p in places)}
    return Study("T", "S", entries, schemes, {"accuracy": "accuracy"})


def grids(finding: Finding) -> dict[str, list[list[str]]]:
    return {g.name: [[item.text for item in row] for row in g.rows] for g in finding.grids}


def test_the_published_statistics_in_words() -> None:
    resolution, scheme, model = findings(of_published())
    assert resolution.sentences == (
        "The resolutions differ: Friedman's test, χ²(3) = 30.00, p = 1.4e-06, Kendall's W = 1.00 "
        "(n = 10 models, each value the mean over datasets (12) and schemes (3)).",
        "Medians: 28 px 72.44, 64 px 76.97, 128 px 79.36, 224 px 80.10.",
        "6 of 6 pairs differ (Wilcoxon's signed-rank test, two-sided, exact p, Bonferroni's "
        "correction: p < 0.0083).",
    )
    assert "χ²(2) = 14.60, p = 0.00068, Kendall's W = 0.73" in scheme.sentences[0]
    assert "20 of 45 pairs differ" in model.sentences[-1]
    assert "p < 0.0011" in model.sentences[-1]
    pairs = grids(resolution)["statistics-resolution-pairs"]
    assert pairs[0] == [
        "28 px", "64 px", "10 of 10", "-2.803", "0.002", "0.012", "0.886", "64 px is higher"
    ]  # fmt: skip
    matrix = grids(model)["statistics-model-matrix"]
    assert sum(row.count("+") for row in matrix) == sum(row.count("−") for row in matrix) == 20
    assert json.loads(json.dumps(model.facts))["friedman"]["df"] == 9


def test_values_that_were_tested_are_given() -> None:
    (resolution, *_) = findings(of_published())
    values = grids(resolution)["statistics-resolution-values"]
    found = stats.friedmanchisquare(*np.array([row[1:] for row in values], float).T)
    assert found.statistic == pytest.approx(30)


def test_holm_by_option() -> None:
    (resolution, *_) = findings(of_published(), Correction.HOLM)
    assert "Holm's correction: adjusted p < 0.05" in resolution.sentences[-1]


def test_one_level_is_said_to_be_the_only_one() -> None:
    made = study(*product("ab", ["knn"], "mn", [28]))
    said = [finding.sentences for finding in findings(made)]
    assert said[0] == ("There is only one resolution to compare: 28 px.",)
    assert said[1] == ("There is only one scheme to compare: the knn.",)
    assert "Two models are compared" in said[2][0]


def test_one_model_is_too_few_to_compare_resolutions_over() -> None:
    made = study(*product("ab", ["knn", "probe"], "m", [28, 64]))
    assert [finding.sentences for finding in findings(made)] == [
        ("There is only one model to compare resolutions over: m.",),
        ("There is only one model to compare schemes over: m.",),
        ("There is only one model to compare: m.",),
    ]


def test_a_scheme_that_lacks_figures_is_left_out_and_named() -> None:
    made = study(*product("abc", ["knn", "probe"], "mno", [28, 64]), ("a", "shots", "m", 28))
    resolution, scheme, _ = findings(made)
    assert resolution.sentences[0] == "Schemes left out, since they lack figures: the shots."
    assert "each value the mean over datasets (3) and schemes (2)" in resolution.sentences[1]
    assert [row[0] for row in grids(scheme)["statistics-scheme-quartiles"]] == [
        "the knn", "the probe",
    ]  # fmt: skip


def test_a_dataset_that_lacks_figures_is_left_out_and_named() -> None:
    places = [p for p in product("abcd", ["knn"], "mno", [28, 64]) if p != ("d", "knn", "o", 64)]
    (resolution, *_) = findings(study(*places))
    assert resolution.sentences[0] == "Datasets left out, since they lack figures: d."
    assert "datasets (3 of 4)" in resolution.sentences[1]


def test_where_nothing_is_complete_it_says_what_is_missing() -> None:
    made = study(("a", "knn", "m", 28), ("a", "knn", "n", 64))
    resolution, _, model = findings(made)
    assert resolution.sentences[0].startswith("Not tested: 2 of 4 figures are missing: ")
    assert model.grids == ()
    assert set(model.facts) == {"schemes_left_out", "error"}


def test_what_is_left_out_is_named_where_nothing_is_left_to_compare() -> None:
    made = study(*product("ab", ["knn"], "mn", [28, 64]), ("a", "probe", "m", 28))
    _, scheme, _ = findings(made)
    assert scheme.sentences == (
        "Schemes left out, since they lack figures: the probe.",
        "There is only one scheme to compare: the knn.",
    )
    assert scheme.facts["schemes_left_out"] == ["the probe"]


def test_no_figures_at_all() -> None:
    made = Study("T", "S", (Entry("a", "knn", "m", 28, {}),), {"knn": "k"}, {})
    assert findings(made)[0].sentences == ("There is only one resolution to compare: none.",)
