from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedder.encode import Encoder
from embedder.errors import DatasetError, EncodingError, StoreFullError
from embedder.npz import NpzSource
from embedder.store import Header, read_cell
from embedder.types import Pixels, Split, Vectors
from embedder.writer import CellWriter
from tests.conftest import FakeBackbone, NpzMaker
from tests.embedder.cells import header

COUNTS = (50, 9, 20)


@pytest.fixture
def source(make_npz: NpzMaker) -> NpzSource:
    return NpzSource(make_npz(counts=COUNTS))


@pytest.fixture
def writer(source: NpzSource, tmp_path: Path) -> CellWriter:
    return new_writer(source, tmp_path / "cell.h5")


def new_writer(source: NpzSource, path: Path) -> CellWriter:
    plain = header(width=FakeBackbone.width)
    described = Header(source.dataset, "fake", plain.fingerprint, {})
    return CellWriter(path, described, {split: source.labels(split) for split in Split})


def run(encoder: Encoder, source: NpzSource, writer: CellWriter) -> list[int]:
    with writer:
        return list(encoder.encode(source, writer))


def expected(source: NpzSource, split: Split) -> Vectors:
    return FakeBackbone().embed(next(source.batches(split, 1000)))


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_every_image_is_embedded_once_in_row_order(
    source: NpzSource, writer: CellWriter, batch_size: int
) -> None:
    counts = run(Encoder(FakeBackbone(), batch_size), source, writer)
    assert sum(counts) == sum(COUNTS)
    assert max(counts) == min(batch_size, 50)
    cell = read_cell(writer.path)
    for split in Split:
        np.testing.assert_array_equal(cell.embeddings(split), expected(source, split))


class Recorder(FakeBackbone):
    """Remembers the batches it was given."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, pixels: Pixels) -> Vectors:
        self.batches.append(len(pixels))
        return super().embed(pixels)


class Small(Recorder):
    """Runs out of memory above a batch of six."""

    def embed(self, pixels: Pixels) -> Vectors:
        if len(pixels) > 6:
            raise MemoryError
        return super().embed(pixels)


def test_out_of_memory_halves_the_batch_and_goes_on(
    source: NpzSource, writer: CellWriter, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = Small()
    run(Encoder(backbone, 16), source, writer)
    np.testing.assert_array_equal(
        read_cell(writer.path).embeddings(Split.TRAIN), expected(source, Split.TRAIN)
    )
    assert max(backbone.batches) == 4
    assert [r.message.split()[-1] for r in caplog.records] == ["8", "4"]


class Hungry(FakeBackbone):
    def embed(self, pixels: Pixels) -> Vectors:
        raise MemoryError


def test_out_of_memory_with_one_image_is_an_error(source: NpzSource, writer: CellWriter) -> None:
    with pytest.raises(EncodingError, match="out of memory with a single image"):
        run(Encoder(Hungry(), 4), source, writer)


class Broken(Recorder):
    """Gives a value that is not finite for row 23 of train."""

    def embed(self, pixels: Pixels) -> Vectors:
        vectors = super().embed(pixels)
        first = sum(self.batches[:-1])
        if first <= 23 < first + len(vectors):
            vectors[23 - first, 1] = np.nan
        return vectors


def test_a_value_that_is_not_finite_names_the_row_and_keeps_those_before(
    source: NpzSource, writer: CellWriter
) -> None:
    with pytest.raises(EncodingError, match="tiny/train/23 by fake is not finite"):
        run(Encoder(Broken(), 10), source, writer)
    with new_writer(source, writer.path) as again:
        assert again.done[Split.TRAIN] == 20


class Stopping(Recorder):
    """Fails as a full disk would, for good, after three batches."""

    def embed(self, pixels: Pixels) -> Vectors:
        if len(self.batches) == 3:
            raise StoreFullError("stop")
        return super().embed(pixels)


def test_what_was_interrupted_goes_on_with_the_same_bytes(
    source: NpzSource, writer: CellWriter, tmp_path: Path
) -> None:
    with pytest.raises(StoreFullError):
        run(Encoder(Stopping(), 8), source, writer)
    recorder = Recorder()
    run(Encoder(recorder, 8), source, new_writer(source, writer.path))
    assert sum(recorder.batches) == sum(COUNTS) - 24
    run(Encoder(FakeBackbone(), 8), source, new_writer(source, tmp_path / "whole.h5"))
    assert writer.path.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_leaving_midway_keeps_what_was_done_and_stops_the_threads(
    source: NpzSource, writer: CellWriter
) -> None:
    before = threading.active_count()
    with writer:
        steps = Encoder(FakeBackbone(), 5).encode(source, writer)
        next(steps)
        next(steps)
        steps.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    with new_writer(source, writer.path) as again:
        assert again.done[Split.TRAIN] >= 5


class Unreadable:
    """A source whose train split breaks off after one batch."""

    def __init__(self, source: NpzSource) -> None:
        self._source = source
        self.dataset, self.size, self.checksum = source.dataset, source.size, source.checksum
        self.labels, self.pick = source.labels, source.pick

    def batches(self, split: Split, batch_size: int, start: int = 0) -> Iterator[Pixels]:
        yield next(self._source.batches(split, batch_size, start))
        raise DatasetError("it breaks off here")


def test_an_error_while_reading_is_raised_where_it_is_met(
    source: NpzSource, writer: CellWriter
) -> None:
    with pytest.raises(DatasetError, match="breaks off"), writer:
        list(Encoder(FakeBackbone(), 5).encode(Unreadable(source), writer))


def test_no_row_of_a_damaged_array_survives_its_repair(make_npz: NpzMaker, tmp_path: Path) -> None:
    path = make_npz(counts=COUNTS, compressed=False)
    whole = path.read_bytes()
    pixel = whole.index(NpzSource(path).pick(Split.TRAIN, [0]).tobytes())
    path.write_bytes(whole[:pixel] + bytes([whole[pixel] ^ 255]) + whole[pixel + 1 :])
    source = NpzSource(path)
    with pytest.raises(DatasetError, match="truncated or damaged"):
        run(Encoder(FakeBackbone(), 5), source, new_writer(source, tmp_path / "cell.h5"))
    path.write_bytes(whole)
    source = NpzSource(path)
    writer = new_writer(source, tmp_path / "cell.h5")
    run(Encoder(FakeBackbone(), 5), source, writer)
    for split in Split:
        np.testing.assert_array_equal(
            read_cell(writer.path).embeddings(split), expected(source, split)
        )


def test_too_few_images_do_not_make_a_cell(source: NpzSource, writer: CellWriter) -> None:
    class Short(Unreadable):
        def batches(self, split: Split, batch_size: int, start: int = 0) -> Iterator[Pixels]:
            yield next(self._source.batches(split, batch_size, start))

    with pytest.raises(EncodingError, match="train ended after 5 images"), writer:
        list(Encoder(FakeBackbone(), 5).encode(Short(source), writer))
    assert not writer.path.exists()
