"""Erasing cases from a finished cell: their rows keep their places, and their bytes go.

A whole new file is written beside the old one and takes its place in one step, so that a kill at
any moment leaves one of the two.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from embedder.errors import CellBusyError, DamagedCellError, StoreError
from embedder.files import sync_folder
from embedder.image import lay_out
from embedder.store import Cell, Extent, Store, read_cell, store_errors
from embedder.types import Rows, Split

_BLOCK = 4 << 20
"""Bytes copied at a time."""


def erase(store: Store, path: Path, rows: Mapping[Split, Iterable[int]]) -> int:
    """Make these rows of the cell at ``path`` zeros and list them; how many were not so before.

    Everything else stays as it is; where all are erased already, the file is not touched. What
    still maps the old file goes on to read it. Raises StoreError for a row that is not there or a
    cell that is not finished, CellBusyError while another process writes the cell, StoreFullError
    where there is no room for a second file; the old one is then whole.
    """
    store.read(path)  # what is no cell gets no lock either
    with store_errors(path), _locked(path):
        cell = store.read(path)
        if path.suffix == ".partial":
            raise StoreError(f"{path} is not finished; finish it with embed, then erase")
        erased = {split: _joined(cell, split, rows.get(split, ())) for split in Split}
        count = sum(len(erased[split]) - len(cell.erased[split]) for split in Split)
        if count:
            _rewrite(cell, erased)
    return count


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that whoever writes the cell at ``path`` holds."""
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise CellBusyError(
            f"another process is writing {path}; let it end, then run again"
        ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _joined(cell: Cell, split: Split, rows: Iterable[int]) -> Rows:
    """The rows that are or will be erased, ascending."""
    wanted, count = list(rows), cell.extents[split].rows
    for row in wanted:
        if not 0 <= row < count:
            raise StoreError(
                f"{cell.path} has no row {row} of {split}, only {count} from 0 on; "
                "nothing was erased"
            )
    return np.union1d(cell.erased[split], np.array(wanted, np.int64))


def _rewrite(cell: Cell, erased: dict[Split, Rows]) -> None:
    """Put a file without these rows in the place of the cell's."""
    old = cell.path.resolve()  # of a link, the file itself has to go
    new = old.with_name(f"{old.name}.new")
    labels = {split: cell.labels(split) for split in Split}
    for split, rows in erased.items():
        labels[split][rows] = 0
    try:
        lay_out(cell.header, labels, erased).save(new)
        shutil.copymode(old, new)
        _copy_embeddings(cell, read_cell(new), erased)
        os.replace(new, old)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(old.parent)


def _copy_embeddings(old: Cell, new: Cell, erased: dict[Split, Rows]) -> None:
    with old.path.open("rb") as source, new.path.open("r+b") as target:
        for split in Split:
            source.seek(old.extents[split].offset)
            target.seek(new.extents[split].offset)
            _copy_rows(source, target, old.extents[split], erased[split])
        target.flush()
        os.fsync(target.fileno())


def _copy_rows(source: BinaryIO, target: BinaryIO, extent: Extent, erased: Rows) -> None:
    """Copy the rows of one split from where the files stand, the erased ones as zeros."""
    step = max(1, _BLOCK // extent.row_bytes)
    for first in range(0, extent.rows, step):
        count = min(step, extent.rows - first)
        block = bytearray(source.read(count * extent.row_bytes))
        if len(block) != count * extent.row_bytes:
            raise DamagedCellError("a cell became shorter while it was copied; embed it again")
        rows = np.frombuffer(block, np.uint8).reshape(count, extent.row_bytes)
        here = erased[(erased >= first) & (erased < first + count)]
        rows[here - first] = 0
        target.write(block)
