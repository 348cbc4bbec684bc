from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import PathPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from scipy import stats

from embedder.errors import EvaluationError, StoreError
from evaluate import canvas, published
from evaluate.charts import Improvement, count_improvements, distributions, improvements
from evaluate.heatmaps import Column, count_top, top_five
from evaluate.statistics import Figure

SCHEMES = published.SCHEMES
NAMED = {"k": "k-NN, k = 11, softmax vote, temperature 0.07"}
LONG = "dino-bf16-weights-0123456789ab"

ACCURACIES = [
    Figure(r.dataset, r.scheme, r.model, r.resolution, r.mean)
    for r in published.table()
    if r.metric == "acc"
]
CUBE = np.array([f.value for f in ACCURACIES]).reshape(12, 3, 10, 4)
"""Datasets, schemes, models, resolutions."""

FIRST = ACCURACIES[0].dataset
MODELS = [f.model for f in ACCURACIES[:40:4]]


def partial(share: float = 0.93) -> list[Figure]:
    chance = random.Random(1)
    return [figure for figure in ACCURACIES if chance.random() < share]


def two_models(datasets: int = 1) -> list[Figure]:
    return [
        Figure(f"d{i}", "k", model, 28, 90 + i + j / 8)
        for i in range(datasets)
        for j, model in enumerate(("dino", LONG))
    ]


def long_names() -> list[Figure]:
    renamed = {"vgg16": f"vgg16{LONG[4:]}", "dino": LONG}
    return [f._replace(model=renamed.get(f.model, f.model)) for f in ACCURACIES]


# The counts, each computed in another way.


def test_improvements_of_the_published_table() -> None:
    found = count_improvements(ACCURACIES)
    counts = np.array([(i.rose, i.fell, i.equal) for i in found]).reshape(3, 10, 3, 3)
    steps = np.diff(CUBE, axis=3)
    for place, expected in enumerate((steps > 0, steps < 0, steps == 0)):
        np.testing.assert_array_equal(counts[..., place], expected.sum(axis=0))
    assert {i.of for i in found} == {12}
    assert [(i.lower, i.upper) for i in found[:3]] == [(28, 64), (64, 128), (128, 224)]
    assert list(dict.fromkeys(i.model for i in found)) == MODELS
    assert counts[0, 0, :, 0].tolist() == [12, 8, 6]  # vgg16, trained end to end


def test_improvements_of_what_has_both() -> None:
    rows = [
        *(("a", 28, 50.0), ("a", 64, 51.0), ("a", 224, 51.0)),
        *(("b", 28, 50.0), ("b", 64, 49.0)),
        *(("c", 64, 70.0), ("c", 224, 0.1 + 0.2 + 0.3)),
        *(("d", 28, 0.6), ("d", 64, 0.3 + 0.2 + 0.1)),
    ]
    figures = [Figure(dataset, "s", "m", size, value) for dataset, size, value in rows]
    figures.append(Figure("a", "s", "other", 64, 1.0))
    assert count_improvements(figures) == [
        Improvement("s", "m", 28, 64, rose=1, fell=1, equal=1),
        Improvement("s", "m", 64, 224, rose=0, fell=1, equal=1),
    ]


def test_the_five_best_of_the_published_table() -> None:
    found = count_top(ACCURACIES, 5)
    best = stats.rankdata(-CUBE, method="min", axis=2) <= 5
    order = [MODELS.index(model) for model in found.models]
    overall = best.sum(axis=(0, 1, 3))
    assert sorted(overall.tolist(), reverse=True) == overall[order].tolist()
    expected = [overall, *best.sum(axis=(0, 3)), *best.sum(axis=0).swapaxes(1, 2).reshape(12, 10)]
    for column, counts in zip(found.columns, expected, strict=True):
        assert column.counts == tuple(counts[order])
    assert [column.of for column in found.columns] == [144] + [48] * 3 + [12] * 12
    sizes = [column.resolution for column in found.columns]
    assert sizes == [None] * 4 + [28, 64, 128, 224] * 3
    assert [column.scheme for column in found.columns[:5]] == [None, *SCHEMES, "end_to_end"]
    assert found.left_out == 0
    assert found.models[0] == "dino"
    assert found.columns[0].counts[0] == 109


