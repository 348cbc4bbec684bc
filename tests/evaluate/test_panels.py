from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.canvas import SMALL, measure
from evaluate.panels import arrange, fit, mark, width_of


@given(st.text(max_size=60), st.floats(0.2, 3))
def test_a_fitted_text_fits(text: str, width: float) -> None:
    found = fit(text, width, SMALL)
    assert measure(found, SMALL) <= width
    if text.isascii() and text.isalnum() and measure(text, SMALL) <= width:
        assert found == text


def test_a_long_text_is_cut() -> None:
    assert fit("immature granulocytes", 5, SMALL) == "immature granulocytes"
    assert fit("immature granulocytes", 0.6, SMALL) == "immature…"
    assert fit("immature", 0.01, SMALL) == "…"


def test_eighty_eight_marks_differ() -> None:
    assert len({(each.colour, each.marker) for each in (mark(n, "") for n in range(88))}) == 88


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 12])
def test_panels_do_not_meet(count: int) -> None:
    heights = [1 + number % 3 for number in range(count)]
    figure, corners = arrange(heights, "a title", "notes")
    width, height = figure.get_size_inches()
    side = width_of(count)
    boxes = [
        (left, top, left + side, top + h) for (left, top), h in zip(corners, heights, strict=True)
    ]
    for x0, y0, x1, y1 in boxes:
        assert x0 > 0
        assert y0 > 0.4
        assert x1 < width
        assert y1 < height - 0.3
    for one, other in combinations(boxes, 2):
        apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
        assert apart
