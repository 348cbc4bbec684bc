from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from evaluate.grid import Grid, Item, Mark
from evaluate.report import Picture, Report, Section, as_html, as_markdown_text, name_some, ranges


def report(*items: Item, numbers: dict[str, int] | None = None, folded: bool = False) -> Report:
    rows = tuple((Item(item.text), item) for item in items)
    head = ("name", "px & more")
    grid = Grid("records", "All <b>", head, rows, "lr", notes=("A note.",), folded=folded)
    picture = Picture("p", "A [picture]", "It shows.", Figure(figsize=(1, 1)), images=True)
    section = Section("one", "One", ("Words <i>.", grid, picture))
    return Report("Toy & co", ("A lead.",), (section,), numbers or {})


def test_the_page_is_whole_and_names_are_text() -> None:
    page = as_html(report(Item("<script>alert(1)</script>")))
    assert "<script" not in page
    assert "Toy &amp; co" in page
    assert "Words &lt;i&gt;." in page
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)


def test_a_figure_leads_to_its_record() -> None:
    numbers = {name: number for number, name in enumerate("abcdefgh", 1)}
    page = as_html(
        report(
            Item("7", ("c",)), Item("8", ("a", "b", "c", "e")), Item("9", ("figure 3",)),
            numbers=numbers,
        )
    )  # fmt: skip
    assert '<a href="#record-3" title="record 3">7</a>' in page
    assert '<a href="#record-1" title="records 1–3, 5">8</a>' in page
    assert '<a href="#sources" title="figure 3">9</a>' in page
    assert 'id="record-7"' in page  # the first column of a line names it


def test_marks_and_folding() -> None:
    page = as_html(report(Item("1", (), Mark.OF_ALL), Item("2", (), Mark.OF_SCHEME), folded=True))
    assert 'class="r of-all"' in page
    assert 'class="r of-scheme"' in page
    assert "1</a>" not in page
    assert '<span class="unseen">, the best of all</span>' not in page  # no source, no link
    assert "<summary>All &lt;b&gt;</summary>" in page
    assert "<details>" not in as_html(report(Item("1")))


def test_as_markdown() -> None:
    text = as_markdown_text(report(Item("1")))
    assert text.startswith(
        "# Toy & co\n\nA lead.\n\n## One\n\nWords \\<i\\>.\n\n**All \\<b\\>**\n\n|"
    )
    assert text.endswith(
        "![A \\[picture\\]](figures/p.png)\n\n*A \\[picture\\].* It shows.\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([4], "4"), ([1, 2, 3, 7, 9, 10], "1–3, 7, 9–10")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


@given(st.sets(st.integers(1, 40)))
def test_ranges_name_every_number_once(numbers: set[int]) -> None:
    found = []
    for part in filter(None, ranges(sorted(numbers)).split(", ")):
        first, _, last = part.partition("–")
        found += range(int(first), int(last or first) + 1)
    assert found == sorted(numbers)
    assert all(a < b for a, b in pairwise(found))


def test_many_names_are_counted() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some([f"f{n}" for n in range(24)]) == "24 from f0 to f23"
