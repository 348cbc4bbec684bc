from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from embedder import cli as embed
from embedder.datasets import PHANTOM, SIZES, Dataset
from embedder.erase import erase
from embedder.errors import EvaluationError
from embedder.npz import NpzSource
from embedder.phantom import PhantomSource
from embedder.store import Cell, Store
from embedder.types import Distance, Split, Task
from evaluate.gallery import AGREE, DISAGREE
from evaluate.knn import Protocol, evaluate
from evaluate.logistic import LogisticProtocol
from evaluate.probing import Probing
from evaluate.probing import evaluate as probe
from evaluate.replay import Replay, replay
from evaluate.sheets import find_images
from evaluate.shots import evaluate_shots
from evaluate.specimens import Shelf, cases_gallery, dataset_sheet
from tests.conftest import NpzMaker
from tests.evaluate.figures import crowded, words

Pixels = NDArray[Any]


def images(figure: Figure) -> list[Pixels]:
    """The pictures in the order in which they were drawn, as they are shown."""
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


def frames(figure: Figure) -> list[str]:
    """The colour around each picture."""
    patches = [patch for axes in figure.axes for patch in axes.patches if axes.images]
    return [to_hex(patch.get_edgecolor()) for patch in patches if isinstance(patch, Rectangle)]


def same(found: list[Pixels], expected: list[Pixels]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    assert crowded(figure) == []
    return figure


def heading_of(figure: Figure) -> str:
    """On one line."""
    return " ".join(words(figure)[0].split())


def shelf(dataset: Dataset, *sizes: int) -> Shelf:
    return Shelf(dataset, {size: PhantomSource(dataset, size) for size in sizes})


# Sheets of datasets.


def test_the_same_case_at_every_size() -> None:
    shelves = [shelf(dataset, 64, 28) for dataset in PHANTOM]
    figure = drawn(dataset_sheet(shelves))
    expected = [
        PhantomSource(dataset, size).image(Split.TEST, 0).squeeze()
        for dataset in PHANTOM for size in (28, 64)
    ]  # fmt: skip
    assert same(images(figure), expected)
    sides = {
        tuple(np.round(axes.get_position().size * figure.get_size_inches(), 6))
        for axes in figure.axes
    }
    assert len(sides) == 1
    assert {image.get_interpolation() for axes in figure.axes for image in axes.images} == {
        "nearest"
    }
    label = PhantomSource(PHANTOM[1], 28).labels(Split.TEST)[0, 0]
    found = words(figure)
    assert f"test/0: {PHANTOM[1].classes[label]}" in found
    assert {"28 px", "64 px", "phantom-cells", "multi-class, 6 classes"} <= set(found)
    assert "multi-label, 6 labels" in found


@pytest.mark.parametrize(("count", "sizes"), [(1, SIZES), (4, (28,)), (12, SIZES)])
def test_any_number_fits(count: int, sizes: tuple[int, ...]) -> None:
    shelves = [shelf(PHANTOM[number % 4], *sizes) for number in range(count)]
    figure = drawn(dataset_sheet(shelves))
    width, height = figure.get_size_inches()
    assert width < 9
    assert height < 18


def test_one_size_shows_up_to_three_labels(make_npz: NpzMaker) -> None:
    labels = np.array([[2], [2], [0], [2], [1], [3]], np.uint8)
    source = NpzSource(make_npz(test_labels=labels, classes=4))
    figure = drawn(dataset_sheet([Shelf(source.dataset, {28: source})]))
    pixels = source.pick(Split.TEST, [2, 4, 0])  # the first of each of the labels 0, 1 and 2
    assert same(images(figure), [image[..., 0] for image in pixels])
    found = words(figure)
    assert found.index("test/2") < found.index("test/4") < found.index("test/0")
    assert found[found.index("test/2") - 1] == "class 0"


def test_what_is_erased_is_not_shown(make_npz: NpzMaker) -> None:
    source = NpzSource(make_npz())
    chosen = Shelf(source.dataset, {28: source, 64: None}, frozenset({0, 1}))
    figure = drawn(dataset_sheet([chosen]))
    (shown,) = images(figure)
    assert np.array_equal(shown, source.pick(Split.TEST, [2])[0, ..., 0])
    assert any(text.startswith("test/2: class ") for text in words(figure))


def test_tiles_without_images(make_npz: NpzMaker) -> None:
    here, gone = NpzSource(make_npz("here.npz")), NpzSource(make_npz("gone.npz"))
    (gone.path).unlink()
    figure = drawn(
        dataset_sheet(
            [
                Shelf(here.dataset, {28: here, 64: None}),
                Shelf(gone.dataset, {28: gone, 224: None}),
                Shelf(here.dataset, {28: here}, frozenset(range(6))),
            ]
        )
    )
    assert len(images(figure)) == 1
    reasons = [" ".join(text.split()) for text in words(figure)]
    assert reasons.count("images not at hand") == 2
    assert reasons.count("images cannot be read") == 1
    assert reasons.count("not in the store") == 4
    assert reasons.count("no test case") == 1


def test_no_sheet_without_images() -> None:
    assert dataset_sheet([]) is None
    assert dataset_sheet([Shelf(PHANTOM[0], {28: None})]) is None


def test_names_are_not_markup_and_are_cut(make_npz: NpzMaker) -> None:
    source = NpzSource(make_npz())
    classes = ("$x^{$ and so on and so forth, for ever and ever", "\u75c5\u7406", "_c")
    dataset = Dataset("$\\frac{1}$" * 9, Task.MULTICLASS, 1, (12, 4, 6), classes, "CC0")
    for sizes in ((28,), (28, 64)):
        figure = drawn(dataset_sheet([Shelf(dataset, dict.fromkeys(sizes, source))]))
        assert any(text.startswith("$\\frac{1}$") and text.endswith("…") for text in words(figure))


# Right and wrong cases.


@pytest.fixture
def cell(make_npz: NpzMaker, store: Store, capsys: pytest.CaptureFixture[str]) -> Cell:
    """Noisy stripes, across or along or none, of which some have a wrong label."""
    rng = np.random.default_rng(5)
    wave = 45 * np.sin(np.arange(28))
    kinds = np.stack([np.tile(wave, (28, 1)), np.tile(wave, (28, 1)).T, np.zeros((28, 28))])
    arrays = {}
    for split, count in (("train", 60), ("val", 9), ("test", 15)):
        labels = np.arange(count) % 3
        noise = rng.normal(0, 40, (count, 28, 28))
        arrays[f"{split}_images"] = np.clip(128 + kinds[labels] + noise, 0, 255).astype(np.uint8)
        labels[::5] = (labels[::5] + 1) % 3
        arrays[f"{split}_labels"] = labels.astype(np.uint8)[:, None]
    path = make_npz("stripes.npz", **arrays)
    assert embed.main(["--dataset", str(path), "--store", str(store.root)]) == 0
    capsys.readouterr()
    return store.read(store.path("stripes", 28, "hog"))


Replays = Callable[..., Replay]


@pytest.fixture
def again(cell: Cell, store: Store) -> Replays:
    return lambda **protocol: replay(evaluate(cell, Protocol(**protocol))[0], store)


def source_of(cell: Cell, folder: Path) -> NpzSource:
    source, reason = find_images(cell, [str(folder / "stripes.npz")], None)
    assert isinstance(source, NpzSource), reason
    return source


def nearest(cell: Cell, row: int, count: int, distance: Distance) -> list[int]:
    """Straight from the definition."""
    train, query = cell.embeddings(Split.TRAIN), cell.embeddings(Split.TEST)[row]
    if distance is Distance.COSINE:
        train, query = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (train, query))
    far = np.linalg.norm(train.astype(float) - query, axis=1)
    return [int(place) for place in np.argsort(far, kind="stable")[:count]]