def test_equal_values_share_the_better_rank() -> None:
    values = {"a": 50.0, "b": 0.1 + 0.2 + 0.3, "c": 0.3 + 0.2 + 0.1, "d": 0.5}
    figures = [Figure("x", "s", model, 28, value) for model, value in values.items()]
    assert count_top(figures, 1).columns[0] == Column(None, None, 1, (1, 0, 0, 0))
    assert count_top(figures, 2).columns[0] == Column(None, None, 1, (1, 1, 1, 0))
    assert count_top(figures, 3).columns[0] == Column(None, None, 1, (1, 1, 1, 0))
    assert count_top(figures, 4).columns[0] == Column(None, None, 1, (1, 1, 1, 1))


def test_settings_that_lack_a_model_are_left_out() -> None:
    rows = [
        *(("x", 28, "a", 1.0), ("x", 28, "b", 2.0), ("y", 28, "a", 5.0), ("y", 28, "b", 3.0)),
        *(("z", 28, "a", 5.0), ("z", 28, "b", 6.0), ("x", 64, "a", 9.0)),
    ]
    found = count_top([Figure(d, "s", model, size, value) for d, size, model, value in rows], 1)
    assert found.models == ("b", "a")
    assert found.left_out == 1
    assert found.columns == (
        Column(None, None, 3, (2, 1)), Column("s", None, 3, (2, 1)),
        Column("s", 28, 3, (2, 1)), Column("s", 64, 0, (0, 0)),
    )  # fmt: skip


grids = st.dictionaries(
    st.tuples(*(st.sampled_from(names) for names in ("xyz", "st", "abc", (28, 64, 224)))),
    st.integers(0, 4), min_size=1, max_size=54,
).map(lambda found: [Figure(*key, float(value)) for key, value in found.items()])  # fmt: skip
"""Partial studies whose few different values make ties."""


@given(figures=grids)
def test_counts_of_partial_studies(figures: list[Figure]) -> None:
    cube = np.full((3, 2, 3, 3), np.nan)
    for f in figures:
        place = ("xyz".index(f.dataset), "st".index(f.scheme), "abc".index(f.model))
        cube[(*place, (28, 64, 224).index(f.resolution))] = f.value
    cube = cube[..., ~np.isnan(cube).all(axis=(0, 1, 2))]
    steps = np.diff(cube, axis=3)
    found = count_improvements(figures)
    assert sum(i.rose for i in found) == (steps > 0).sum()
    assert sum(i.fell for i in found) == (steps < 0).sum()
    assert sum(i.of for i in found) == (~np.isnan(steps)).sum()
    assert len(found) == (~np.isnan(steps)).any(axis=0).sum()

    held = cube[:, :, ~np.isnan(cube).all(axis=(0, 1, 3))]
    rows = np.moveaxis(held, 2, 3).reshape(-1, held.shape[2])
    whole = rows[~np.isnan(rows).any(axis=1)]
    top = count_top(figures, 2)
    assert top.left_out == (~np.isnan(rows)).any(axis=1).sum() - len(whole)
    assert top.columns[0].of == len(whole)
    ranks = stats.rankdata(-whole, method="min", axis=1)
    counts = (ranks <= 2).sum(axis=0).tolist() if len(whole) else [0] * held.shape[2]
    assert sorted(top.columns[0].counts) == sorted(counts)


# What is drawn.


def texts(drawing: Drawing) -> list[str]:
    found = (text.get_text() for text in drawing.findobj(Text))
    return [text for text in found if text]


