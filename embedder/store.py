"""The embedding store: one HDF5 file per cell, ``<root>/<dataset>/<size>/<variant>.h5``.

The format is specified in docs/store-format.md; ``embedder.writer`` makes the files.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import numpy as np

from embedder.datasets import Dataset
from embedder.errors import DamagedCellError, StoreError, StoreFullError
from embedder.fingerprint import Fingerprint
from embedder.types import Labels, Rows, Split, Task, Vectors

FORMAT = "casebook-cell"
SCHEMA = 1
SCHEMA_ERASED = 2
"""Of a cell from which rows were erased."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Header:
    """What a cell says of itself, beside its arrays."""

    dataset: Dataset
    variant: str
    fingerprint: Fingerprint
    versions: dict[str, str]

    def attributes(self, schema: int = SCHEMA) -> dict[str, str | int]:
        return {
            "format": FORMAT,
            "schema": schema,
            "variant": self.variant,
            "dataset": json.dumps(asdict(self.dataset), sort_keys=True),
            "fingerprint": self.fingerprint.to_json(),
            "versions": json.dumps(self.versions, sort_keys=True),
        }


@dataclass(frozen=True)
class Extent:
    """Where the embeddings of one split lie in the file: contiguous, row after row."""

    offset: int
    rows: int
    width: int
    dtype: np.dtype[np.generic]

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    @property
    def end(self) -> int:
        return self.offset + self.rows * self.row_bytes


def _none_erased() -> dict[Split, Rows]:
    return {split: np.empty(0, np.int64) for split in Split}


@dataclass(frozen=True)
class Cell:
    """One readable cell; arrays are mapped when asked for.

    ``erased`` holds the numbers of the rows that are gone, int64 (E,), ascending. Their embeddings
    and labels are zeros.
    """

    path: Path
    header: Header
    extents: dict[Split, Extent]
    erased: dict[Split, Rows] = field(default_factory=_none_erased, compare=False)

    @property
    def dataset(self) -> Dataset:
        return self.header.dataset

    @property
    def size(self) -> int:
        return self.header.fingerprint.size

    def embeddings(self, split: Split) -> Vectors:
        """float32 (or float16 where stored so) (N, D), mapped read-only."""
        extent = self.extents[split]
        return np.memmap(self.path, extent.dtype, "r", extent.offset, (extent.rows, extent.width))

    def labels(self, split: Split) -> Labels:
        """uint8 (N, 1) or (N, L). Raises DamagedCellError where one names no class."""
        with _reading(self.path) as file:
            labels: Labels = file[f"{split}/labels"][:]
            multilabel = self.dataset.task is Task.MULTILABEL
            if labels.max(initial=0) > (1 if multilabel else len(self.dataset.classes) - 1):
                raise DamagedCellError(f"{split}/labels holds {labels.max()}, which is no class")
        return labels

    def live(self, split: Split) -> Rows:
        """The rows that are not erased, int64, ascending."""
        rows = np.arange(self.extents[split].rows, dtype=np.int64)
        return np.delete(rows, self.erased[split])


class Store:
    """The cells below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, dataset: str, size: int, variant: str) -> Path:
        return self.root / dataset / str(size) / f"{variant}.h5"

    def paths(self) -> Iterator[Path]:
        """Complete cells, in order of dataset, size and variant."""
        yield from sorted(self._glob("*.h5"), key=_order)

    def partial_paths(self) -> Iterator[Path]:
        """Cells that were begun and not finished."""
        yield from sorted(self._glob("*.h5.partial"), key=_order)

    def read(self, path: Path) -> Cell:
        """The cell at ``path``, which must be where a cell of its name belongs.

        Raises DamagedCellError as ``read_cell`` does, or where the file was moved or renamed.
        """
        cell = read_cell(path)
        place = self.path(cell.dataset.name, cell.size, cell.header.variant)
        if path not in (place, place.with_name(f"{place.name}.partial")):
            raise DamagedCellError(f"{path} belongs at {place}; move it there, or delete it")
        return cell

    def _glob(self, pattern: str) -> list[Path]:
        with store_errors(self.root):
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(f"{self.root} is no folder; check --store")
            found = self.root.glob(f"*/*/{pattern}")
            return [path for path in found if re.fullmatch("[0-9]+", path.parent.name)]


def default_root() -> Path:
    """``CASEBOOK_STORE``, else ``./store``."""
    return Path(os.environ.get("CASEBOOK_STORE") or "store").expanduser()


@contextmanager
def store_errors(path: Path, option: str = "--store") -> Iterator[None]:
    """Say in words what the file system says by number."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL or "No space left" in reason:
            raise StoreFullError(
                f"no room to write {path}: {reason}; free some space and run again to go on"
            ) from error
        raise StoreError(f"cannot use {path}: {reason}; check {option}") from error