def chosen(figure: Figure) -> list[tuple[bool, int]]:
    """Of each query whether it was right, and its row."""
    found = [re.match(r"(right|wrong): stripes/test/(\d+) is", text) for text in words(figure)]
    return [(match[1] == "right", int(match[2])) for match in found if match]


@pytest.mark.parametrize("distance", list(Distance))
@pytest.mark.parametrize("k", [3, 7])
def test_queries_beside_their_neighbours(
    cell: Cell, again: Replays, tmp_path: Path, distance: Distance, k: int
) -> None:
    source, voted = source_of(cell, tmp_path), again(ks=(k,), distance=distance)
    figure = drawn(cases_gallery(voted, source))
    queries = chosen(figure)
    assert [right for right, _ in queries] == [True, True, False, False]
    labels, train = cell.labels(Split.TEST)[:, 0], cell.labels(Split.TRAIN)[:, 0]
    predicted = voted.scores.argmax(axis=1)
    expected: list[Pixels] = []
    around: list[str] = []
    for right, row in queries:
        near = nearest(cell, row, min(k, 5), distance)
        expected += [source.pick(Split.TEST, [row])[0, ..., 0]]
        expected += list(source.pick(Split.TRAIN, near)[..., 0])
        assert right == (labels[row] == predicted[row])
        agree = [right, *(train[near] == predicted[row])]
        around += [AGREE if yes else DISAGREE for yes in agree]
        verdict = f"class {labels[row]}; predicted class {predicted[row]}"
        word = "right" if right else "wrong"
        assert f"{word}: stripes/test/{row} is labelled {verdict}" in words(figure)
    assert same(images(figure), expected)
    assert frames(figure) == around
    right = int((labels == predicted).sum())
    heading = heading_of(figure)
    assert heading.startswith("hog stripes 28 px, k-NN")
    assert f"drawn at random: 2 of the {right} test cases that were right" in heading
    assert f", 2 of the {15 - right} others" in heading
    assert f"each beside the {min(k, 5)} nearest of the {k} training cases" in heading