def written(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_boxes_are_the_quartiles() -> None:
    drawing = distributions(ACCURACIES, SCHEMES, "accuracy")
    assert len(drawing.axes) == 3
    colours = set()
    for scheme, axes in enumerate(drawing.axes):
        boxes = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
        boxes.sort(key=lambda box: float(box.get_path().vertices[:, 0].min()))
        heights = [box.get_path().vertices[:, 1] for box in boxes]
        found = np.array([(min(y), max(y)) for y in heights])
        expected = np.quantile(CUBE[:, scheme], (0.25, 0.75), axis=0).reshape(2, 40).T
        np.testing.assert_allclose(found, expected)
        colours |= {tuple(box.get_facecolor() for box in boxes[i : i + 4]) for i in range(0, 40, 4)}
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [len(line.get_ydata()) for line in dots] == [12] * 40
    assert len(colours) == 1  # each resolution has its own, everywhere
    assert "28 px" in texts(drawing)
    assert "end-to-end training" in texts(drawing)
    assert "Accuracy over 12 datasets" in texts(drawing)


def test_one_dataset_is_dots() -> None:
    figures = [f for f in ACCURACIES if f.dataset == FIRST and f.model != "sam"]
    drawing = distributions(figures, SCHEMES, "balanced accuracy")
    assert f"Balanced accuracy on {FIRST}" in texts(drawing)
    for scheme, axes in enumerate(drawing.axes):
        assert not axes.patches
        dots = [float(y) for line in axes.lines for y in np.asarray(line.get_ydata())]
        assert dots == CUBE[0, scheme, :9].ravel().tolist()
        assert axes.get_ylabel() == "balanced accuracy (%)"


def test_many_datasets_have_no_dots_but_those_beyond() -> None:
    values = [*range(50, 63), 99]
    figures = [Figure(f"d{i}", "s", "m", 28, float(v)) for i, v in enumerate(values)]
    (axes,) = distributions(figures, {}, "accuracy").axes
    dots = [line.get_ydata() for line in axes.lines if line.get_marker() == "o"]
    assert [list(map(float, each)) for each in dots] == [[99.0]]


def test_missing_figures_are_told() -> None:
    def told(figures: list[Figure]) -> bool:
        return "fewer than 12" in " ".join(texts(distributions(figures, SCHEMES, "accuracy")))

    figures = [f for f in ACCURACIES if f.model == "vit" and f.resolution < 128]
    assert told(figures[:-1])
    assert not told(figures)


def test_bars_and_their_counts() -> None:
    figures = [
        f for f in ACCURACIES
        if (f.dataset, f.model, f.scheme, f.resolution) != (FIRST, "vit", "knn", 64)
        and (f.model, f.scheme, f.resolution) != ("sam", "linear_probe", 28)
    ]  # fmt: skip
    drawing = improvements(figures, SCHEMES)
    assert drawing is not None
    rose = (np.diff(CUBE, axis=3) > 0).sum(axis=0)
    expected = rose.astype(str).astype(object)
    less = rose[2, 5] - (np.diff(CUBE[0, 2, 5]) > 0)
    expected[2, 5, :2] = [f"{less[0]}/11", f"{less[1]}/11"]
    expected[1, 9, 0] = "–"
    heights = rose.copy()
    heights[2, 5, :2], heights[1, 9, 0] = less[:2], 0
    for scheme, axes in enumerate(drawing.axes):
        assert written(axes) == expected[scheme].ravel().tolist()
        found = [bar.get_height() for bar in axes.patches]  # type: ignore[attr-defined]
        assert found == heights[scheme].ravel().tolist()
        assert axes.get_ylim() == (0, 12)
    notes = " ".join(texts(drawing))
    assert "3/5: on three of the five datasets" in notes
    assert "–: no dataset has both" in notes


def test_counts_in_the_heat_map() -> None:
    figures = [f for f in ACCURACIES if f[:4] != (FIRST, "knn", "vit", 64)]
    drawing = top_five(figures, SCHEMES)
    assert drawing is not None
    (axes,) = drawing.axes
    found = written(axes)
    top = count_top(figures, 5)
    assert found[:10] == list(top.models)
    numbers = [int(text) for text in found if text.isdigit()]
    assert numbers == [count for column in top.columns for count in column.counts]
    assert [t for t in found if t.startswith("of ")] == [f"of {c.of}" for c in top.columns]
    assert top.columns[0].of == 143
    colours = [canvas.shade(n / c.of) for c in top.columns for n in c.counts]
    cells = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in axes.patches]
    assert cells == colours
    told = " ".join(texts(drawing))
    assert "How often each of 10 models is among the five most accurate" in told
    assert "Left out: 1 setting in which a model has no figure." in told


