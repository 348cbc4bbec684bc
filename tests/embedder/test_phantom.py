"""The built-in datasets: what they hold, and that a row is one picture whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from skimage.feature import hog

from embedder.datasets import PHANTOM, Dataset, ImageSource
from embedder.errors import DatasetError
from embedder.phantom import PhantomSource
from embedder.types import Pixels, Split, Task

CELLS = next(row for row in PHANTOM if row.name == "phantom-cells")

every_dataset = pytest.mark.parametrize("dataset", PHANTOM, ids=lambda row: row.name)


@every_dataset
@pytest.mark.parametrize("size", [28, 64])
def test_batches_are_bytes_of_the_promised_shape(dataset: Dataset, size: int) -> None:
    source: ImageSource = PhantomSource(dataset, size)
    start = dataset.count(Split.VAL) - 5
    batches = list(source.batches(Split.VAL, 3, start))
    assert (source.dataset, source.size) == (dataset, size)
    assert [batch.dtype for batch in batches] == [np.uint8, np.uint8]
    assert [batch.shape for batch in batches] == [
        (3, size, size, dataset.channels),
        (2, size, size, dataset.channels),
    ]


@every_dataset
def test_labels_are_unbalanced_and_complete_in_every_split(dataset: Dataset) -> None:
    source = PhantomSource(dataset, 28)
    several = dataset.task is Task.MULTILABEL
    for split in Split:
        labels = source.labels(split)
        width = len(dataset.classes) if several else 1
        assert labels.shape == (dataset.count(split), width)
        assert labels.dtype == np.uint8
        often = labels.sum(axis=0) if several else np.bincount(labels[:, 0])
        assert len(often) == len(dataset.classes)
        assert often.min() >= 0.05 * len(labels)
        assert often.max() >= 1.15 * often.min() or split is not Split.TRAIN
        assert not several or (labels.sum(axis=1) == 0).any()


@every_dataset
def test_a_row_does_not_depend_on_its_batch_or_on_the_source(dataset: Dataset) -> None:
    source = PhantomSource(dataset, 28)
    first = next(source.batches(Split.TEST, 9))
    assert np.array_equal(first, PhantomSource(dataset, 28).pick(Split.TEST, range(9)))
    assert np.array_equal(first[[7, 0, 7]], source.pick(Split.TEST, [7, 0, 7]))
    assert np.array_equal(first[4:8], next(source.batches(Split.TEST, 4, start=4)))


@every_dataset
def test_image_is_a_pick_of_one(dataset: Dataset) -> None:
    source: ImageSource = PhantomSource(dataset, 28)
    for row in (399, 5):
        assert np.array_equal(source.image(Split.TEST, row), source.pick(Split.TEST, [row])[0])
    for row in (-1, 400):
        with pytest.raises(DatasetError, match=f"no row {row} of test; its rows are 0 to 399"):
            source.image(Split.TEST, row)


@every_dataset
def test_splits_rows_and_seeds_all_differ(dataset: Dataset) -> None:
    source, other = PhantomSource(dataset, 28), PhantomSource(dataset, 28, seed=1)
    images = [source.pick(split, [0, 1]) for split in Split] + [other.pick(Split.TRAIN, [0, 1])]
    assert len({image.tobytes() for batch in images for image in batch}) == 8
    assert not np.array_equal(source.labels(Split.TRAIN), other.labels(Split.TRAIN))


def test_the_checksum_names_the_content_and_not_the_size() -> None:
    sums = [PhantomSource(row, 28, seed).checksum for row in PHANTOM for seed in (0, 1)]
    assert len(set(sums)) == 8
    assert PhantomSource(CELLS, 64).checksum == PhantomSource(CELLS, 28).checksum
    assert PhantomSource(CELLS, 28).checksum == "phantom-1:seed0:phantom-cells"


@every_dataset
@pytest.mark.parametrize("size", [28, 64, 128])
def test_a_row_is_the_same_picture_at_every_size(dataset: Dataset, size: int) -> None:
    rows = range(4)
    large = PhantomSource(dataset, 224).pick(Split.TRAIN, rows).astype(float)
    small = PhantomSource(dataset, size).pick(Split.TRAIN, rows).astype(float)
    repeats = size // np.gcd(size, 224)
    for axis in (1, 2):
        fine = np.moveaxis(large.repeat(repeats, axis), axis, -1)
        pixels = fine.reshape(*fine.shape[:-1], size, -1).mean(axis=-1)
        large = np.moveaxis(pixels, -1, axis)
    assert np.abs(large - small).max() <= 1.0001


@every_dataset
def test_no_image_is_constant(dataset: Dataset) -> None:
    images = PhantomSource(dataset, 28).pick(Split.TRAIN, range(60)).astype(float)
    assert images.std(axis=(1, 2, 3)).min() > 5


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("phantom-nodule", [55.9, 61.6, 39.7]),
        ("phantom-cells", [212.0, 232.5, 217.1]),
        ("phantom-grade", [65.9, 66.6, 69.3]),
        ("phantom-findings", [145.6, 126.6, 117.8]),
    ],
)
def test_the_pictures_are_those_of_version_1(name: str, means: list[float]) -> None:
    dataset = next(row for row in PHANTOM if row.name == name)
    images = PhantomSource(dataset, 28).pick(Split.TRAIN, range(3))
    assert images.mean(axis=(1, 2, 3)) == pytest.approx(means, abs=0.3)


def test_rows_outside_the_split_are_refused() -> None:
    source = PhantomSource(CELLS, 28)
    with pytest.raises(IndexError):
        source.pick(Split.VAL, [CELLS.count(Split.VAL)])
    assert np.array_equal(source.pick(Split.VAL, [-1]), source.pick(Split.VAL, [199]))
    assert source.pick(Split.VAL, []).shape == (0, 28, 28, 3)
    assert list(source.batches(Split.VAL, 8, start=200)) == []


@pytest.mark.parametrize("size", [0, 27, 32, 256])
def test_a_size_that_does_not_exist_is_refused_in_one_line(size: int) -> None:
    with pytest.raises(DatasetError, match=r"^phantom-cells has no size .*28, 64, 128, 224.*$"):
        PhantomSource(CELLS, size)


def _hog(images: Pixels) -> np.ndarray:
    rows = [hog(image, 9, (4, 4), (2, 2), channel_axis=-1) for image in images]
    return np.array([row / np.linalg.norm(row) for row in rows])


def _centred(images: Pixels) -> np.ndarray:
    rows = images.reshape(len(images), -1) - 128.0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_neighbours_by_gradient_know_the_cells_better_than_the_commonest_class() -> None:
    source = PhantomSource(CELLS, 28)
    known, asked = (source.labels(split)[:, 0] for split in (Split.TRAIN, Split.TEST))
    train, test = source.pick(Split.TRAIN, range(400)), source.pick(Split.TEST, range(150))

    def accuracy(describe: Callable[[Pixels], np.ndarray]) -> float:
        nearest = np.argsort(-describe(test) @ describe(train).T, axis=1)[:, :11]
        votes = np.array([np.bincount(row, minlength=6).argmax() for row in known[nearest]])
        return float((votes == asked[:150]).mean())

    assert np.bincount(asked[:150]).max() / 150 < 0.3
    right, plain = accuracy(_hog), accuracy(_centred)
    assert 0.45 < right < 0.95
    assert abs(right - plain) > 0.03, "backbones have to differ"