def test_what_is_drawn_is_random_but_fixed(cell: Cell, again: Replays, tmp_path: Path) -> None:
    source, voted = source_of(cell, tmp_path), again(ks=(7,))
    first, second = (drawn(cases_gallery(voted, source)) for _ in range(2))
    assert chosen(first) == chosen(second)
    every = cases_gallery(voted, source, count=100)
    assert every is not None
    pictures: list[Pixels] = []
    for _, row in chosen(every):
        near = nearest(cell, row, 5, Distance.COSINE)
        pictures += [source.pick(Split.TEST, [row])[0, ..., 0]]
        pictures += list(source.pick(Split.TRAIN, near)[..., 0])
    assert same(images(every), pictures)
    right = [row for good, row in chosen(every) if good]
    correct = np.flatnonzero(voted.scores.argmax(axis=1) == voted.labels[:, 0])
    assert right == correct.tolist()
    assert [row for good, row in chosen(first) if good] != right[:2]


def test_only_right_ones(cell: Cell, again: Replays, tmp_path: Path) -> None:
    voted = again(ks=(3,))
    scores = np.eye(3)[voted.labels[:, 0]]
    perfect = Replay(voted.record, cell, voted.rows, voted.labels, scores)
    figure = drawn(cases_gallery(perfect, source_of(cell, tmp_path), count=3))
    assert [right for right, _ in chosen(figure)] == [True] * 3
    assert "3 of the 15 test cases that were right, 0 of the 0 others" in heading_of(figure)
    nobody = Replay(voted.record, cell, voted.rows[:0], voted.labels[:0], scores[:0])
    assert cases_gallery(nobody, source_of(cell, tmp_path)) is None


def test_erased_cases_are_not_drawn(cell: Cell, store: Store, tmp_path: Path) -> None:
    (record,) = evaluate(cell, Protocol((5,)))
    figure = drawn(cases_gallery(replay(record, store), source_of(cell, tmp_path)))
    _, row = chosen(figure)[0]
    twin = nearest(cell, row, 1, Distance.COSINE)[0]
    erase(store, cell.path, {Split.TEST: [chosen(figure)[1][1]], Split.TRAIN: [twin]})
    less = store.read(cell.path)
    (record,) = evaluate(less, Protocol((5,)))
    source = source_of(less, tmp_path)
    every = cases_gallery(replay(record, store), source, count=100)
    assert every is not None
    assert len(chosen(every)) == 14
    gone = source.pick(Split.TRAIN, [twin])[0, ..., 0]
    assert not any(np.array_equal(image, gone) for image in images(every))


def test_neighbours_are_those_of_a_few_shots(cell: Cell, store: Store, tmp_path: Path) -> None:
    (record,) = evaluate_shots(cell, Protocol((2,)), [2], 1)
    figure = drawn(cases_gallery(replay(record, store), source_of(cell, tmp_path), count=4))
    shown = {text.split()[0] for text in words(figure) if text.startswith("train/")}
    assert len(shown) <= 6 == record.counts["support"]


def test_a_multilabel_query_is_right_in_every_label(make_npz: NpzMaker, store: Store) -> None:
    labels = {
        f"{split}_labels": np.random.default_rng(count).integers(0, 2, (count, 2), np.uint8)
        for split, count in (("train", 12), ("val", 4), ("test", 6))
    }
    path = make_npz("both.npz", **labels)
    arguments = ["--dataset", str(path), "--store", str(store.root), "--task", "multi-label"]
    assert embed.main(arguments) == 0
    cell = store.read(store.path("both", 28, "hog"))
    source, _ = find_images(cell, [str(path)], None)
    assert source is not None
    voted = replay(evaluate(cell, Protocol((3,)))[0], store)
    right = ((voted.scores > 0.5) == voted.labels).all(axis=1).sum()
    heading = heading_of(drawn(cases_gallery(voted, source, count=1)))
    assert f"{min(1, right)} of the {right} test cases that were right in every label" in heading
    assert "solid blue: has every predicted label, or has none where none is" in heading


def test_a_probe_has_no_neighbours(cell: Cell, store: Store, tmp_path: Path) -> None:
    (record,) = probe(cell, Probing(LogisticProtocol(cs=(1.0,))), store.root)
    with pytest.raises(EvaluationError, match="a probe record has no neighbours that voted"):
        cases_gallery(replay(record, store), source_of(cell, tmp_path))


def test_a_shelf_of_cells(cell: Cell, store: Store, tmp_path: Path) -> None:
    erase(store, cell.path, {Split.TEST: [0, 3]})
    cell = store.read(cell.path)
    found = Shelf.of([cell], [str(tmp_path / "stripes.npz")], None)
    assert found.erased == {0, 3}
    assert found.dataset == cell.dataset
    assert found.sources[28] is not None
    assert found.sources[28].size == 28
    assert [row for row, _ in found.examples(3)] == [
        next(
            row for row in range(15)
            if row not in (0, 3) and cell.labels(Split.TEST)[row, 0] == label
        )
        for label in range(3)
    ]  # fmt: skip
    assert Shelf.of([cell], [], None).sources == {28: None}