@pytest.mark.parametrize(
    ("models", "metric", "title"),
    [
        (2, "accuracy", "each of 2 models is the most accurate"),
        (3, "AUC", "each of 3 models is the highest in AUC"),
        (5, "accuracy", "each of 5 models is among the 2 most accurate"),
        (7, "kappa", "each of 7 models is among the 3 highest in kappa"),
        (8, "accuracy", "each of 8 models is among the five most accurate"),
    ],
)
def test_how_many_are_the_best(models: int, metric: str, title: str) -> None:
    figures = [f for f in ACCURACIES if f.model in MODELS[:models] and f.scheme == "knn"]
    drawing = top_five(figures, SCHEMES, metric)
    assert drawing is not None
    assert title in " ".join(texts(drawing))


def test_nothing_to_draw() -> None:
    one = [Figure("d", "s", "m", 28, 50.0), Figure("e", "s", "m", 64, 50.0)]
    assert improvements(one[:1], {}) is None
    assert improvements(one, {}) is None
    assert top_five(one, {}) is None
    assert top_five([*one, Figure("d", "s", "n", 64, 50.0)], {}) is None


def test_schemes_are_called_as_given_and_come_in_that_order() -> None:
    names = {"knn": "neighbours", "probe": "absent", "end_to_end": "trained"}
    figures = [f for f in ACCURACIES if f.model in MODELS[:2] and f.resolution < 128]
    for drawing in (distributions(figures, names, "AUC"), improvements(figures, names, "AUC")):
        assert drawing is not None
        found = texts(drawing)
        order = [found.index(name) for name in ("neighbours", "trained", "linear_probe")]
        assert order == sorted(order)
        assert "absent" not in found


@pytest.mark.parametrize("draw", [count_improvements, lambda f: count_top(f, 5)])
def test_figures_that_cannot_be_drawn(draw: Callable[[list[Figure]], object]) -> None:
    figure = Figure("d", "s", "m", 28, 50.0)
    with pytest.raises(EvaluationError, match="no figures to draw"):
        draw([])
    with pytest.raises(EvaluationError, match="d s m 28 px stands twice"):
        draw([figure, figure._replace(value=51.0)])
    with pytest.raises(EvaluationError, match="d s m 28 px is nan; every figure must be finite"):
        draw([figure._replace(value=float("nan"))])


# How it looks.

STUDIES: dict[str, tuple[list[Figure], dict[str, str]]] = {
    "published": (ACCURACIES, SCHEMES),
    "partial": (partial(), SCHEMES),
    "long": ([f for f in long_names() if f.resolution > 64], {"knn": NAMED["k"]}),
    "two": (two_models(), NAMED),
    "several": (two_models(5), NAMED),
    "single": ([Figure("d", "k", "m", 28, 50.0)], NAMED),
    "odd": ([f._replace(model=f"m{f.model}" * 9, scheme="s" * 60) for f in two_models(3)], {}),
}


def drawings(figures: list[Figure], schemes: dict[str, str]) -> Iterable[Drawing]:
    found = (
        distributions(figures, schemes, "accuracy"),
        improvements(figures, schemes),
        top_five(figures, schemes),
    )
    return [drawing for drawing in found if drawing is not None]


@pytest.mark.parametrize("name", STUDIES)
def test_no_text_is_cut_off_or_over_another(name: str) -> None:
    for drawing in drawings(*STUDIES[name]):
        drawing.draw_without_rendering()
        page = drawing.bbox.frozen().padded(0.5)
        boxes: list[tuple[Bbox, str]] = []
        for text in drawing.findobj(Text):
            if not (text.get_text() and text.get_visible()):
                continue
            box = text.get_window_extent()
            inside = page.contains(*box.min) and page.contains(*box.max)
            assert inside, (text.get_text(), box)
            if text.get_rotation() in (0, 90):
                boxes.append((box.padded(-0.06 * text.get_fontsize()), text.get_text()))
        for place, (box, text) in enumerate(boxes):
            over = [other for each, other in boxes[place + 1 :] if box.overlaps(each)]
            assert not over, (text, over)


