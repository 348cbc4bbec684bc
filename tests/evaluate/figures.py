"""What a drawn figure holds, read back from it."""

from __future__ import annotations

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def texts(figure: Figure) -> list[Text]:
    """Every text that is to be seen."""
    found = list(figure.texts)
    for axes in figure.axes:
        found += axes.texts
        if axes.axison:
            found += [axes.xaxis.label, axes.yaxis.label]
            found += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    return [text for text in found if text.get_visible() and text.get_text()]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def crowded(figure: Figure) -> list[tuple[str, ...]]:
    """Texts that touch each other, or reach out of the figure, once it is drawn."""
    figure.set_dpi(150)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts(figure)]
    page = figure.bbox
    out = [
        (name,)
        for name, box in boxes
        if box.x0 < page.x0 or box.y0 < page.y0 or box.x1 > page.x1 or box.y1 > page.y1
    ]
    return out + [
        (one, other)
        for (one, box), (other, next_box) in combinations(boxes, 2)
        if _area(Bbox.intersection(box, next_box)) > 1
    ]


def _area(box: Bbox | None) -> float:
    return 0 if box is None else float(box.width * box.height)
