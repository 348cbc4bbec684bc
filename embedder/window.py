"""A layer's output of which an image can reach only a window.

Around the window lies the background: what the layer puts out for an empty image. Far from the
canvas's edges every row of it equals the next, and so does every column, because a convolution is
the same everywhere. Of such equal rows and columns one is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch.nn import functional

Span = tuple[int, int]
"""Positions from the first to before the second."""


@dataclass(frozen=True)
class Axis:
    """The rows, or the columns, of a layer's output.

    ``length`` is their number, ``window`` those that the image can reach, ``steady`` those that are
    equal in the background.
    """

    length: int
    window: Span
    steady: Span

    @property
    def dropped(self) -> int:
        """How many of the equal ones the background is kept without."""
        return max(0, self.steady[1] - self.steady[0] - 1)

    def kept(self, positions: Iterable[int]) -> list[int]:
        """Where the background as it is kept has these positions of the whole."""
        first, end = self.steady
        last = max(first, end - 1)
        return [p - min(max(p - first, 0), last - first) for p in positions]

    def counts(self, span: Span) -> list[int]:
        """For each kept position, how many positions of ``span`` it stands for."""
        found = [0] * (self.length - self.dropped)
        for place in self.kept(range(*span)):
            found[place] += 1
        return found

    def join(self, other: Axis) -> Axis:
        """The axis of what is computed from both at the same position."""
        window = (min(self.window[0], other.window[0]), max(self.window[1], other.window[1]))
        return Axis(self.length, window, _overlap(self.steady, other.steady))

    def without(self, dropped: int) -> list[int]:
        """All positions but ``dropped`` of the equal ones."""
        end = self.steady[1]
        return [p for p in range(self.length) if not end - dropped <= p < end]


@dataclass(frozen=True)
class Slide:
    """A kernel on one axis: a convolution's or a pool's, with its padding before and after."""

    kernel: int
    stride: int
    before: int
    after: int
    dilation: int = 1
    ceil: bool = False

    @property
    def extent(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    def over(self, axis: Axis) -> Axis:
        """The axis of the output: what reads any of the window, and what reads equal rows only."""
        length = self._length(axis.length)
        first = -((self.extent - 1 - self.before - axis.window[0]) // self.stride)
        end = (axis.window[1] - 1 + self.before) // self.stride + 1
        first = min(max(first, 0), length - 1)
        equal = -(-(axis.steady[0] + self.before) // self.stride)
        unequal = (axis.steady[1] + self.before - self.extent) // self.stride + 1
        steady = _overlap((equal, unequal), (0, length))
        return Axis(length, (first, min(max(end, first + 1), length)), steady)

    def reads(self, span: Span) -> Span:
        """The input that this span of the output is computed from; padding lies beyond its ends."""
        start = span[0] * self.stride - self.before
        return start, start + (span[1] - span[0] - 1) * self.stride + self.extent

    def _length(self, length: int) -> int:
        free = length + self.before + self.after - self.extent
        if not self.ceil:
            return free // self.stride + 1
        count = -(-free // self.stride) + 1
        return count - 1 if (count - 1) * self.stride >= length + self.before else count


Frames = dict[tuple[Span, Span, float], torch.Tensor]
"""A shared background, (1, C, h, w), over rows and columns, and what lies beyond the canvas."""


@dataclass(frozen=True)
class Windowed:
    """float (B, C, H, W) as a window and the background around it.

    ``background`` is (1, C, h, w), or (B, C, h, w) where it depends on the image, without what its
    axes have dropped; ``shared`` says that it is the same for every image. ``window`` is (B, C, h,
    w), as large as the windows of its axes. ``frames`` keeps what region() lays a window on.
    """

    rows: Axis
    columns: Axis
    background: torch.Tensor
    window: torch.Tensor
    shared: bool
    frames: Frames = field(default_factory=dict)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.window.shape[:2], self.rows.length, self.columns.length))

    @property
    def ndim(self) -> int:
        return 4

    @property
    def share(self) -> float:
        """How much of the whole is computed for each image."""
        own = 0 if self.shared else self.background[0, 0].numel()
        return (self.window.shape[2] * self.window.shape[3] + own) / self.shape[2:].numel()

    def whole(self) -> torch.Tensor:
        """float (B, C, H, W), with nothing left out."""
        return self.region((0, self.rows.length), (0, self.columns.length))

    def region(self, rows: Span, columns: Span, fill: float = 0.0) -> torch.Tensor:
        """float (B, C, rows, columns), with ``fill`` for what lies beyond the canvas.

        It may be the window itself, and is not to be written to.
        """
        if (rows, columns) == (self.rows.window, self.columns.window):
            return self.window
        inner = (_overlap(rows, self.rows.window), _overlap(columns, self.columns.window))
        corner = (self.rows.window[0], self.columns.window[0])
        found = self._frame(rows, columns, fill)
        _part(found, inner, (rows[0], columns[0])).copy_(_part(self.window, inner, corner))
        return found

    def _frame(self, rows: Span, columns: Span, fill: float) -> torch.Tensor:
        """The background of a region for each image, to be written to."""
        key = (rows, columns, fill)
        found = self.frames.get(key) if self.shared else None
        if found is None:
            found = self._behind(rows, columns, fill)
            if self.shared:
                self.frames[key] = found
            elif len(found) == len(self.window):
                return found
        each = found.expand(len(self.window), -1, -1, -1)
        return each.clone(memory_format=torch.channels_last)

    def spread(self, rows: int, columns: int) -> torch.Tensor:
        """The background with only this many of its equal rows and columns dropped."""
        if (rows, columns) == (self.rows.dropped, self.columns.dropped):
            return self.background
        return self._pick(self.rows.without(rows), self.columns.without(columns))

    def spread_to(self, rows: Axis, columns: Axis) -> torch.Tensor:
        """The background without what these axes, whose steady spans lie within, have dropped."""
        if (rows.steady, columns.steady) == (self.rows.steady, self.columns.steady):
            return self.background
        return self._pick(rows.without(rows.dropped), columns.without(columns.dropped))

    def mean(self) -> torch.Tensor:
        """float (B, C, 1, 1): over all positions."""
        tall, wide = (0, self.rows.length), (0, self.columns.length)
        whole = torch.outer(*self._counts(tall, wide))
        weights = whole - torch.outer(*self._counts(self.rows.window, self.columns.window))
        total = (self.background * weights).sum((2, 3), keepdim=True)
        total = total + self.window.sum((2, 3), keepdim=True)
        return total / (self.rows.length * self.columns.length)

    def _counts(self, rows: Span, columns: Span) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = (self.rows.counts(rows), self.columns.counts(columns))
        one, other = (self.background.new_tensor(count) for count in numbers)
        return one, other

    def _behind(self, rows: Span, columns: Span, fill: float) -> torch.Tensor:
        (top, bottom), (left, right) = (
            _overlap(span, (0, axis.length))
            for span, axis in ((rows, self.rows), (columns, self.columns))
        )
        found = self._pick(range(top, bottom), range(left, right))
        border = (left - columns[0], columns[1] - right, top - rows[0], rows[1] - bottom)
        return functional.pad(found, border, value=fill) if any(border) else found

    def _pick(self, rows: Iterable[int], columns: Iterable[int]) -> torch.Tensor:
        device = self.background.device
        down, across = (
            torch.tensor(axis.kept(positions), dtype=torch.long, device=device)
            for axis, positions in ((self.rows, rows), (self.columns, columns))
        )
        lines = self.background.permute(0, 2, 3, 1)  # so that channels stay last in memory
        return lines.index_select(1, down).index_select(2, across).permute(0, 3, 1, 2)


Box = tuple[Span, Span]


def _overlap(one: Span, other: Span) -> Span:
    first = min(max(one[0], other[0]), one[1])
    return first, max(first, min(one[1], other[1]))


def _part(tensor: torch.Tensor, box: Box, corner: tuple[int, int]) -> torch.Tensor:
    """The view of a box where the tensor begins at ``corner``."""
    (top, bottom), (left, right) = box
    return tensor[:, :, top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]]
