"""Images to embeddings: reading, device work and writing overlap, one split after another."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from embedder.backbones import Backbone
from embedder.datasets import ImageSource
from embedder.errors import DamagedDatasetError, EncodingError
from embedder.prefetch import Prefetch
from embedder.types import Pixels, Split, Vectors
from embedder.writer import CellWriter

log = logging.getLogger("casebook")

BATCH = {"cpu": 64, "cuda": 256}
"""What ``--batch-size auto`` begins with."""

_AHEAD = 2
"""Batches that are read ahead of the device, and written behind it."""


class Encoder:
    """Runs one backbone; remembers across cells the batch size that fitted the memory."""

    def __init__(self, backbone: Backbone, batch_size: int, flush_seconds: float = 2.0) -> None:
        self._backbone = backbone
        self._read_size = batch_size
        self._limit = batch_size
        self._flush_seconds = flush_seconds

    def encode(self, source: ImageSource, writer: CellWriter) -> Iterator[int]:
        """Embed every row that ``writer`` does not have yet and finish its cell.

        Yields the number of images after each batch. Raises EncodingError where one image alone
        does not fit the memory.
        """
        for split in Split:
            try:
                yield from self._encode_split(source, writer, split)
            except DamagedDatasetError:
                # A checksum can fail at the end of an array only: none of its rows can be trusted.
                writer.forget(split)
                raise
        writer.finish()

    def _encode_split(self, source: ImageSource, writer: CellWriter, split: Split) -> Iterator[int]:
        row = writer.done[split]
        images = source.batches(split, self._read_size, row)
        with (
            _Behind(writer, self._flush_seconds) as sink,
            Prefetch(images, _AHEAD) as batches,
        ):
            for pixels in batches:
                sink.put(split, row, self._embed(pixels))
                row += len(pixels)
                yield len(pixels)

    def _embed(self, pixels: Pixels) -> Vectors:
        parts: list[Vectors] = []
        first = 0
        while first < len(pixels):
            try:
                parts.append(self._backbone.embed(pixels[first : first + self._limit]))
            except MemoryError as error:
                self._halve(error)
                continue
            first += self._limit
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _halve(self, error: MemoryError) -> None:
        if self._limit == 1:
            raise EncodingError(
                "out of memory with a single image; free some, or use --device cpu"
            ) from error
        self._limit = max(1, self._limit // 2)
        log.warning("out of memory; going on with batches of %d", self._limit)


class _Behind:
    """Writes in a thread of its own, a few batches behind, and flushes every few seconds."""

    def __init__(self, writer: CellWriter, flush_seconds: float) -> None:
        self._writer = writer
        self._flush_seconds = flush_seconds
        self._flushed = time.monotonic()
        self._pool = ThreadPoolExecutor(1, "casebook-writer")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> _Behind:
        return self

    def put(self, split: Split, first: int, vectors: Vectors) -> None:
        self._pending.append(self._pool.submit(self._write, split, first, vectors))
        while len(self._pending) > _AHEAD:
            self._pending.popleft().result()

    def _write(self, split: Split, first: int, vectors: Vectors) -> None:
        self._writer.append(split, first, vectors)
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self._writer.flush()
            self._flushed = time.monotonic()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(wait=True)  # whatever hinders the next batch, these were embedded
        if kind is None:
            for pending in self._pending:
                pending.result()
