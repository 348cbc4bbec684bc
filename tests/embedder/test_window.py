"""The geometry of windows against what a kernel reads, position by position."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from embedder.window import Axis, Slide, Windowed


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    length = draw(st.integers(1, 30))
    window, steady = (sorted(draw(st.tuples(*[st.integers(0, length)] * 2))) for _ in range(2))
    first = min(window[0], length - 1)
    return Axis(length, (first, max(window[1], first + 1)), (steady[0], steady[1]))


@st.composite
def slides(draw: st.DrawFn) -> Slide:
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    padding = st.integers(0, kernel // 2)
    return Slide(kernel, stride, draw(padding), draw(padding), draw(st.integers(1, 3)))


def read(slide: Slide, position: int) -> set[int]:
    """Without the gaps of a dilated kernel."""
    first = position * slide.stride - slide.before
    return set(range(first, first + slide.dilation * (slide.kernel - 1) + 1))


@given(axes(), slides())
def test_an_output_is_in_the_window_if_it_reads_any_of_it(axis: Axis, slide: Slide) -> None:
    free = axis.length + slide.before + slide.after - slide.dilation * (slide.kernel - 1) - 1
    if free < 0:
        return
    found = slide.over(axis)
    assert found.length == free // slide.stride + 1
    reading = [p for p in range(found.length) if read(slide, p) & set(range(*axis.window))]
    equal = [p for p in range(found.length) if read(slide, p) <= set(range(*axis.steady))]
    assert list(range(*found.window)) == reading or (
        not reading and found.window[1] == found.window[0] + 1
    )
    assert list(range(*found.steady)) == equal
    every = set().union(*(read(slide, p) for p in range(*found.window)))
    assert slide.reads(found.window) == (min(every), max(every) + 1)
    assert found.dropped * slide.stride <= axis.dropped


@given(axes())
def test_one_of_the_equal_positions_is_kept(axis: Axis) -> None:
    first, end = axis.steady
    whole = [first if first <= p < end else p for p in range(axis.length)]
    kept = [p for p in range(axis.length) if not first < p < end]
    assert [kept[place] for place in axis.kept(range(axis.length))] == whole
    assert len(axis.counts((0, axis.length))) == len(kept)
    assert sum(axis.counts(axis.window)) == axis.window[1] - axis.window[0]
    for dropped in range(axis.dropped + 1):
        rest = [whole[p] for p in axis.without(dropped)]
        assert len(rest) == axis.length - dropped
        assert list(dict.fromkeys(rest)) == kept


def value(
    rows: Axis, columns: Axis, own: int, batch: int, *, shared: bool
) -> tuple[Windowed, torch.Tensor]:
    """A windowed tensor of ``own`` backgrounds and the same one whole, all numbers different."""
    shape = (
        own,
        2,
        rows.length - rows.dropped,
        columns.length - columns.dropped,
    )
    background = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    tall, wide = (axis.window[1] - axis.window[0] for axis in (rows, columns))
    window = -1 - torch.arange(batch * 2 * tall * wide, dtype=torch.float64)
    windowed = Windowed(rows, columns, background, window.reshape(batch, 2, tall, wide), shared)
    whole = background.expand(batch, -1, -1, -1)
    whole = whole[:, :, rows.kept(range(rows.length))]
    whole = whole[:, :, :, columns.kept(range(columns.length))].clone()
    whole[:, :, slice(*rows.window), slice(*columns.window)] = windowed.window
    return windowed, whole


@given(axes(), axes(), st.sampled_from([(1, 1), (1, 2), (2, 2)]), st.booleans(), st.data())
def test_any_region_is_that_of_the_whole(
    rows: Axis, columns: Axis, counts: tuple[int, int], shared: bool, data: st.DataObject
) -> None:
    own, batch = (1, counts[1]) if shared else counts
    windowed, whole = value(rows, columns, own, batch, shared=shared)
    assert windowed.shape == whole.shape
    assert torch.equal(windowed.whole(), whole)
    torch.testing.assert_close(windowed.mean(), whole.mean((2, 3), keepdim=True))
    margin = 3
    padded = torch.nn.functional.pad(whole, (margin,) * 4, value=7.5)
    spans = []
    for axis in (rows, columns):
        first = data.draw(st.integers(-margin, axis.length + margin - 1))
        spans.append((first, data.draw(st.integers(first + 1, axis.length + margin))))
    (top, bottom), (left, right) = spans
    expected = padded[:, :, top + margin : bottom + margin, left + margin : right + margin]
    found = windowed.region(*spans, 7.5)
    assert torch.equal(found, expected)
    if found is not windowed.window:
        found.zero_()  # what is kept is none of what is handed out
        assert torch.equal(windowed.region(*spans, 7.5), expected)


def test_the_share_is_that_of_the_window_and_of_a_background_of_its_own() -> None:
    rows = Axis(20, (4, 14), (2, 18))
    assert value(rows, rows, 1, 3, shared=True)[0].share == 0.25
    assert value(rows, rows, 3, 3, shared=False)[0].share == 0.25 + 5 * 5 / 400
