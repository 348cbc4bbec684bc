"""The file of a run, its table, and the guard's verdicts, on literal figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import knn, reach
from benchmarks.document import table, verdict, write_between
from benchmarks.guard import allowed, worsened
from benchmarks.results import Findings, Result, absent, compare, read, rounded, write
from benchmarks.rounds import Spent, Spread
from benchmarks.targets import BY_NAME
from embedder.errors import EvaluationError

ROOT = Path(__file__).parents[2]

SLOW = Result(
    "knn-organa-512", "4,096 queries", Spread(1.31, 1.28, 1.35), Spread(1.1, 1.0, 1.2), 5,
    "search 1.31 s, product 1.00 s",
)  # fmt: skip
FAST = Result("embed-vit-28-bare", "10 images", Spread(0.99, 0.97, 1.02), None, 5)
START = Result("start-help", "embed", Spread(0.3, 0.2, 0.4), None, 5)
NONE = absent("gpu-knn", "no CUDA device")
FINDINGS = Findings("default", {"processor": "A", "cores": "2"}, (FAST, SLOW, START, NONE))


def test_two_sides_make_a_row() -> None:
    sides = ([Spent(3.0, 2.0), Spent(4.0, 3.0)], [Spent(2.0, 1.0), Spent(2.0, 1.0)])
    found = compare("probe", "small", sides, "told", 3)
    assert found == Result(
        "probe", "small", Spread(5.25, 4.5, 6.0), Spread(7.5, 6.0, 9.0), 2, "told"
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write(FINDINGS, path)
    assert read(path) == FINDINGS
    exact = replace(FAST, ratio=Spread(0.123456, 0.1, 1234.56))
    assert rounded([exact]) == (replace(FAST, ratio=Spread(0.1235, 0.1, 1235.0)),)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 2, "results": []}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(
        EvaluationError, match=r"no results at .* without --only and --check writes them"
    ):
        read(path)
    path.write_text(text)
    with pytest.raises(EvaluationError, match="measure again"):
        read(path)


def test_a_missed_target_is_said_plainly() -> None:
    assert verdict(SLOW, BY_NAME[SLOW.name]) == "1.25 or less: missed"
    assert verdict(FAST, BY_NAME[FAST.name]) == "0.95 or more: met"
    assert verdict(START, BY_NAME[START.name]) == "0.5 s or less: met"
    assert verdict(replace(FAST, name="precision-vit"), BY_NAME["precision-vit"]) == "shown"


def test_the_table() -> None:
    lines = table(FINDINGS).splitlines()
    assert lines[0] == "processor A; cores 2."
    assert lines[2] == "2 of 3 targets are met; missed: `knn-organa-512`."
    assert lines[4:10] == [
        "**`embed --plain` / bare `model(x)` on ready tensors, images per second**",
        "",
        "| row | found | processor time | target | measured on |",
        "|---|---|---|---|---|",
        "| `embed-vit-28-bare` | 0.99 (0.97 to 1.02) | - | 0.95 or more: met "
        "| 10 images; 5 rounds |",
        "",
    ]
    assert lines[14] == (
        "| `knn-organa-512` | 1.31 (1.28 to 1.35) | 1.10 (1.00 to 1.20) | "
        "1.25 or less: **missed** | 4,096 queries; search 1.31 s, product 1.00 s; 5 rounds |"
    )
    assert lines[20].startswith("| `start-help` | 0.30 (0.20 to 0.40) s | - | 0.5 s or less: met |")
    assert lines[-1] == "Not measured: `gpu-knn`: no CUDA device."
    alone = table(replace(FINDINGS, results=(replace(FAST, rounds=1),)))
    assert "| 10 images; 1 round |" in alone
    absent = replace(FINDINGS, results=(replace(FAST, name="gpu-knn", ratio=None),))
    assert table(absent).splitlines()[2] == "No row with a target was measured."


def test_rows_stand_together_that_compare_the_same() -> None:
    rows = [replace(FAST, name=name) for name in ("embed-vit-28-bare", "embed-vit-28-script")]
    again = replace(FAST, name="embed-vit-224-bare")
    text = table(replace(FINDINGS, results=(*rows, again)))
    names = ("| `embed-vit-28-bare`", "| `embed-vit-224-bare`", "| `embed-vit-28-script`")
    assert sorted(text.index(name) for name in names) == [text.index(name) for name in names]
    assert text.count("| row | found |") == 2


def test_the_table_is_written_between_its_markers() -> None:
    page = "a\n<!-- benchmarks: full -->\nold\n<!-- end of benchmarks: full -->\nb\n"
    new = "a\n<!-- benchmarks: full -->\nnew\n<!-- end of benchmarks: full -->\nb\n"
    assert write_between(page, "full", "new\n") == new
    assert write_between(new, "full", "new\n") == new
    for wrong in (
        page + page,
        page.replace("end of", "end"),
        "",
        "\n".join(page.split("\n")[::-1]),
    ):
        with pytest.raises(EvaluationError, match="once and in this order"):
            write_between(wrong, "full", "new\n")
    with pytest.raises(EvaluationError, match="benchmarks: default"):
        write_between(page, "default", "new\n")


def test_the_page_shows_what_is_committed() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    for mode, name in (("default", "results.json"), ("full", "results-full.json")):
        committed = read(ROOT / "benchmarks" / name)
        assert write_between(text, mode, table(committed)) == text


def test_what_pages_say_of_the_results_is_so() -> None:
    results = read(ROOT / "benchmarks" / "results-full.json").results
    medians = {row.name: row.ratio.median for row in results if row.ratio}
    backbones = (ROOT / "docs" / "backbones.md").read_text()
    for model in reach.MODELS:
        figures = (f"{medians[f'reach-{model}-{size}']:.2f}" for size in reach.SIZES)
        assert f"| {model} | {' | '.join(figures)} |" in backbones
    readme = " ".join((ROOT / "README.md").read_text().split())
    vgg, resnet = (f"{medians[f'reach-{model}-28']:.1f}" for model in ("vgg16", "resnet18"))
    assert f"for vgg16 at 28 px {vgg} times, for resnet18 {resnet} times as fast" in readme


def test_the_committed_searches_are_of_the_shapes_that_are_measured() -> None:
    results = read(ROOT / "benchmarks" / "results-full.json").results
    told = {row.name: row.shape for row in results}
    for shape in knn.SHAPES:
        sides = {"": shape.queries, "-brute": shape.brute, "-tree": shape.tree}
        for side, queries in sides.items():
            assert told[f"{shape.name}{side}"].startswith(
                f"{queries:,} queries, {shape.support:,} x {shape.width:,}"
            )


def fresh(**ratios: float) -> Findings:
    """The same run with other medians, by name."""
    changed = [
        replace(row, ratio=Spread(ratios[row.name], 0.0, 9.0)) if row.name in ratios else row
        for row in FINDINGS.results
    ]
    return replace(FINDINGS, results=tuple(changed))


def test_the_guard_lets_pass_what_is_within_the_tolerance() -> None:
    assert allowed(1.31, BY_NAME["knn-organa-512"]) == pytest.approx(1.572)
    assert allowed(0.99, BY_NAME["embed-vit-28-bare"]) == pytest.approx(0.891)
    assert worsened(FINDINGS, FINDINGS) == []
    better = {"knn-organa-512": 0.5, "embed-vit-28-bare": 7.0}
    assert worsened(fresh(**better), FINDINGS) == []
    within = {"knn-organa-512": 1.57, "embed-vit-28-bare": 0.9}
    assert worsened(fresh(**within), FINDINGS) == []


def test_the_guard_names_the_row_that_is_worse() -> None:
    (slower,) = worsened(fresh(**{"knn-organa-512": 1.58}), FINDINGS)
    assert slower == "knn-organa-512: worse: 1.58, committed 1.31; at most 1.57 is allowed"
    (lower,) = worsened(fresh(**{"embed-vit-28-bare": 0.88}), FINDINGS)
    assert lower == "embed-vit-28-bare: worse: 0.88, committed 0.99; at least 0.89 is allowed"


def test_the_guard_names_rows_that_only_one_run_has() -> None:
    renamed = tuple(
        replace(row, name=row.name.replace("organa", "other")) for row in FINDINGS.results
    )
    assert worsened(FINDINGS, replace(FINDINGS, results=renamed)) == [
        "knn-other-512: no benchmark any more; measure all rows anew",
        "knn-organa-512: new; measure all rows anew",
    ]


def test_the_guard_leaves_seconds_alone() -> None:
    assert worsened(fresh(**{"start-help": 99.0}), FINDINGS) == []


def test_the_guard_refuses_what_cannot_be_compared() -> None:
    gone = replace(FINDINGS, results=(FAST, START, NONE))
    assert worsened(gone, FINDINGS) == [
        "knn-organa-512: not measured; measure it, or take it out of the committed results"
    ]
    unable = replace(FINDINGS, results=(FAST, absent("knn-organa-512", "no room"), START, NONE))
    assert worsened(unable, FINDINGS) == []
    other = replace(FINDINGS, results=(FAST, replace(SLOW, shape="8 queries"), START, NONE))
    assert worsened(other, FINDINGS) == [
        "knn-organa-512: measured on 8 queries, committed on 4,096 queries; measure anew"
    ]