def read_cell(path: Path) -> Cell:
    """Open and check a cell, complete or partial.

    Raises DamagedCellError where the file does not follow docs/store-format.md, was written by
    a newer schema, or is shorter than its arrays.
    """
    with _reading(path) as file:
        header = _read_header(file)
        extents = {split: _read_extent(file, split) for split in Split}
        _check_extents(header, extents)
        size = path.stat().st_size
        if size < max(extent.end for extent in extents.values()):
            raise DamagedCellError(f"it is truncated to {size:,} bytes")
        erased = {split: _read_erased(file, split, extents[split].rows) for split in Split}
    return Cell(path, header, extents, erased)


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """The open file; whatever is wrong with it becomes a StoreError that names it."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError as error:
        raise StoreError(f"no cell at {path}; embed it first") from error
    except PermissionError as error:
        raise StoreError(f"cannot read {path}; check its permissions") from error
    except DamagedCellError as error:
        raise DamagedCellError(f"{path}: {error}; delete it and embed again") from error
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DamagedCellError(
            f"{path} does not follow the cell format ({reason}); delete it and embed again"
        ) from error


def _read_header(file: h5py.File) -> Header:
    if file.attrs.get("format") != FORMAT:
        raise DamagedCellError("it is no casebook cell")
    schema = int(file.attrs["schema"])
    if schema not in (SCHEMA, SCHEMA_ERASED):
        age = "a newer" if schema > SCHEMA_ERASED else "an older"
        raise DamagedCellError(
            f"it has schema {schema}, of {age} casebook; this one reads schemas {SCHEMA} and "
            f"{SCHEMA_ERASED}"
        )
    facts = json.loads(file.attrs["dataset"])
    train, val, test = map(int, facts["counts"])
    dataset = Dataset(
        str(facts["name"]), Task(facts["task"]), int(facts["channels"]), (train, val, test),
        tuple(map(str, facts["classes"])), str(facts["licence"]),
    )  # fmt: skip
    fingerprint = Fingerprint.from_json(file.attrs["fingerprint"])
    versions = json.loads(file.attrs["versions"])
    return Header(dataset, str(file.attrs["variant"]), fingerprint, versions)


def _read_extent(file: h5py.File, split: Split) -> Extent:
    embeddings, labels = file[f"{split}/embeddings"], file[f"{split}/labels"]
    offset = embeddings.id.get_offset()
    if offset is None or embeddings.dtype not in (np.float32, np.float16):
        raise DamagedCellError(f"{split}/embeddings is not contiguous float32 or float16")
    rows, width = embeddings.shape
    if labels.ndim != 2 or labels.shape[0] != rows or labels.dtype != np.uint8:
        raise DamagedCellError(f"{split}/labels does not fit {split}/embeddings")
    return Extent(offset, rows, width, embeddings.dtype)


def _read_erased(file: h5py.File, split: Split, count: int) -> Rows:
    """The erased ones among ``count`` rows."""
    group, name = file[str(split)], f"{split}/erased"
    if "erased" not in group:
        return np.empty(0, np.int64)
    if int(file.attrs["schema"]) == SCHEMA:
        raise DamagedCellError(f"it has {name}, which schema {SCHEMA} has not")
    listed = group["erased"]
    if listed.dtype != np.int64 or listed.ndim != 1 or len(listed) > count:
        raise DamagedCellError(f"{name} is no int64 list of rows of {split}")
    rows: Rows = listed[:]
    if (rows[1:] <= rows[:-1]).any() or ((rows < 0) | (rows >= count)).any():
        raise DamagedCellError(f"{name} does not hold ascending rows below {count}")
    return rows


def _check_extents(header: Header, extents: dict[Split, Extent]) -> None:
    fingerprint = header.fingerprint
    for split, extent in extents.items():
        asked = (header.dataset.count(split), fingerprint.width, fingerprint.storage)
        if (extent.rows, extent.width, str(extent.dtype)) != asked:
            raise DamagedCellError(
                f"{split}/embeddings is {extent.rows} x {extent.width} {extent.dtype}, its header "
                f"says {asked[0]} x {asked[1]} {asked[2]}"
            )


def _order(path: Path) -> tuple[str, int, str]:
    return path.parts[-3], int(path.parts[-2]), path.stem
