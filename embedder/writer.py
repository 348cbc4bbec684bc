"""Writing a cell so that a kill at any moment loses at most the rows since the last flush.

The HDF5 structure, labels and attributes are written first and closed; embeddings then go straight
to their place in ``<variant>.h5.partial``, past the HDF5 library, so that no metadata can be left
half written. How many rows of each split are safe is kept in ``<variant>.h5.progress``, replaced
atomically after the rows are on disk. A finished cell takes its final name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock, Timeout

from embedder.datasets import Dataset
from embedder.errors import (
    CellBusyError,
    EncodingError,
    FingerprintError,
)
from embedder.files import sync_folder
from embedder.fingerprint import Fingerprint
from embedder.image import lay_out
from embedder.store import Cell, Header, read_cell, store_errors
from embedder.types import Labels, Split, Vectors, case_id

log = logging.getLogger("casebook")


class CellWriter:
    """The only writer of one cell, new or resumed; a context manager.

    ``stamp`` tells one state of the dataset's file from another: where it differs from that of an
    interrupted run, a split that was not finished, and so never compared with its checksum, is
    begun anew. Raises CellBusyError while another process writes the cell, FingerprintError where
    what is there was made in another way, StoreFullError and StoreError as the disk demands.
    """

    def __init__(
        self, path: Path, header: Header, labels: dict[Split, Labels], stamp: str = ""
    ) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self._progress = path.with_name(f"{path.name}.progress")
        self._header = header
        self._labels = labels
        self._stamp = stamp
        self._lock = FileLock(f"{path}.lock", timeout=0)
        self._file = -1
        self.complete = False
        self.done = dict.fromkeys(Split, 0)

    def __enter__(self) -> CellWriter:
        with store_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout as error:
                raise CellBusyError(
                    f"another process is writing {self.path}; let it end, then run again"
                ) from error
            try:
                self._open()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._file >= 0:
                self.flush()
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._lock.release()

    def append(self, split: Split, first: int, vectors: Vectors) -> None:
        """Write the rows of ``split`` from ``first`` on, float32 (B, D); safe after ``flush``.

        Rows come in order, so ``first`` is the number of rows written before. Raises EncodingError
        where it is not, or naming the row of a value that is not finite.
        """
        extent = self._cell.extents[split]
        if first != self.done[split]:
            raise EncodingError(f"row {first} of {split} came where {self.done[split]} is next")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(vectors, extent.dtype)
        if stored.ndim != 2 or stored.shape[1] != extent.width:
            raise EncodingError(
                f"{self._header.variant} gave embeddings of shape {stored.shape}; expected width "
                f"{extent.width}"
            )
        wrong = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if len(wrong):
            row = case_id(self._header.dataset.name, split, first + int(wrong[0]))
            raise EncodingError(
                f"the embedding of {row} by {self._header.variant} is not finite in "
                f"{extent.dtype}; try --precision fp32 and --storage float32, or other weights"
            )
        if first + len(stored) > extent.rows:
            raise EncodingError(f"{split} has {extent.rows} rows, and more images came")
        with store_errors(self.path):
            _write_all(
                self._file,
                stored.reshape(-1).view(np.uint8).data,
                extent.offset + first * extent.row_bytes,
            )
        self.done[split] = first + len(stored)

    def flush(self) -> None:
        """Put what was appended on disk, then say so in the progress file."""
        with store_errors(self.path):
            os.fsync(self._file)
            progress = {**{str(s): n for s, n in self.done.items()}, "stamp": self._stamp}
            _replace(self._progress, json.dumps(progress))

    def forget(self, split: Split) -> None:
        """Begin ``split`` anew, also for whoever resumes."""
        self.done[split] = 0
        self.flush()

    def finish(self) -> None:
        """Give the cell its final name; every row must have been appended."""
        missing = [s for s in Split if self.done[s] != self._cell.extents[s].rows]
        if missing:
            raise EncodingError(f"{missing[0]} ended after {self.done[missing[0]]} images")
        with store_errors(self.path):
            self.flush()
            os.close(self._file)
            self._file = -1
            os.replace(self.partial, self.path)
            self.complete = True
            sync_folder(self.path.parent)
            self._progress.unlink(missing_ok=True)
            # Whoever still waits with the old lock finds the cell complete.
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def _open(self) -> None:
        if self.path.exists():
            self._cell = read_cell(self.path)
            refuse_other(self._cell, self._header.fingerprint, self._header.dataset)
            self.complete = True
            self.done = {split: extent.rows for split, extent in self._cell.extents.items()}
            return
        if self.partial.exists():
            self._cell = read_cell(self.partial)
            refuse_other(self._cell, self._header.fingerprint, self._header.dataset)
            warn_of_versions(self._cell, self._header.versions)
            self.done = _read_progress(self._progress, self._cell, self._stamp)
        else:
            self._progress.unlink(missing_ok=True)
            self._create()
            self._cell = read_cell(self.partial)
        self._file = os.open(self.partial, os.O_RDWR)

    def _create(self) -> None:
        """Write the whole structure, with room for every row, before the partial file exists."""
        new = self.path.with_name(f"{self.path.name}.new")
        lay_out(self._header, self._labels).save(new)
        os.replace(new, self.partial)


def rows_done(partial: Path) -> int:
    """How many rows of a partial cell, of all splits together, are safe."""
    progress = partial.with_name(partial.name.removesuffix(".partial") + ".progress")
    return sum(_read_progress(progress, read_cell(partial), None).values())


def refuse_other(cell: Cell, asked: Fingerprint, dataset: Dataset) -> None:
    """Raise FingerprintError where ``cell`` was made in another way, or of another dataset."""
    differences = cell.header.fingerprint.differences(asked)
    if cell.dataset.task is not dataset.task:
        differences.append(f"task is {cell.dataset.task}, asked is {dataset.task}")
    if cell.dataset.classes != dataset.classes:
        theirs, ours = ", ".join(cell.dataset.classes), ", ".join(dataset.classes)
        differences.append(f"classes are {theirs}, asked are {ours}")
    if differences:
        raise FingerprintError(
            f"{cell.path} was made in another way: {'; '.join(differences)}. "
            "Delete it to embed anew, or use another --store"
        )


def warn_of_versions(cell: Cell, versions: dict[str, str]) -> None:
    theirs = cell.header.versions
    changed = [
        f"{name} {theirs[name]}, now {versions[name]}"
        for name in sorted(theirs.keys() & versions.keys())
        if theirs[name] != versions[name]
    ]
    if changed:
        log.warning("%s was begun with %s", cell.path, "; ".join(changed))


def _read_progress(path: Path, cell: Cell, stamp: str | None) -> dict[Split, int]:
    """Rows of each split that are safe; none where that is not known.

    With another ``stamp`` only whole splits are; None stands for any.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        progress = json.loads(path.read_text())
        done = {split: int(progress[split]) for split in Split}
        if all(0 <= done[split] <= cell.extents[split].rows for split in Split):
            trusted = stamp is None or progress["stamp"] == stamp
            whole = {s: n for s, n in done.items() if trusted or n == cell.extents[s].rows}
            return {**dict.fromkeys(Split, 0), **whole}
    return dict.fromkeys(Split, 0)


def _write_all(file: int, block: memoryview, offset: int) -> None:
    while len(block):
        written = os.pwrite(file, block, offset)
        block, offset = block[written:], offset + written


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(new, path)