def test_tilted_names_are_apart() -> None:
    for chosen in (ACCURACIES, long_names()):
        figures = [f for f in chosen if f.resolution == 28]
        drawing = distributions(figures, SCHEMES, "accuracy")
        drawing.draw_without_rendering()
        labels = drawing.axes[-1].get_xticklabels()
        assert {label.get_rotation() for label in labels} == {40}
        ends = [label.get_transform().transform(label.get_position())[0] for label in labels]
        inches = np.diff(ends).min() / drawing.dpi * np.sin(np.radians(40))
        lines = max(label.get_text().count("\n") + 1 for label in labels)
        assert inches >= lines * 8 / 72


def test_shades_are_told_apart_in_grey() -> None:
    for count in range(2, 6):
        levels = []
        for colour in canvas.shades(count):
            red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            levels.append(0.299 * red + 0.587 * green + 0.114 * blue)
        assert max(np.diff(levels)) < -30
    assert canvas.contrast("white") == "#1a1a1a"
    assert canvas.contrast("#000000") == "white"


@settings(max_examples=30)
@given(
    words=st.lists(st.text("ilmW-_.0", min_size=1, max_size=12), min_size=1, max_size=12),
    width=st.floats(0.3, 3),
)
def test_lines_are_broken_where_they_are_too_long(words: list[str], width: float) -> None:
    lines = canvas.wrap(" ".join(words), width, 8)
    assert all(canvas.measure(line, 8) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(words)


def test_words_are_broken_only_where_one_is_too_long() -> None:
    assert canvas.wrap("vote of temperature 0.07", 0.8, 7, "bold") == [
        "vote of",
        "temperature",
        "0.07",
    ]
    assert canvas.wrap("k-NN with k = 11", 0.7, 7) == ["k-NN with", "k = 11"]
    assert canvas.wrap("", 1, 7) == []


# Files.


def draw_small() -> Drawing:
    names = {"dino": "costs $5 or $6_x^", LONG: "模型 $\\bad{"}
    figures = [f._replace(model=names[f.model]) for f in two_models(2)]
    return distributions(figures, {"k": "k-NN $k = 1\n1"}, "accuracy")


def test_what_is_written(tmp_path: Path) -> None:
    first = canvas.save(draw_small(), tmp_path / "new folder" / "v1.2")
    assert [path.name for path in first] == ["v1.2.png", "v1.2.svg"]
    drawing = draw_small()
    second = canvas.save(drawing, tmp_path / "again")
    third = canvas.save(drawing, tmp_path / "again")
    for one, other, same in zip(first, second, third, strict=True):
        assert one.read_bytes() == other.read_bytes() == same.read_bytes()
    assert first[0].read_bytes() == canvas.png_bytes(drawing)
    assert first[1].read_bytes() == canvas.svg_bytes(drawing)
    with Image.open(first[0]) as image:
        assert round(image.info["dpi"][0]) == 150
        assert image.size == tuple(int(side * 150) for side in drawing.get_size_inches())
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    text = first[1].read_text(encoding="utf-8")
    assert "costs $5 or $6_x^" in text
    assert "�� $\\bad{" in text
    assert "k-NN $k = 1 1" in text
    assert "dc:date" not in text


def test_the_callers_settings_do_not_matter(tmp_path: Path) -> None:
    plain = canvas.png_bytes(draw_small())
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "black", "lines.markersize": 20}
    ):
        assert canvas.png_bytes(draw_small()) == plain
        assert matplotlib.rcParams["font.size"] == 30
    assert dict(matplotlib.rcParams) == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot use .*file/chart\.png: .*; check --out"):
        canvas.save(draw_small(), tmp_path / "file" / "chart")
