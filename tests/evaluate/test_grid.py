from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.grid import Grid, Item, Mark, as_csv, as_latex, as_markdown, latex, mark_best, slug

GRID = Grid(
    "toy", "Accuracy (%) of a|b",
    ("scheme", "model", "28 px"),
    (
        (Item("k-NN"), Item("hog_1"), Item("50.00 ± 1.00", ("a",), Mark.OF_ALL)),
        (Item("k-NN"), Item("dino"), Item("49.00", ("b",), Mark.OF_SCHEME)),
        (Item("probe"), Item("dino"), Item("48.00", ("c",), Mark.OF_RESOLUTION)),
    ),
    "llr", 1, ("100 % noted.",),
)  # fmt: skip


def test_as_markdown() -> None:
    assert as_markdown(GRID) == (
        "**Accuracy (%) of a\\|b**\n\n"
        "| scheme | model | 28 px |\n"
        "| :--- | :--- | ---: |\n"
        "| k-NN | hog\\_1 | **50.00 ± 1.00 ★** |\n"
        "|  | dino | <u>49.00</u> |\n"
        "| probe | dino | **48.00** |\n\n"
        "100 % noted."
    )


def test_as_latex() -> None:
    assert as_latex(GRID) == (
        "\\begin{table}\n\\centering\n\\caption{Accuracy (\\%) of a|b}\n\\label{tab:toy}\n"
        "\\begin{tabular}{llr}\n\\toprule\nscheme & model & 28 px \\\\\n\\midrule\n"
        "k-NN & hog\\_1 & "
        "\\cellcolor[gray]{0.88}\\textbf{50.00 $\\pm$ 1.00}$^\\star$ \\\\\n"
        " & dino & \\underline{49.00} \\\\\n"
        "probe & dino & \\textbf{48.00} \\\\\n"
        "\\bottomrule\n\\end{tabular}\n\n\\footnotesize 100 \\% noted.\n\\end{table}\n"
    )


def test_as_csv_leaves_nothing_out() -> None:
    assert list(csv.reader(io.StringIO(as_csv(GRID)))) == [
        ["scheme", "model", "28 px"], ["k-NN", "hog_1", "50.00 ± 1.00"],
        ["k-NN", "dino", "49.00"], ["probe", "dino", "48.00"],
    ]  # fmt: skip


def test_a_name_is_left_out_only_where_all_left_of_it_repeat() -> None:
    rows = tuple(tuple(map(Item, row)) for row in (("a", "x"), ("a", "x"), ("b", "x")))
    grid = Grid("g", "G", ("one", "two"), rows, "ll", 2)
    assert [[item.text for item in row] for row in grid.shown()] == [
        ["a", "x"], ["", ""], ["b", "x"],
    ]  # fmt: skip


@given(st.text(max_size=40))
def test_nothing_in_a_name_is_a_command_to_latex(text: str) -> None:
    written = latex(text)
    bare = re.sub(r"\\text[a-z]+\{\}|\\ldots\{\}|\\[&%$#_{}]|\$\\?\w*\^?2?\$|\$\^2\$", "", written)
    assert not re.search(r"[\\&%$#_{}~^]", bare)


@given(st.text(max_size=40))
def test_a_slug_is_a_name_for_all(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9.-]*", slug(text))
    assert slug("phantom-cells") == "phantom-cells"
    assert slug("100% set_1") == "100-set-1"


@given(st.text(max_size=40))
def test_a_name_stays_in_its_place_of_a_markdown_table(text: str) -> None:
    grid = Grid("g", "G", ("a", "b"), ((Item(text), Item("x")),), "ll")
    line = as_markdown(grid).split("\n")[-1]
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3


def test_marks_as_the_paper_has_them() -> None:
    values = [
        ("a", 28, 60.0), ("a", 64, 70.0), ("a", 28, 55.0), ("a", 64, 80.001),
        ("b", 28, 50.0), ("b", 64, 79.999), ("b", 28, 58.0), ("b", 64, None),
    ]  # fmt: skip
    none, scheme, size, best = Mark.NONE, Mark.OF_SCHEME, Mark.OF_RESOLUTION, Mark.OF_ALL
    assert mark_best(values) == [size, none, none, best, none, best, scheme, none]


def test_one_figure_is_not_the_best_of_any() -> None:
    assert mark_best([("a", 28, 60.0), ("a", 64, None)]) == [Mark.NONE, Mark.NONE]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.sampled_from([28, 64]),
            st.one_of(st.none(), st.integers(0, 9).map(float)),
        ),
        min_size=1,
    )
)  # fmt: skip
def test_marks_against_a_plain_count(values: list[tuple[str, int, float | None]]) -> None:
    known = [value for value in values if value[2] is not None]
    for mark, value in zip(mark_best(values), values, strict=True):
        if value[2] is None or len(known) < 2:
            assert mark is Mark.NONE
            continue
        better = [v for v in known if v[2] is not None and v[2] > value[2]]
        rivals = [v for v in known if v[1] == value[1]]
        peers = [v for v in rivals if v[0] == value[0]]
        levels = [not better]
        levels.append(len(rivals) > 1 and not any(v[1] == value[1] for v in better))
        levels.append(len(peers) > 1 and not any(v[:2] == value[:2] for v in better))
        expected = (Mark.OF_ALL, Mark.OF_RESOLUTION, Mark.OF_SCHEME, Mark.NONE)
        assert mark is expected[[*levels, True].index(True)]


@pytest.mark.parametrize("mark", list(Mark))
def test_every_mark_has_a_form(mark: Mark) -> None:
    grid = Grid("g", "G", ("a",), ((Item("1", (), mark),),), "l")
    assert "1" in as_markdown(grid)
    assert "1" in as_latex(grid)
